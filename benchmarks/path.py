"""The whole path, publish → handle → settle, with a handler that does nothing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from eventwagon import Train
from eventwagon.connection import Connection
from eventwagon.contracts.metering import Meter
from eventwagon.limits import Volume
from eventwagon.workers import Workers

from .kit import Aim, Benchmark, Line, Order, Run, Stopwatch, in_turn, orders, unused
from .raw import RawSQLite
from .sqlite_publish import batches

_PUBLISHERS = 4
_BATCH = 500
_decode = msgspec.json.Decoder(Order).decode


async def run(how: Run) -> list[Line]:
    rounds = how.pick(7, 3)
    with how.scratch() as directory:
        count = how.pick(60_000, 20_000)
        memory = await in_turn(rounds, lambda: whole("memory://", count), lambda: _deque(count))
        count = how.pick(24_000, 8_000)
        sqlite = await in_turn(
            rounds,
            lambda: whole(f"sqlite:///{directory}/{unused('path')}", count),
            lambda: _statements(directory, count),
        )
    unit = "events/s"
    return [
        Line(
            what="memory",
            against="a deque",
            unit=unit,
            ours=memory[0],
            theirs=memory[1],
            aim=Aim("ours", least=40_000),
        ),
        Line(
            what="SQLite, FULL",
            against="apsw: insert, select, delete",
            unit=unit,
            ours=sqlite[0],
            theirs=sqlite[1],
            aim=Aim("ours", least=15_000),
        ),
    ]


async def whole(url: str, count: int, meter: Meter | None = None, archive: str | None = None) -> float:
    """Events/s from the first publish until all are settled, with the observer at work as ever."""
    train = Train("bench", limit=Volume(10**9), workers=Workers(total=8), archive=archive)
    left = count
    handled = asyncio.Event()

    @train.on("bench")
    async def handle(order: Order) -> None:
        nonlocal left
        left -= 1
        if not left:
            handled.set()

    work = orders(count)
    async with train.connect(url, listeners=(), meter=meter) as connection, connection.running():
        watch = Stopwatch()
        await asyncio.gather(*(connection.publish_many(work[n::_PUBLISHERS]) for n in range(_PUBLISHERS)))
        await handled.wait()
        while True:
            if await _settled(connection) >= count:
                return count / watch.seconds
            await asyncio.sleep(0.001)


async def _settled(connection: Connection) -> int:
    depths = await connection.depths()
    return sum(channels[""].settled or 0 for channels in depths.values())


async def _deque(count: int) -> float:
    """Encode, append a batch, take a batch, decode, call: what nobody can do without."""
    stored: deque[bytes] = deque()

    async def handle(order: Order) -> None:
        pass

    async def publish() -> None:
        work = orders(count)
        for start in range(0, count, _BATCH):
            stored.extend([msgspec.json.encode(order) for order in work[start : start + _BATCH]])
            await asyncio.sleep(0)

    async def consume() -> None:
        done = 0
        while done < count:
            for _ in range(min(_BATCH, len(stored))):
                await handle(_decode(stored.popleft()))
                done += 1
            await asyncio.sleep(0)

    return await _timed(count, publish, consume)


async def _statements(directory: Path, count: int) -> float:
    """The same with a file in between: no claims, so nothing would come back after a crash in the middle of a batch."""
    async with RawSQLite(directory / unused("raw")) as file:

        async def handle(order: Order) -> None:
            pass

        async def publish() -> None:
            for _ in range(count // _BATCH):
                await file.publish(batches(_BATCH, 1)[0])

        async def consume() -> None:
            done = 0
            while done < count:
                got = await file.receive(_BATCH)
                for _, data in got:
                    await handle(_decode(data))
                if got:
                    await file.settle(got[-1][0])
                    done += len(got)

        return await _timed(count, publish, consume)


async def _timed(count: int, *parts: Callable[[], Awaitable[None]]) -> float:
    watch = Stopwatch()
    await asyncio.gather(*(part() for part in parts))
    return count / watch.seconds


BENCHMARK = Benchmark("path", "publish → handle → settle with an empty handler, against a bare batch loop", run)
