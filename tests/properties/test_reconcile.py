"""Records: put together from any totals, counts and journal; they reconcile if, and only if, nothing is missing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventwagon.contracts.broker import Depth
from eventwagon.contracts.facts import DeliveryPaused, DeliveryResumed, Entry, SwitchRequested, WagonSealed
from eventwagon.contracts.ledger import ChannelCounts, WagonRecord, sound_record
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest, Pause, Wagon
from eventwagon.event import DEAD, Channel
from eventwagon.policy.digest import digest_of, written
from eventwagon.policy.reconcile import Handed, covered, may_still_reconcile, record_of, summary

INGRESS, SHIP, LETTERS = Channel("t", 1), Channel("t", 1, "ship"), Channel("t", 1, DEAD)
WAGON = Wagon(number=1, opened_at=100.0, created_at=101.0, state=State.REMOVING, channels=("ship",), sealed_at=110.0)
_counts = st.integers(0, 1000)


def made(
    depths: dict[Channel, Depth], *, wagon: Wagon = WAGON, manifest: Manifest | None = None, **given: Any
) -> WagonRecord:
    defaults: dict[str, Any] = {"handed": (), "entries": (), "now": 200.0, "by": "p1", "left": 0, "ended": "drained"}
    manifest = manifest or Manifest(train="t", wagons=(wagon,), next_number=2)
    return sound_record(record_of(manifest, wagon, depths=depths, **{**defaults, **given}))


@given(_counts, _counts, _counts, st.integers(-3, 3), st.integers(0, 3), st.integers(0, 3))
def test_it_reconciles_if_nothing_is_missing(first: int, inner: int, lost: int, off: int, left: int, late: int) -> None:
    depths = {
        INGRESS: Depth(published=first + left, settled=first),
        SHIP: Depth(published=inner + off + late, settled=inner, lost=lost, waiting=late, in_flight=0),
        LETTERS: Depth(published=2),
    }
    wagon = msgspec.structs.replace(WAGON, letters_kept=2)
    record = made(depths, left=left, wagon=wagon)
    assert (record.unreconciled == "") == (off == 0)
    assert record.difference == off
    assert [(c.published, c.left) for c in record.channels] == [(first + left, left), (inner + off + late + lost, late)]
    assert record.dead == 2
    assert f"in {first + left:,}, emitted {inner + off + late + lost:,}" in summary(record)
    waiting = {**depths, INGRESS: msgspec.structs.replace(depths[INGRESS], waiting=left, in_flight=0)}
    everything = made(waiting, left=None, ended="failed")  # what waits goes elsewhere
    assert everything.difference == off


def test_what_is_not_known_does_not_reconcile_and_is_waited_for_while_the_channel_stands() -> None:
    record = made({INGRESS: Depth(published=1, settled=1), SHIP: Depth(), LETTERS: Depth()})
    assert record.unreconciled == "ship: the broker did not know its totals"
    assert (record.difference, record.settled, record.dead) == (None, None, None)
    assert may_still_reconcile(record, ())
    assert not may_still_reconcile(record, [SHIP])
    assert "settled ?" in summary(record)
    never = made({INGRESS: Depth(), SHIP: Depth(), LETTERS: Depth()}, wagon=Wagon(number=1, opened_at=1.0))
    assert (never.unreconciled, never.settled, never.dead) == ("", 0, 0)  # nothing could be published to it


@given(st.lists(st.lists(st.text(min_size=1, max_size=4), max_size=6), max_size=5))
def test_counts_of_all_processes_are_put_together(by_process: list[list[str]]) -> None:
    handed = [
        Handed(
            f"p{n}",
            "v1",
            {"": ChannelCounts(wagon=1, opened_at=100.0, channel="", settled=len(ids), digest=written(digest_of(ids)))},
        )
        for n, ids in enumerate(by_process)
    ]
    ids = [each for some in by_process for each in some]
    depths = {INGRESS: Depth(published=len(ids), settled=len(ids)), LETTERS: Depth(published=0)}
    record = made(depths, handed=handed)
    assert record.channels[0].digest == written(digest_of(ids))
    assert record.counted == record.settled == sum(r.settled for r in record.ran)
    assert f"{len(ids)} of " in covered(record)


def test_holds_and_what_was_done_by_hand() -> None:
    def entry(at: float, fact: Any) -> Entry:
        return Entry(at, "p1", fact)

    entries = [
        entry(10.0, DeliveryPaused(train="t", number=None, because="long over", by="eve")),
        entry(20.0, DeliveryResumed(train="t", number=None, because="ok", by="bob", seconds=10.0)),
        entry(90.0, DeliveryPaused(train="t", number=None, because="early", by="eve")),
        entry(120.0, DeliveryPaused(train="t", number=1, because="why\n\x1b[31m", by="ada")),
        entry(125.0, DeliveryPaused(train="t", number=2, because="another", by="ada")),
        entry(130.0, DeliveryResumed(train="t", number=None, because="ok", by="bob", seconds=40.0)),
        entry(135.0, DeliveryResumed(train="t", number=1, because="ok", by="bob", seconds=15.0)),
        entry(140.0, SwitchRequested(train="t", because="release", by="cy")),
        entry(141.0, WagonSealed(train="t", number=1, seconds=1.0)),
    ]
    wagon = Wagon(
        **{f: getattr(WAGON, f) for f in WAGON.__struct_fields__ if f != "paused"}, paused=Pause(why="now", at=150.0)
    )
    record = made({INGRESS: Depth(published=0, settled=0)}, wagon=wagon, entries=entries)
    assert [(h.since, h.until, h.by, h.resumed_by, h.train) for h in record.holds] == [
        (90.0, 130.0, "eve", "bob", True),
        (120.0, 135.0, "ada", "bob", False),
        (150.0, None, "", "", False),
    ]
    assert [(b.at, b.by) for b in record.by_hand] == [(120.0, "ada"), (130.0, "bob"), (135.0, "bob"), (140.0, "cy")]
    assert "\x1b" not in record.holds[1].why
    assert record.journal_from is None
    assert made({}, entries=entries[4:]).journal_from == 125.0


@pytest.mark.parametrize("digest", ["", "no number", "ff" * 100])
def test_strange_counts_hurt_nothing(digest: str) -> None:
    strange = ChannelCounts(wagon=1, opened_at=100.0, channel="", settled=-5, digest=digest)
    record = made({INGRESS: Depth(published=1, settled=1)}, handed=[Handed("p", "", {"": strange})])
    assert len(record.channels[0].digest) == 32


@given(_counts, _counts, _counts, st.integers(-3, 3), st.booleans())
def test_dead_letters_reconcile_unless_some_are_missing(
    kept: int, taken: int, lost: int, off: int, apart: bool
) -> None:
    """Whether the broker counts lost ones apart or not. A retry that was cut off has counted more than were stored."""
    wagon = msgspec.structs.replace(WAGON, letters_kept=kept, letters_taken=taken, letters_lost=lost)
    stored = max(0, kept + taken + lost + off)
    gone = min(lost, stored) if apart else 0
    depths = {INGRESS: Depth(published=1, settled=1), LETTERS: Depth(published=stored - gone, lost=gone)}
    record = made(depths, wagon=wagon)
    missing = stored - kept - taken - lost
    assert ("dead letters: stored" in record.unreconciled) == (missing > 0)
    assert record.difference == 0
    assert not may_still_reconcile(record, ())
    assert made(depths, wagon=wagon, ended="removed with its train").unreconciled == ""
    assert made(depths, wagon=msgspec.structs.replace(wagon, letters_kept=None)).unreconciled == ""
