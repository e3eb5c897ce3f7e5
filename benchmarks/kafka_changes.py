"""How long events of a wagon on Kafka wait when a process joins, leaves, or is killed, and which come twice.

Three processes receive and settle 1,000 events a second from eight partitions, in batches of at most 100. A fourth
joins, one leaves, one is killed. A wait is from publishing to `receive`, on the clock of this machine.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import msgspec

from eventwagon.drivers.kafka import KafkaBroker
from eventwagon.drivers.kafka.claims import TTL
from eventwagon.event import Channel, Event, new_ids

from .kit import Aim, Benchmark, Line, Run, in_turn, percentile, unused
from .places import place

_PARTITIONS = 8
_EVERY = 0.01  # s between two batches of ten
_CALM = 5.0  # s before each change
_AFTER = 3.0  # s after a change that count for it; twice as many after a kill
_VISIBILITY = 8.0  # s after which what the killed process held comes again


class _Got(msgspec.Struct, array_like=True):
    """One delivered event, in its order: when it was published and received, at which attempt."""

    id: str
    published: float
    received: float
    attempt: int


class _Waits(msgspec.Struct):
    """The longest wait in seconds of what came after each change, the p99 before it, and what came twice."""

    p99: list[float]
    """Before the fourth joins, before one leaves, before one is killed."""
    join: float
    leave: float
    kill: float
    """Of first deliveries: what the killed process held comes at its second."""
    twice: int
    """Delivered a second time before the kill."""
    settled: int
    """Counted as settled beyond what was published."""


async def run(how: Run) -> list[Line]:
    rounds = how.pick(5, 1)
    with how.scratch() as directory:
        async with place("Kafka", directory) as url:
            if url is None:
                return []
            [found] = await in_turn(rounds, partial(_round, url), warm=False)
    twice, settled = sum(one.twice for one in found), sum(one.settled for one in found)
    note = f"{rounds} rounds: {twice} delivered twice before the kill, {settled} counted as settled twice"
    return [
        _line("a fourth process joins", [one.join for one in found], [one.p99[0] for one in found]),
        _line("one of four leaves", [one.leave for one in found], [one.p99[1] for one in found]),
        Line(
            what="one of three is killed: longest first wait",
            against="p99 before",
            unit="s",
            ours=[one.kill for one in found],
            theirs=[one.p99[2] for one in found],
            aim=Aim("ours", most=TTL / 1000 + 0.5),
            note=note,
        ),
    ]


def _line(what: str, ours: Sequence[float], p99: Sequence[float]) -> Line:
    return Line(
        what=f"{what}: longest wait",
        against="p99 before",
        unit="ms",
        ours=[1000 * one for one in ours],
        theirs=[1000 * one for one in p99],
        aim=Aim("ratio", most=2.0),
    )


class _Member:
    """One receiving process."""

    def __init__(self, url: str, channel: Channel) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=_serve, args=(url, channel, theirs))
        self._process.start()
        theirs.close()
        self.got: list[_Got] = []
        self._reading = asyncio.create_task(asyncio.to_thread(self._read))

    def _read(self) -> None:
        with suppress(EOFError, ConnectionResetError):
            while True:
                self.got += msgspec.msgpack.decode(self._ours.recv_bytes(), type=list[_Got])

    async def end(self, *, kill: bool = False) -> None:
        """End it, by a message or by SIGKILL. Idempotent."""
        if kill:
            self._process.kill()
        else:
            with suppress(OSError):
                self._ours.send_bytes(b"end")
        await self._reading
        await asyncio.to_thread(self._process.join)


def _serve(url: str, channel: Channel, pipe: Connection) -> None:
    async def serve() -> None:
        asked = asyncio.Event()
        asyncio.get_running_loop().add_reader(pipe.fileno(), asked.set)
        async with KafkaBroker.from_url(url) as broker, broker.consume(channel, visibility=_VISIBILITY) as consumer:
            while not asked.is_set():
                found = await consumer.receive(100, 0.1)
                now = time.time()
                await consumer.settle(found)
                if found:
                    said = [_Got(d.event.id, d.event.time, now, d.attempt) for d in found]
                    pipe.send_bytes(msgspec.msgpack.encode(said))

    asyncio.run(serve())


@asynccontextmanager
async def _published(broker: KafkaBroker, channel: Channel) -> AsyncIterator[list[int]]:
    """Publishes 1,000 events a second meanwhile. Yields a list whose one item is how many."""
    count, stop = [0], asyncio.Event()

    async def publish() -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not stop.is_set():
            now = time.time()
            await broker.publish(channel, [Event(new, "Order", "/bench", now, b"x" * 200) for new in new_ids(10, now)])
            count[0] += 10
            due += _EVERY
            await asyncio.sleep(due - loop.time())

    task = asyncio.create_task(publish())
    try:
        yield count
    finally:
        stop.set()
        await task


async def _round(url: str) -> _Waits:
    channel = Channel(unused("changes"), 1)
    async with KafkaBroker.from_url(f"{url}?partitions={_PARTITIONS}") as broker:
        await broker.create(channel)
        members = [_Member(url, channel) for _ in range(3)]
        changes: list[float] = []
        try:
            async with _published(broker, channel) as count:
                await asyncio.sleep(_CALM)  # they begin
                await asyncio.sleep(_CALM)
                members.append(_Member(url, channel))
                while not members[-1].got:  # noqa: ASYNC110 - Python starts in the meantime
                    await asyncio.sleep(0.001)
                changes.append(members[-1].got[0].received - 0.5)
                await asyncio.sleep(_AFTER + _CALM)
                changes.append(time.time())
                await members[0].end()
                await asyncio.sleep(_AFTER + _CALM)
                changes.append(time.time())
                await members[1].end(kill=True)
                await asyncio.sleep(2 * _AFTER + _VISIBILITY)
            async with asyncio.timeout(30):
                while (settled := await _settled(broker, channel)) < count[0]:  # noqa: ASYNC110 - nobody tells of it
                    await asyncio.sleep(0.1)
        finally:
            for member in members:
                await member.end()
        await broker.delete(channel)
    return _waits([got for member in members for got in member.got], changes, settled - count[0])


async def _settled(broker: KafkaBroker, channel: Channel) -> int:
    return (await broker.depth([channel]))[0].settled or 0


def _waits(got: Sequence[_Got], changes: Sequence[float], beyond: int) -> _Waits:
    """`beyond`: how many more were settled than published."""
    join, leave, kill = changes

    def waits(start: float, stop: float) -> list[float]:
        return [one.received - one.published for one in got if one.attempt == 1 and start <= one.received < stop]

    often = Counter(one.id for one in got if one.received < kill)
    return _Waits(
        [percentile(waits(at - _CALM, at), 0.99) for at in changes],
        max(waits(join, join + _AFTER)),
        max(waits(leave, leave + _AFTER)),
        max(waits(kill, kill + 2 * _AFTER)),
        sum(n - 1 for n in often.values()),
        max(0, beyond),
    )


BENCHMARK = Benchmark(
    "kafka-changes", "how long events wait on Kafka when a process of the wagon joins, leaves or is killed", run
)
