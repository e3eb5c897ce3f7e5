"""The promises about the ledger: one record of each wagon, before its channels go, which never changes and has what
really happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from eventwagon.contracts.facts import WagonRemoved, WagonUnrecorded
from eventwagon.contracts.ledger import ChannelRecord, WagonRecord
from eventwagon.event import DEAD, Channel
from eventwagon.policy.digest import digest_of, written
from eventwagon.policy.reconcile import without_sketches

from .history import Deleted, Noted, Recorded, Revised, Settled, Stored
from .process import TRAIN
from .violation import Evidence, Violation


def recorded_as_done(case: Evidence) -> Iterator[Violation]:
    """A wagon is removed with one record, or with the fact that it has none. Its figures are the true ones where the
    broker refuses late events; where nothing goes wrong the workers' counts cover all of them."""
    if not case.recorded:
        return
    published, settled = dict[Channel, Counter[str]](), dict[Channel, Counter[str]]()
    gone = set[Channel]()
    records: dict[int, WagonRecord] = {}
    for record in case.history:
        match record:
            case Stored():
                published.setdefault(record.channel, Counter())[record.id] += 1
            case Settled():
                settled.setdefault(record.channel, Counter())[record.id] += 1
            case Deleted(stood=True):
                gone.add(record.channel)
            case Recorded() | Noted():
                for found in _records_in(record):
                    says = ""
                    if (first := records.get(found.number)) is None:
                        records[found.number] = found
                        says = next(_wrong(found, published, settled, gone, case), "")
                    elif without_sketches(first) != without_sketches(found):
                        says = f"the record of wagon {found.number} is another than before"
                    if says:
                        yield Violation(invariant="ledger", says=says, wagon=found.number, moments=(record.seq,))
            case Revised():
                for fact in record.facts:
                    if isinstance(fact, WagonRemoved) and fact.wagon.number not in records:
                        says = f"wagon {fact.wagon.number} was removed without a record"
                        yield Violation(invariant="ledger", says=says, wagon=fact.wagon.number, moments=(record.seq,))


def _records_in(record: Recorded | Noted) -> list[WagonRecord]:
    """What went into the ledger, or into the journal in its place."""
    if isinstance(record, Recorded):
        return [record.record]
    return [fact.record for fact in record.facts if isinstance(fact, WagonUnrecorded)]


def _wrong(
    found: WagonRecord,
    published: dict[Channel, Counter[str]],
    settled: dict[Channel, Counter[str]],
    gone: set[Channel],
    case: Evidence,
) -> Iterator[str]:
    if case.fences and found.unreconciled:
        yield f"the record of wagon {found.number} does not reconcile: {found.unreconciled}"
    for each in found.channels:
        channel = Channel(TRAIN, found.number, each.name)
        if channel in gone:
            yield f"{channel} was deleted before the record of its wagon was written"
        if case.fences:
            there = published.get(channel, Counter())
            done = there & settled.get(channel, Counter())  # settled again by another process, it counts once
            yield from _untrue(each, channel, there.total(), list(done.elements()), exact=case.all_counted)
    stored = published.get(Channel(TRAIN, found.number, DEAD), Counter())
    # a worker that hung may have its event die a second time, after the letters were counted
    if case.fences and found.dead is not None and not len(stored) <= found.dead <= stored.total():
        yield f"the record of wagon {found.number} has {found.dead} dead letters, {stored.total()} were stored"


def _untrue(each: ChannelRecord, channel: Channel, published: int, settled: list[str], *, exact: bool) -> Iterator[str]:
    # what a worker stores whose parent was settled by another meanwhile may come later than the record
    late = 0 if exact or not channel.name else published - (each.published or 0)
    if (each.published, each.settled) != (published - max(0, late), len(settled)) and not (
        late > 0 and each.difference == 0
    ):
        yield (
            f"the record has {each.published} published and {each.settled} settled of {channel}, and it was "
            f"{published} and {len(settled)}"
        )
    if exact and each.counted != len(settled):
        yield f"the workers counted {each.counted} of {len(settled)} settled events of {channel}"
    if exact and each.digest != written(digest_of(settled, channel.name)):
        yield f"the digest of {channel} is not that of the settled events"
