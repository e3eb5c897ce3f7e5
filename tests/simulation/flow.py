"""The one flow of a run that others write: its records, who of the group that reads them holds which, and what is
committed, with all of it written down. A group shares partitions, as on Kafka, or single records, as on Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from eventwagon.bridge import Lag
from eventwagon.bridge import Record as Foreign

from .guests import REFUSED, guest, is_unmappable, share
from .history import Committed, Delivered, Produced, TakenAway
from .scenario import Flow, Scenario
from .truth import EPOCH, Recorder

Place = tuple[int, int]
"""A partition, and which turn of its reader it is."""

WHO = "customer"
"""The header that a record must have."""
_FORCED = 6.0
"""Seconds after which a reader that was asked to give a partition up has lost it."""


class TruthFlow:
    """What is written, and what is committed. Readers are known by the names of their processes."""

    def __init__(self, record: Recorder, scenario: Scenario, flow: Flow) -> None:
        self._record = record
        self._scenario = scenario
        self._flow = flow
        self.idle = flow.idle
        """Seconds of silence after which what a reader holds goes to others."""
        self.written: list[Foreign] = []
        """`token`: the partition and its offset."""
        self.committed: set[str] = set()
        """Their positions."""

    def write(self, count: int) -> None:
        """So many records are written by their producers."""
        for number in range(len(self.written), len(self.written) + count):
            made = self._made(number)
            self.written.append(made)
            key = made.value.decode()[1:-1]
            fits = not is_unmappable(self._scenario, key) and guest(self._scenario, key) not in REFUSED
            own = dict(made.headers).get("ce_id", "")
            partition, _ = made.token
            self._record(
                Produced,
                by="",
                position=made.position,
                key=key,
                id=str(own) if fits and own else made.position,
                partition=partition,
                fits=fits,
            )

    def _made(self, number: int) -> Foreign:
        key = f"s{number}"
        partition = int(share(self._scenario, key, "partition") * max(1, self._flow.partitions))
        offset = sum(each.token[0] == partition for each in self.written)
        headers: list[tuple[str | bytes, str | bytes | None]] = [(WHO, "c")]
        trouble = ""
        if share(self._scenario, key, "own id") < self._flow.own:
            headers += [("ce_specversion", "1.0"), ("ce_id", f"own-{number}"), ("ce_source", "x"), ("ce_type", "y")]
        if is_unmappable(self._scenario, key):
            match int(share(self._scenario, key, "why") * 3):
                case 0:
                    del headers[0]
                case 1:
                    headers[0] = (WHO, b"\xff")
                case _:
                    trouble = "simulated: its headers can't be read"
        return Foreign(
            position=f"flow/{partition}/{offset}",
            value=f'"{key}"'.encode(),
            headers=headers,
            time=EPOCH + asyncio.get_running_loop().time(),
            token=(partition, offset),
            trouble=trouble,
        )

    def left(self) -> list[Foreign]:
        """What is not committed."""
        return [each for each in self.written if each.position not in self.committed]

    async def lag(self) -> Lag:
        """See Source."""
        if not (left := self.left()):
            return Lag(records=0, seconds=0.0)
        now = EPOCH + asyncio.get_running_loop().time()
        return Lag(records=len(left), seconds=max(0.0, now - left[0].time))

    async def beat(self, reader: str, held: Sequence[Foreign]) -> tuple[set[Place], set[Place], set[str]]:
        """The reader lives, and still holds these. Returns where it may read, what of that it is to give up, and the
        positions of what it has lost."""
        raise NotImplementedError

    async def take(self, reader: str, held: Sequence[Foreign], limit: int) -> Sequence[Foreign]:
        """The next records for a reader that has these."""
        raise NotImplementedError

    async def commit(self, reader: str, records: Sequence[Foreign]) -> None:
        """These are done."""
        raise NotImplementedError

    async def give_up(self, reader: str, places: Sequence[Place]) -> None:
        """The reader has finished there."""

    async def leave(self, reader: str) -> None:
        """The reader is gone."""

    def _deliver(self, reader: str, given: Sequence[Foreign]) -> Sequence[Foreign]:
        if given:
            self._record(Delivered, by=reader, positions=tuple(each.position for each in given))
        return given

    def _take_away(self, reader: str, positions: Sequence[str]) -> None:
        if positions:
            self._record(TakenAway, by=reader, positions=tuple(positions))

    def _commit(self, reader: str, records: Sequence[Foreign]) -> None:
        if new := tuple(each.position for each in records if each.position not in self.committed):
            self.committed.update(new)
            self._record(Committed, by=reader, positions=new)


class _Partition:
    def __init__(self, number: int) -> None:
        self.number = number
        self.turn = 0
        self.owner = ""
        self.committed = 0
        """Offset of the next one."""
        self.given = 0
        """Offset up to which its owner was given records."""
        self.asked_at: float | None = None
        """When its owner was asked to give it up."""


class Partitions(TruthFlow):
    """Each partition has one reader, which commits an offset. Where readers come and go partitions are shared out anew:
    one that moves is first given up by its reader, which has some time to finish."""

    def __init__(self, record: Recorder, scenario: Scenario, flow: Flow) -> None:
        super().__init__(record, scenario, flow)
        self._parts = [_Partition(n) for n in range(flow.partitions)]
        self._due: dict[str, float] = {}
        """By reader: when it counts as gone."""

    async def beat(self, reader: str, held: Sequence[Foreign]) -> tuple[set[Place], set[Place], set[str]]:
        """See TruthFlow."""
        now = asyncio.get_running_loop().time()
        self._share_out(now)
        self._due[reader] = now + self.idle
        self._share_out(now)
        mine = {(p.number, p.turn): p for p in self._parts if p.owner == reader}
        leaving = {place for place, p in mine.items() if p.asked_at is not None}
        lost = {each.position for each in held if (each.token[0], each.token[2]) not in mine}
        return set(mine), leaving, lost

    async def take(self, reader: str, held: Sequence[Foreign], limit: int) -> Sequence[Foreign]:
        """See TruthFlow. Where to go on in a partition only its reader knows."""
        self._share_out(asyncio.get_running_loop().time())
        given: list[Foreign] = []
        for part in self._parts:
            if part.owner != reader or part.asked_at is not None:
                continue
            known = [each.token[1] + 1 for each in held if (each.token[0], each.token[2]) == (part.number, part.turn)]
            start = max([part.committed, *known])
            some = [each for each in self.written if each.token[0] == part.number and each.token[1] >= start]
            some = some[: limit - len(given)]
            part.given = max(part.given, *(each.token[1] + 1 for each in some), 0)
            given += [replace(each, token=(*each.token, part.turn)) for each in some]
        return self._deliver(reader, given)

    async def commit(self, reader: str, records: Sequence[Foreign]) -> None:
        """See TruthFlow. Where its reader has lost them they are passed over."""
        for part in self._parts:
            mine = [each.token[1] + 1 for each in records if (each.token[0], each.token[2]) == (part.number, part.turn)]
            if mine and part.owner == reader:
                part.committed = max([part.committed, *mine])
                below = [r for r in self.written if r.token[0] == part.number and r.token[1] < part.committed]
                self._commit(reader, below)

    async def give_up(self, reader: str, places: Sequence[Place]) -> None:
        """See TruthFlow."""
        for part in self._parts:
            if part.owner == reader and (part.number, part.turn) in places:
                self._free(part)
        self._share_out(asyncio.get_running_loop().time())

    async def leave(self, reader: str) -> None:
        """See TruthFlow."""
        self._due.pop(reader, None)
        self._share_out(asyncio.get_running_loop().time())

    def _share_out(self, now: float) -> None:
        self._due = {reader: due for reader, due in self._due.items() if due > now}
        readers = list(self._due)
        for part in self._parts:
            wanted = readers[part.number % len(readers)] if readers else ""
            if part.owner == wanted:
                part.asked_at = None
                continue
            if part.owner in self._due:
                part.asked_at = now if part.asked_at is None else part.asked_at
                if now < part.asked_at + _FORCED:
                    continue
            self._free(part)
            part.owner, part.given = wanted, part.committed
            part.turn += 1

    def _free(self, part: _Partition) -> None:
        lost = [r for r in self.written if r.token[0] == part.number and part.committed <= r.token[1] < part.given]
        self._take_away(part.owner, [each.position for each in lost])
        part.owner, part.given, part.asked_at = "", part.committed, None


class Claims(TruthFlow):
    """Each record is claimed by the reader that it is given to, until it commits it or is silent for too long."""

    def __init__(self, record: Recorder, scenario: Scenario, flow: Flow) -> None:
        super().__init__(record, scenario, flow)
        self._claims: dict[str, tuple[str, float]] = {}
        """By position: whose, and until when."""

    async def beat(self, reader: str, held: Sequence[Foreign]) -> tuple[set[Place], set[Place], set[str]]:
        """See TruthFlow."""
        now, lost = asyncio.get_running_loop().time(), set[str]()
        for each in held:
            if self._claims.get(each.position, ("", 0.0))[0] == reader:
                self._claims[each.position] = reader, now + self.idle
            else:
                lost.add(each.position)
        return {(0, 0)}, set(), lost

    async def take(self, reader: str, held: Sequence[Foreign], limit: int) -> Sequence[Foreign]:
        """See TruthFlow. What was given to the reader and never arrived is given to it again."""
        now, known = asyncio.get_running_loop().time(), {each.position for each in held}
        given: list[Foreign] = []
        for each in self.left():
            owner, until = self._claims.get(each.position, ("", 0.0))
            if len(given) == limit or each.position in known or (owner not in ("", reader) and until > now):
                continue
            if owner:
                self._take_away(owner, [each.position])
            self._claims[each.position] = reader, now + self.idle
            given.append(replace(each, token=(*each.token, 0)))
        return self._deliver(reader, given)

    async def commit(self, reader: str, records: Sequence[Foreign]) -> None:
        """See TruthFlow. Also of those that another has claimed meanwhile: they are done."""
        self._commit(reader, records)


def flow_of(record: Recorder, scenario: Scenario) -> TruthFlow | None:
    """The flow of a scenario, if there is one."""
    flow = scenario.flow
    return None if flow is None else (Partitions if flow.partitions else Claims)(record, scenario, flow)
