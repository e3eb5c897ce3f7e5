"""The record of a wagon: put together from the broker's totals, the workers' counts and the journal. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from ..contracts.broker import Depth
from ..contracts.facts import (
    DeliveryPaused,
    DeliveryResumed,
    Entry,
    ReplayCancelled,
    ReplayRequested,
    WagonOpened,
    sentence,
)
from ..contracts.ledger import Archived, ByHand, ChannelCounts, ChannelRecord, Hold, Ran, Sketch, WagonRecord
from ..contracts.manifest import Manifest, Wagon
from ..display.text import as_line, count
from ..event import DEAD, Channel
from .digest import together, written
from .sketch import merged, times_of

JOURNAL = 5_000
"""Entries of the journal that are read for one record, the newest."""
_MOST = 200
"""The most holds, hand-made changes and processes in a record: the newest, and the processes that did most."""
_OF_REPLAYS = (ReplayRequested, ReplayCancelled)
_LONG = 500
"""Characters of one sentence."""


TRAIN_REMOVED = "removed with its train"
"""How a wagon ended whose dead letters went with it."""


class Handed(msgspec.Struct, frozen=True):
    """The counts of one process about one wagon, by channel."""

    name: str
    revision: str
    counts: Mapping[str, ChannelCounts]


def record_of(
    manifest: Manifest,
    wagon: Wagon,
    *,
    depths: Mapping[Channel, Depth],
    handed: Sequence[Handed],
    entries: Sequence[Entry] | None,
    now: float,
    by: str,
    left: int | None,
    ended: str,
) -> WagonRecord:
    """The wagon's record. `depths`: of its working channels and its dead letters; `entries`: the newest `JOURNAL`
    of the journal; None: it could not be read. `left`: how many events were published again from its ingress; None:
    what waits or is in flight there, as in each inner channel, to which a worker that was taken for dead may emit late.
    """
    channels = tuple(
        _channel(c.name, depth, [h.counts[c.name] for h in handed if c.name in h.counts], left, is_first=not c.name)
        for c, depth in depths.items()
        if c.name != DEAD
    )
    letters = depths.get(manifest.dead_letters(wagon), Depth())
    if wagon.created_at is None:  # nothing could be published to it
        channels = tuple(
            msgspec.structs.replace(c, published=c.published or 0, settled=c.settled or 0) for c in channels
        )
    differences = [c.difference for c in channels]
    known = [d for d in differences if d is not None]
    own = [e for e in entries or () if e.at >= wagon.opened_at]
    since: float | None = None if entries is not None else now
    if entries and entries[0].at > wagon.opened_at and not any(_opened(e, wagon) for e in entries):
        since = entries[0].at
    return WagonRecord(
        train=manifest.train,
        number=wagon.number,
        opened_at=wagon.opened_at,
        opened_because=wagon.opened_because,
        revision=wagon.revision,
        undoes=wagon.undoes,
        archived=_archived(wagon),
        created_at=wagon.created_at,
        ready_at=wagon.ready_at,
        active_at=wagon.active_at,
        turn=wagon.turn,
        closed_because=wagon.closed_because or wagon.trouble,
        closed_at=wagon.closed_at,
        sealed_at=wagon.sealed_at,
        drained_at=wagon.drained_at,
        ended=ended,
        recorded_at=now,
        recorded_by=by,
        channels=channels,
        dead=letters.published if wagon.created_at is not None else 0,
        letters_kept=wagon.letters_kept,
        letters_taken=wagon.letters_taken,
        letters_lost=wagon.letters_lost,
        lost=wagon.lost,
        unreconciled="; ".join([*_why(channels, manifest.train), *_letters_missing(wagon, letters, ended)]),
        difference=sum(known) if len(known) == len(differences) else None,
        ran=tuple(_ran(handed)),
        holds=tuple(_holds(manifest, wagon, entries or ()))[-_MOST:],
        by_hand=tuple(_by_hand(wagon, own))[-_MOST:],
        journal_from=since,
        replay=wagon.replay,
    )


def _opened(entry: Entry, wagon: Wagon) -> bool:
    return isinstance(entry.fact, WagonOpened) and entry.fact.number == wagon.number


def _archived(wagon: Wagon) -> Archived | None:
    if wagon.archived is None:
        return None
    return Archived(url=wagon.archive, rows=wagon.archived, digest=wagon.archive_digest)


def _channel(
    name: str, depth: Depth, counts: Sequence[ChannelCounts], left: int | None, *, is_first: bool
) -> ChannelRecord:
    over = left if is_first and left is not None else (depth.waiting or 0) + (depth.in_flight or 0)
    return ChannelRecord(
        name=name,
        published=None if depth.published is None else depth.published + depth.lost,  # a Depth counts those apart
        settled=depth.settled,
        lost=depth.lost,
        left=over,
        counted=sum(t.settled for t in counts),
        dead=sum(t.dead for t in counts),
        retried=sum(t.retried for t in counts),
        snoozed=sum(t.snoozed for t in counts),
        digest=written(together(*(_digest(t) for t in counts))),
        waits=times_of(merged(t.waits for t in counts)),
        handlings=times_of(merged(t.handlings for t in counts)),
    )


def _digest(counts: ChannelCounts) -> int:
    try:
        return int(counts.digest, 16)
    except ValueError:  # no process of ours writes that
        return 0


def _why(channels: Iterable[ChannelRecord], train: str) -> Iterator[str]:
    """Why they do not reconcile, for each that does not."""
    for channel in channels:
        name, difference = channel.name or train, channel.difference
        if difference is None:
            yield f"{name}: the broker did not know its totals"
        elif difference:
            parts = f"published {figure(channel.published)}, settled {figure(channel.settled)}, lost {channel.lost:,}"
            yield f"{name}: {parts}, left {channel.left:,}: {difference:+,}"


def _letters_missing(wagon: Wagon, letters: Depth, ended: str) -> Iterator[str]:
    """Dead letters that were stored and neither kept, taken nor reported lost. More of these than were stored is no
    fault: a retry that was cut off is counted before its letters are settled, and again when it is repeated."""
    if letters.published is None or wagon.letters_kept is None or ended == TRAIN_REMOVED:
        return
    stored = letters.published + letters.lost
    if (missing := stored - wagon.letters_kept - wagon.letters_taken - max(wagon.letters_lost, letters.lost)) > 0:
        of = f"kept {wagon.letters_kept:,}, retried or dropped {wagon.letters_taken:,}, lost {wagon.letters_lost:,}"
        yield f"dead letters: stored {stored:,}, {of}: {missing:+,}"


def _ran(handed: Sequence[Handed]) -> Iterator[Ran]:
    of: dict[str, Ran] = {}
    for each in handed:
        of[each.name] = Ran(
            name=each.name, revision=each.revision, settled=sum(t.settled for t in each.counts.values())
        )
    yield from sorted(of.values(), key=lambda r: (-r.settled, r.name))[:_MOST]


def _holds(manifest: Manifest, wagon: Wagon, entries: Sequence[Entry]) -> Iterator[Hold]:
    """The pauses of the wagon and of the train, as the journal has them; one under way also if it has it no more."""
    standing: dict[int | None, Hold] = {}
    done: list[Hold] = []
    for entry in entries:
        fact = entry.fact
        if isinstance(fact, DeliveryPaused) and fact.number in (None, wagon.number):
            why = as_line(fact.because)[:_LONG]
            began = Hold(why=why, by=fact.by, since=entry.at, train=fact.number is None)
            standing.setdefault(fact.number, began)  # one that is widened, or told again, goes on
        elif isinstance(fact, DeliveryResumed) and fact.number in (None, wagon.number):
            unknown = Hold(since=entry.at - fact.seconds, train=fact.number is None)
            hold = standing.pop(fact.number, unknown)
            done.append(msgspec.structs.replace(hold, until=entry.at, resumed_by=fact.by))
    for number, pause in ((None, manifest.paused), (wagon.number, wagon.paused)):
        if pause is None:
            standing.pop(number, None)  # its end was lost with a registry that stepped back
        elif number not in standing:
            why = as_line(pause.why)[:_LONG]
            standing[number] = Hold(why=why, by=pause.by, since=pause.at, train=number is None)
    meanwhile = (h for h in (*done, *standing.values()) if h.until is None or h.until >= wagon.opened_at)
    yield from sorted(meanwhile, key=lambda h: h.since)


def _by_hand(wagon: Wagon, entries: Sequence[Entry]) -> Iterator[ByHand]:
    """What somebody did meanwhile, to this wagon or to the train. What is told of a replay has the replay's number."""
    for entry in entries:
        by, is_rule = getattr(entry.fact, "by", ""), getattr(entry.fact, "by_rule", False)
        of = (None, wagon.replay) if isinstance(entry.fact, _OF_REPLAYS) else (None, wagon.number)
        if by and not is_rule and getattr(entry.fact, "number", None) in of:
            yield ByHand(at=entry.at, by=by, what=as_line(sentence(entry.fact))[:_LONG])


def are_complete(handed: Sequence[Handed], depths: Mapping[Channel, Depth]) -> bool:
    """Whether the workers' counts have all that was settled: otherwise the last ones may still be on their way."""
    for channel, depth in depths.items():
        counted = sum(h.counts[channel.name].settled for h in handed if channel.name in h.counts)
        if channel.name != DEAD and depth.settled is not None and counted < depth.settled:
            return False
    return True


def without_sketches(record: WagonRecord) -> WagonRecord:
    """A record that fits into the journal: percentiles without the sketches that they were read from, and the newest
    of what was done by hand."""
    bare = msgspec.structs.replace
    channels = tuple(
        bare(c, waits=bare(c.waits, sketch=Sketch()), handlings=bare(c.handlings, sketch=Sketch()))
        for c in record.channels
    )
    return bare(record, channels=channels, holds=record.holds[-20:], by_hand=record.by_hand[-20:], ran=record.ran[:20])


def may_still_reconcile(record: WagonRecord, gone: Iterable[Channel]) -> bool:
    """Whether looking again later may help: not if the only figures in the way are those of channels that are gone."""
    names = {c.name for c in gone}
    return any(c.difference != 0 and not (c.published is None and c.name in names) for c in record.channels)


def summary(record: WagonRecord) -> str:
    """The figures in one line."""
    ingress = next((c for c in record.channels if not c.name), ChannelRecord(name=""))
    emitted = [c for c in record.channels if c.name]
    parts = [f"in {figure(ingress.published)}"]
    if emitted:
        total = None if any(c.published is None for c in emitted) else sum(c.published or 0 for c in emitted)
        parts.append(f"emitted {figure(total)}")
    parts += [f"settled {figure(record.settled)}", f"dead {figure(record.dead)}"]
    if retried := sum(c.retried for c in record.channels):
        parts.append(f"retried {figure(retried)}")
    if record.lost:
        parts.append(f"lost {figure(record.lost)}")
    if left := sum(c.left for c in record.channels):
        parts.append(f"left {figure(left)}")
    return ", ".join(parts)


def figure(number: int | None) -> str:
    """A figure in words; `?` if it is not known."""
    return "?" if number is None else f"{number:,}"


def covered(record: WagonRecord) -> str:
    """What the digests and percentiles cover, in words."""
    settled = record.settled
    if settled is None:
        return f"{count(record.counted, 'settled event')} in the workers' counts"
    return f"{record.counted:,} of {count(settled, 'settled event')} in the workers' counts"
