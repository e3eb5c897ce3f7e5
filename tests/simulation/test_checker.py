"""The checker on histories written by hand: each invariant violated once, by as little as it takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from eventwagon import Elastic
from eventwagon.contracts.facts import (
    Decision,
    Switched,
    WagonDrained,
    WagonOpened,
    WagonReady,
    WagonRemoved,
    WagonSealed,
    WentBack,
    WorkersLost,
)
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest, Pause, Wagon
from eventwagon.event import DEAD, Channel
from tests.simulation import Evidence, Violation, check_evidence, draw, evidence, simulate
from tests.simulation.guests import is_strict, may_fail
from tests.simulation.history import (
    Accepted,
    Attached,
    Begun,
    Committed,
    Crashed,
    Created,
    Deleted,
    Delivered,
    Detached,
    Ended,
    Faulted,
    Handled,
    History,
    Leaked,
    Noted,
    Paused,
    Produced,
    PutOff,
    Record,
    Refused,
    Revised,
    SealedChannel,
    Settled,
    Started,
    Stored,
    TakenAway,
)

ONE, TWO, INNER = Channel("t", 1), Channel("t", 2), Channel("t", 1, "a")
DEAD_ONE, DEAD_KEPT = Channel("t", 1, DEAD), Channel("t", 0, DEAD)
COUNTS: dict[str, Any] = {"published": 1, "settled": 1}


class Tale:
    """A history in the making: a train whose manifest is revised, and what is stored and handled."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.manifest = Manifest(train="t")
        self.version = 0

    def add(self, kind: Callable[..., Record], /, by: str = "p.1", **fields: object) -> Tale:
        self.records.append(kind(seq=len(self.records), at=float(len(self.records)), by=by, **fields))
        return self

    def revise(self, *facts: Decision, **wagons: Wagon | None) -> Tale:
        """A version in which these wagons (`w1=…`) are so; None: gone."""
        standing = {f"w{w.number}": w for w in self.manifest.wagons} | wagons
        left = tuple(w for w in standing.values() if w is not None)
        self.manifest = replace(self.manifest, wagons=left, next_number=9)
        self.version += 1
        return self.add(Revised, version=self.version, manifest=self.manifest, facts=facts)

    def wagon(self, number: int) -> Wagon:
        found = self.manifest.wagon(number)
        assert found is not None
        return found

    def founded(self, *channels: str) -> Tale:
        """wagon 1 is active."""
        first = Wagon(number=1, opened_at=0.0, channels=channels)
        self.revise(WagonOpened(train="t", number=1, because="first"), w1=first)
        active = replace(first, state=State.ACTIVE, created_at=0.0)
        return self.revise(Switched(train="t", old=None, new=1, pressure=0.0, because="first"), w1=active)

    def switched(self, *, attached: bool = True) -> Tale:
        """wagon 2 is opened, gets ready and active; wagon 1 drains."""
        second = Wagon(number=2, opened_at=0.0, channels=self.wagon(1).channels)
        self.revise(WagonOpened(train="t", number=2, because="spare"), w2=second)
        if attached:
            for channel in self.manifest.working_channels(second):
                self.add(Attached, channel=channel)
        ready = replace(second, state=State.READY, created_at=0.0)
        self.revise(WagonReady(train="t", number=2, seconds=0.0), w2=ready)
        return self.revise(
            Switched(train="t", old=1, new=2, pressure=1.0, because="full"),
            w1=replace(self.wagon(1), state=State.DRAINING),
            w2=replace(ready, state=State.ACTIVE),
        )

    def sealed(self) -> Tale:
        self.add(SealedChannel, channel=ONE, stood=True)
        return self.revise(WagonSealed(train="t", number=1, seconds=0.0), w1=replace(self.wagon(1), sealed_at=1.0))

    def drained(self) -> Tale:
        fact = WagonDrained(train="t", number=1, seconds=0.0, **COUNTS)
        return self.revise(fact, w1=replace(self.wagon(1), state=State.DRAINED))

    def begun(self) -> Tale:
        """Its removal."""
        return self.revise(w1=replace(self.wagon(1), state=State.REMOVING))

    def removed(self) -> Tale:
        return self.revise(WagonRemoved(train="t", wagon=self.wagon(1), dead=0), w1=None)

    def event(self, key: str = "k", channel: Channel = ONE, *, children: tuple[tuple[str, str], ...] = ()) -> Tale:
        """Stored, accepted, handled, settled."""
        self.stored(key, channel).add(Accepted, key=key)
        self.add(Handled, channel=channel, id=f"id-{key}", key=key, children=children)
        return self.add(Settled, channel=channel, id=f"id-{key}", key=key)

    def stored(self, key: str = "k", channel: Channel = ONE, by: str = "p.1", **fields: str) -> Tale:
        return self.add(Stored, by, channel=channel, **{"id": f"id-{key}", "key": key, **fields})

    def done(self, *keys: str) -> Tale:
        """A bridge publishes these, and they are handled."""
        for key in keys:
            self.stored(key, by="b.1").add(Handled, channel=ONE, id=f"id-{key}", key=key, children=())
        return self

    def given(self, by: str, *keys: str) -> Tale:
        """The flow gives a bridge these records."""
        return self.add(Delivered, by, positions=tuple(f"f/{key}" for key in keys))

    def committed(self, *keys: str, by: str = "b.1") -> Tale:
        return self.add(Committed, by, positions=tuple(f"f/{key}" for key in keys))

    def judged(self, **more: Any) -> list[Violation]:
        return check_evidence(Evidence(history=self.records, **more))


def whole() -> Tale:
    """A life of a train in which all is well."""
    tale = Tale().founded("a")
    tale.stored().add(Accepted, key="k")
    tale.add(Handled, channel=ONE, id="id-k", key="k", children=(("a", "k/a0"),))
    tale.stored("k/a0", INNER)
    tale.add(Settled, channel=ONE, id="id-k", key="k")
    tale.add(Handled, channel=INNER, id="id-k/a0", key="k/a0", children=())
    tale.add(Settled, channel=INNER, id="id-k/a0", key="k/a0")
    tale.switched().sealed().drained().begun()
    for channel in (ONE, INNER, DEAD_ONE):
        tale.add(Deleted, channel=channel, stood=True, left=())
    return tale.removed()


def test_a_good_life_has_no_violations() -> None:
    assert whole().judged() == []


def accepted_and_lost() -> Tale:
    return Tale().founded().stored().add(Accepted, key="k")


def accepted_and_never_stored() -> Tale:
    return Tale().founded().add(Accepted, key="k").event()


def child_lost() -> Tale:
    tale = Tale().founded("a").stored("k/a0", INNER)
    return tale.event(children=(("a", "k/a0"),))


def two_ids() -> Tale:
    return Tale().founded().event().stored(id="another")


def two_active() -> Tale:
    tale = Tale().founded().switched()
    return tale.revise(w1=replace(tale.wagon(1), state=State.ACTIVE))


def none_active() -> Tale:
    tale = Tale().founded()
    fact = Switched(train="t", old=1, new=2, pressure=1.0, because="?")
    return tale.revise(fact, w1=replace(tale.wagon(1), state=State.DRAINING))


def illegal_move() -> Tale:
    return Tale().founded().switched().removed()


def recorded_twice() -> Tale:
    tale = whole()
    return tale.add(Noted, facts=(WagonRemoved(train="t", wagon=Wagon(number=1, opened_at=0.0), dead=0),))


def letter_moved_twice() -> Tale:
    tale = whole()
    for channel in (DEAD_ONE, DEAD_KEPT, DEAD_KEPT):
        tale.stored("k", channel)
    return tale


def number_twice() -> Tale:
    tale = whole()
    return tale.revise(WagonOpened(train="t", number=1, because="again"), w1=Wagon(number=1, opened_at=0.0))


def served_by_other_code() -> Tale:
    tale = Tale().add(Started, roles=("work",), revision="v1").founded()
    tale.revise(w1=replace(tale.wagon(1), revision="v2"))
    return tale.add(Attached, channel=ONE)


def switched_to_other_code() -> Tale:
    tale = Tale().founded()
    tale.manifest = replace(tale.manifest, revision="v2")
    return tale.switched()


def two_with_the_same_workers() -> Tale:
    tale = Tale().founded().switched()
    return tale.revise(w2=replace(tale.wagon(2), reuses=1))


def ready_without_workers() -> Tale:
    return Tale().founded().switched(attached=False)


def redirected_before_ready() -> Tale:
    tale = Tale().founded()
    second = Wagon(number=2, opened_at=0.0, state=State.ACTIVE)
    tale.add(Attached, channel=TWO)
    return tale.revise(
        WagonOpened(train="t", number=2, because="?"),
        Switched(train="t", old=1, new=2, pressure=1.0, because="?"),
        w1=replace(tale.wagon(1), state=State.DRAINING),
        w2=second,
    )


def ready_again_without_workers() -> Tale:
    """Its workers were there once, and are lost; nobody came back."""
    tale = Tale().founded()
    second = Wagon(number=2, opened_at=0.0)
    tale.revise(WagonOpened(train="t", number=2, because="spare"), w2=second).add(Attached, channel=TWO)
    ready = replace(second, state=State.READY, created_at=0.0)
    tale.revise(WagonReady(train="t", number=2, seconds=0.0), w2=ready).add(Detached, channel=TWO)
    tale.revise(WorkersLost(train="t", number=2, because="killed"), w2=replace(ready, state=State.PROVISIONING))
    return tale.revise(WagonReady(train="t", number=2, seconds=0.0), w2=ready)


def stored_after_the_seal() -> Tale:
    return Tale().founded().switched().sealed().event()


def never_sealed() -> Tale:
    tale = Tale().founded().switched()
    return tale.revise(WagonSealed(train="t", number=1, seconds=0.0), w1=replace(tale.wagon(1), sealed_at=1.0)).event()


def drained_before_sealed() -> Tale:
    return Tale().founded().switched().drained()


def drained_and_not_empty() -> Tale:
    tale = Tale().founded().stored()
    tale.switched().sealed().drained().begun()
    return tale.add(Handled, channel=ONE, id="id-k", key="k", children=())


def deleted_while_draining() -> Tale:
    return Tale().founded().switched().sealed().add(Deleted, channel=ONE, stood=True, left=())


def deleted_with_a_way_back() -> Tale:
    """Another observer may find late events in it."""
    return Tale().founded().switched().sealed().drained().add(Deleted, channel=ONE, stood=True, left=())


def deleted_with_an_event() -> Tale:
    tale = Tale().founded().switched().sealed().drained().begun()
    return tale.add(Deleted, channel=ONE, stood=True, left=(("id-k", "k"),))


def dead_letter_deleted() -> Tale:
    tale = Tale().founded().stored().stored(channel=DEAD_ONE).add(Settled, channel=ONE, id="id-k", key="k")
    return tale.switched().sealed().drained().begun().add(Deleted, channel=DEAD_ONE, stood=True, left=(("id-k", "k"),))


def settled_and_not_handled() -> Tale:
    return Tale().founded().stored().add(Settled, channel=ONE, id="id-k", key="k")


def settled_before_emitted() -> Tale:
    tale = Tale().founded("a").event(children=(("a", "k/a0"),)).stored("k/a0", INNER)
    tale.add(Handled, channel=INNER, id="id-k/a0", key="k/a0", children=())
    return tale.add(Settled, channel=INNER, id="id-k/a0", key="k/a0")


def unexplained() -> Tale:
    tale = Tale().founded().switched()
    return tale.revise(w1=replace(tale.wagon(1), sealed_at=1.0))


def removed_without_a_record() -> Tale:
    return Tale().founded().switched().sealed().drained().begun().revise(w1=None)


def paused() -> Tale:
    tale = Tale().founded()
    tale.manifest = replace(tale.manifest, paused=Pause(why="by hand", at=1.0))
    return tale.revise()


def switched_while_paused() -> Tale:
    return paused().switched()


def handled_by(*names: str, channel: Channel = ONE) -> Tale:
    """Each of these processes handles the same event."""
    tale = Tale().founded()
    for by in names:
        tale.add(Begun, by, channel=channel, id="id-k", key="k")
        tale.add(Handled, by, channel=channel, id="id-k", key="k", children=())
    return tale


def test_what_is_remembered_is_handled_once() -> None:
    def found(tale: Tale, once: float | None = 60.0) -> bool:
        return "once" in {v.invariant for v in tale.judged(once=once)}

    assert not found(handled_by("p.1"))
    assert found(handled_by("p.1", "q.1"))
    assert found(handled_by("p.1", "p.1"))
    assert not found(handled_by("p.1", "q.1"), once=None)
    inner = handled_by("p.1")
    inner.add(Begun, channel=INNER, id="id-k", key="k").add(Handled, channel=INNER, id="id-k", key="k", children=())
    assert not found(inner)
    for trouble in (
        Crashed,
        partial(Faulted, op="record", call=1, kind="lost", amount=0.0),
        partial(Ended, error="", early=False),
    ):
        excused, anothers, late = handled_by("p.1"), handled_by("p.1"), handled_by("p.1", "q.1")
        for tale, by in ((excused, "p.1"), (anothers, "r.1")):
            tale.add(trouble, by)
            tale.add(Begun, "q.1", channel=TWO, id="id-k", key="k")
            tale.add(Handled, "q.1", channel=TWO, id="id-k", key="k", children=())
        late.add(trouble, "p.1")
        assert not found(excused)
        assert found(anothers)
        assert found(late)


def test_going_back_from_new_code_is_no_limit_that_is_heeded_in_a_pause() -> None:
    tale = paused().switched()
    last = tale.records[-1]
    assert isinstance(last, Revised)
    back = WentBack(train="t", number=1, revision="v2", back="v1", handled=18, failed=2, share=0.05)
    tale.records[-1] = replace(last, facts=(back, *last.facts))
    assert "paused" not in {v.invariant for v in tale.judged()}


@pytest.mark.parametrize(
    ("invariant", "tale"),
    [
        ("paused", switched_while_paused),
        ("I1", accepted_and_lost),
        ("I1", accepted_and_never_stored),
        ("I1", child_lost),
        ("I1", two_ids),
        ("I2", two_active),
        ("I2", none_active),
        ("I2", illegal_move),
        ("I2", number_twice),
        ("I3", ready_without_workers),
        ("I3", served_by_other_code),
        ("I3", switched_to_other_code),
        ("I8", two_with_the_same_workers),
        ("I3", redirected_before_ready),
        ("I3", ready_again_without_workers),
        ("I4", stored_after_the_seal),
        ("I4", never_sealed),
        ("I5", drained_before_sealed),
        ("I5", drained_and_not_empty),
        ("I5", deleted_while_draining),
        ("I5", deleted_with_a_way_back),
        ("I5", deleted_with_an_event),
        ("I5", dead_letter_deleted),
        ("I6", settled_and_not_handled),
        ("I6", settled_before_emitted),
        ("I9", unexplained),
        ("I9", removed_without_a_record),
        ("I9", recorded_twice),
        ("I5", letter_moved_twice),
    ],
)
def test_each_invariant_violated_once(invariant: str, tale: Callable[[], Tale]) -> None:
    found = tale().judged()
    assert invariant in {v.invariant for v in found}, found
    assert all(0 <= m < len(tale().records) for v in found for m in v.moments)


@pytest.mark.parametrize(
    ("invariant", "more"),
    [
        ("I7", {"reached": False, "lacking": ("wagon 2 is draining",)}),
        ("I7", {"left_behind": ("a consumer of p1.1",)}),
        ("I10", {"longest_journal": 21, "keep": 20}),
        ("I10", {"wagons": 1}),
        ("I10", {"calls": {"depth": 100}, "most_calls": 99}),
        ("alive", {"unexpected": ("KeyError(1)",)}),
        ("pool", {"short": ("p1.1 has 1 workers, not 2",)}),
        ("strangers", {"touched": frozenset({"k"})}),
        ("strangers", {"unfit": frozenset({"k"})}),
        ("strangers", {"charged": (4,)}),
    ],
)
def test_what_a_run_says_besides_its_history(invariant: str, more: dict[str, object]) -> None:
    assert {v.invariant for v in whole().judged(**more)} == {invariant}


def test_what_ends_as_it_was_asked_to_keeps_no_claim() -> None:
    tale = whole().add(Ended, error="", early=False, held=("k of t_v1",))
    assert tale.judged() == []  # something kept it from giving back
    assert [v.invariant for v in tale.judged(kept=(len(tale.records) - 1,))] == ["I7"]


def test_an_event_comes_when_the_pause_is_over_that_its_handler_asked_for() -> None:
    """Each record of a tale is a second after the one before."""
    tale = Tale().founded().stored().add(PutOff, channel=ONE, id="id-k", key="k", seconds=0.5)
    again = tale.add(Handled, channel=ONE, id="id-k", key="k", children=(), attempt=2)
    assert "pause" not in [v.invariant for v in again.judged(punctual=True)]
    tale = Tale().founded().stored().add(PutOff, channel=ONE, id="id-k", key="k", seconds=3.5)
    copied = tale.event()
    assert [v.invariant for v in copied.judged(punctual=True)] == []
    early = Tale().founded().stored().add(PutOff, channel=ONE, id="id-k", key="k", seconds=1.5)
    early = early.add(Handled, channel=ONE, id="id-k", key="k", children=(), attempt=2)
    assert "pause" in [v.invariant for v in early.judged(punctual=True)]
    assert early.judged() == []  # a death may have cost the event its pause


def test_no_event_sees_another_s_context_variables() -> None:
    assert [v.invariant for v in whole().add(Leaked, key="k", left_by="j").judged()] == ["strangers"]


def test_an_innocent_pays_for_no_defect_but_its_own() -> None:
    """A defect that struck a call which held its emits alone, and no other."""
    scenario = draw(next(s for s in range(1000) if is_strict(draw(s)) and draw(s).trouble == 0))
    innocent = next(key for i in range(1000) if not may_fail(scenario, key := f"p0-{i}"))
    run = simulate(replace(scenario, arrivals=()))

    def judged(*records: Record) -> tuple[int, ...]:
        history = History()
        for record in records:
            history.add(replace(record, seq=len(history)))
        return evidence(replace(run, history=history)).charged

    handled = Handled(channel=ONE, id="i", key=innocent, children=(("a", "x"), ("a", "y")), attempt=2)
    own = Faulted(op="publish", call=1, kind="bug", amount=0.0, keys=("x", "y"))
    assert judged(replace(handled, attempt=1)) == ()
    assert judged(handled) == (0,)
    assert judged(own, handled) == ()
    assert judged(own, replace(handled, attempt=3)) == (1,)
    assert judged(replace(own, keys=("x", "y", "z")), handled) == (1,)


def test_a_process_may_fail_to_start_and_not_end_by_itself_later() -> None:
    assert whole().add(Ended, error="Unavailable: away", early=True).judged() == []
    assert [v.invariant for v in whole().add(Ended, error="KeyError: 1", early=False).judged()] == ["alive"]


def test_elastic_wagons_share_a_budget() -> None:
    def judged(*workers: int | None, most: int = 6) -> list[str]:
        tale = Tale()
        wagons = {
            f"w{n}": Wagon(number=n, state=State.PROVISIONING, opened_at=0.0, workers=count)
            for n, count in enumerate(workers, 1)
        }
        facts = [WagonOpened(train="t", number=n, because="x", revision="") for n in range(1, len(workers) + 1)]
        found = tale.revise(*facts, **wagons).judged(elastic=Elastic(2, most))
        return [v.invariant for v in found]

    assert judged(None, 4) == []  # one that was opened just now begins with least
    assert judged(2, 2, 2) == []
    assert judged(None, 5) == ["budget"]
    assert judged(3, 2, 2) == ["budget"]
    assert judged(2, 1, 3) == ["budget"]
    assert judged(2, 2, 1, 1) == []  # there are too few for so many


def test_a_wagon_that_drains_again_counts_from_the_next_division_on() -> None:
    def judged(*states: tuple[State, int, int]) -> list[str]:
        tale = Tale()
        for state, own, others in states:
            tale = tale.revise(
                w1=Wagon(number=1, state=state, opened_at=0.0, workers=own),
                w2=Wagon(number=2, state=State.ACTIVE, opened_at=0.0, workers=others),
            )
        return [v.invariant for v in tale.judged(elastic=Elastic(2, 6)) if v.invariant == "budget"]

    assert judged((State.DRAINED, 4, 4), (State.DRAINING, 4, 4)) == []
    assert judged((State.DRAINED, 4, 4), (State.DRAINING, 4, 4), (State.DRAINING, 2, 4)) == []
    assert judged((State.DRAINED, 4, 4), (State.DRAINING, 4, 4), (State.DRAINING, 3, 4)) == ["budget"]
    assert judged((State.DRAINING, 4, 4)) == ["budget"]


def test_only_the_event_that_the_broker_refuses_is_refused() -> None:
    tale = whole().add(Refused, key="x", why="EventRefused: too large")
    assert tale.judged(unfit=frozenset({"x"})) == []
    assert [v.invariant for v in tale.judged()] == ["strangers"]


def test_dead_letters_stand_for_the_whole_chain() -> None:
    """A worker that was given up for dead may still emit; what it emitted may go when its event is a dead letter."""
    tale = Tale().founded("a").stored().add(Accepted, key="k").stored(channel=DEAD_ONE)
    tale.add(Settled, channel=ONE, id="id-k", key="k").switched().sealed().drained().begun()
    tale.stored("k/a0", INNER).stored(channel=DEAD_KEPT)
    tale.add(Deleted, channel=INNER, stood=True, left=(("id-k/a0", "k/a0"),))
    tale.add(Deleted, channel=DEAD_ONE, stood=True, left=(("id-k", "k"),))
    assert tale.judged(dead=frozenset({"k"})) == []


@pytest.mark.parametrize("handled_first", [True, False])
def test_a_letter_of_an_event_that_another_had_handled_may_go_with_its_wagon(handled_first: bool) -> None:
    tale = Tale().founded("a").stored().add(Accepted, key="k")
    if handled_first:
        tale.add(Handled, channel=ONE, id="id-k", key="k", children=())
    tale.stored(channel=DEAD_ONE)
    if not handled_first:
        tale.add(Handled, channel=ONE, id="id-k", key="k", children=())
    tale.add(Settled, channel=ONE, id="id-k", key="k").switched().sealed().drained().begun()
    tale.add(Deleted, channel=DEAD_ONE, stood=True, left=(("id-k", "k"),))
    assert [v.invariant for v in tale.judged()] == ([] if handled_first else ["I5"])


def test_a_channel_that_rose_again_is_another_one() -> None:
    tale = whole().add(Created, "p.2", channel=ONE, capacity=None, fresh=True).stored("late")
    tale.add(Handled, channel=ONE, id="id-late", key="late", children=())
    assert tale.judged() == []


@pytest.mark.parametrize("held_up", [Paused, Faulted, None])
def test_without_fences_only_what_was_held_up_may_come_late(held_up: Callable[..., Record] | None) -> None:
    tale = Tale().founded().switched().sealed()
    if held_up is Paused:
        tale.add(Paused, "p.9", seconds=5.0)
    elif held_up is Faulted:
        tale.add(Faulted, "p.9", op="publish", call=1, kind="in-flight", amount=5.0)
    tale.stored(by="p.9").add(Handled, channel=ONE, id="id-k", key="k", children=())
    found = [v.invariant for v in tale.judged(fences=False)]
    assert found == ([] if held_up else ["I4"])


def bridged(*written: str, bad: str = "") -> Tale:
    """A bridge is given these records of one partition; `bad` can't be an event."""
    tale = Tale().founded().add(Started, "b.1", roles=("bridge",))
    for key in written:
        tale.add(Produced, "", position=f"f/{key}", key=key, id=f"id-{key}", partition=0, fits=key != bad)
    return tale.given("b.1", *written)


def test_a_bridge_that_does_as_it_should_breaks_nothing() -> None:
    tale = bridged("k", "l", "x", bad="x").done("k", "l").stored("x", DEAD_KEPT, by="b.1")
    tale.committed("k", "l", "x").add(Ended, "b.1", error="", early=False)
    assert tale.judged(dead=frozenset({"x"}), batch=3) == []


@pytest.mark.parametrize(
    ("tell", "says"),
    [
        (lambda: bridged("k").committed("k").done("k"), "before its event was stored"),
        (lambda: bridged("x", bad="x").committed("x").stored("x", DEAD_KEPT), "before its dead letter was stored"),
        (lambda: bridged("k").stored("k", DEAD_KEPT, by="b.1"), "was buried by b.1"),
        (lambda: bridged("x", bad="x").done("x").stored("x", DEAD_KEPT), "was published by b.1, though it is no"),
        (lambda: bridged("k").stored("k", by="b.1", id="other").committed("k"), "was stored as other"),
        (lambda: bridged("k", "l").done("l", "k").committed("k", "l"), "f/l (l) was published before f/k (k)"),
        (lambda: bridged("k").done("k").stored("k", by="b.1").committed("k"), "was stored 2 times by b.1"),
        (lambda: bridged("k", "l", "m").done("k", "l", "m").committed("k", "l", "m"), "has stored 3 records"),
        (lambda: bridged("k").done("k").add(Ended, "b.1", error="", early=False), "stored and not committed: f/k"),
    ],
)
def test_a_bridge_does_not_do_what_it_must_not(tell: Callable[[], Tale], says: str) -> None:
    found = [v for v in tell().judged(dead=frozenset({"x", "k"}), batch=2) if v.invariant == "bridge"]
    assert len(found) == 1
    assert says in str(found[0])


def test_what_is_committed_and_never_handled_is_lost() -> None:
    assert "k was committed and is neither" in str(bridged("k").stored("k", by="b.1").committed("k").judged())


def test_what_a_bridge_has_lost_or_had_in_hand_in_trouble_may_come_twice() -> None:
    tale = bridged("k").done("k").add(TakenAway, "b.1", positions=("f/k",))
    tale.add(Started, "b.2", roles=("bridge",)).given("b.2", "k").stored("k", by="b.2")
    assert tale.committed("k", by="b.2").judged() == []
    again = bridged("k").done("k").add(TakenAway, "b.1", positions=("f/k",)).given("b.1", "k").stored("k", by="b.1")
    assert again.committed("k").judged() == []
    still_at_it = bridged("k", "l").done("k").add(TakenAway, "b.1", positions=("f/k", "f/l")).given("b.1", "k", "l")
    still_at_it.done("l").stored("k", by="b.1").stored("l", by="b.1")
    assert still_at_it.committed("k", "l").judged(batch=2) == []
    uncertain = bridged("k").done("k").add(Faulted, "b.1", op="publish", call=1, kind="lost", amount=0.0)
    assert uncertain.stored("k", by="b.1").committed("k").judged() == []
