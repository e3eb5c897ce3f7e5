"""What a replay at full speed does to new events: wagons in one process, and in a process each."""

from __future__ import annotations

import asyncio
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from eventwagon import PastEvents, Train, Volume, Workers
from eventwagon.connection import Connection

from .kit import Aim, Benchmark, Line, Run, percentile

_TIMES, _ARCHIVE = "EVENTWAGON_BENCH_TIMES", "EVENTWAGON_BENCH_ARCHIVE"
_EVERY = 0.01  # seconds between two new events


def made(archive: str | None) -> Train:
    """The train, with an archive in this place."""
    train = Train("replays", limit=Volume(10**9), workers=Workers(each=4), grace=1.0, archive=archive)

    @train.on("replays")
    async def handle(payload: dict[str, float]) -> None:
        """Note how long a new event has waited; do nothing with a past one."""
        if "at" in payload:
            _note(time.time() - payload["at"])

    return train


def _note(seconds: float) -> None:
    with Path(os.environ[_TIMES]).open("ab") as file:
        file.write(struct.pack("d", seconds))


train = made(os.environ.get(_ARCHIVE))


async def run(how: Run) -> list[Line]:
    past = how.pick(100_000, 40_000)
    lines = []
    for name, isolated, aim in (
        ("wagons in one process", False, None),
        ("a process per wagon", True, Aim("ratio", most=1.3)),
    ):
        pairs = [await _p99s(how, past, isolated=isolated) for _ in range(how.pick(5, 2))]
        lines.append(
            Line(
                what=f"{name}: new events' p99 during a replay at full speed",
                against="just before it",
                unit="ms",
                ours=[during for _, during in pairs],
                theirs=[before for before, _ in pairs],
                aim=aim,
                note=f"from publish to handled, {1 / _EVERY:.0f} new events/s; {past:,} events replayed; "
                f"{os.cpu_count()} cores",
            )
        )
    return lines


async def _p99s(how: Run, past: int, *, isolated: bool) -> tuple[float, float]:
    """Milliseconds from publish to handled that 99 in 100 new events do not exceed: for three seconds before a
    replay, and until all its events are published."""
    with how.scratch() as directory:
        times, archive, url = directory / "times", (directory / "archive").as_uri(), f"sqlite:///{directory}/trains"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "eventwagon", "run", "benchmarks.replays:train", "--url", url),
            *(["--isolate"] if isolated else []),
            env={**os.environ, _TIMES: str(times), _ARCHIVE: archive},
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(180), made(archive).connect(url, listeners=()) as connection:
                await connection.publish_many([{}] * past)
                await connection.request_switch()
                await connection.wait_drained(1)
                replays = connection.replays
                ends = time.monotonic() + 3.0
                before = await _fresh(connection, lambda: time.monotonic() < ends)
                number = (await replays.request(PastEvents(wagon=1))).number
                during = await _fresh(connection, lambda: any(r.fed < past for r in replays.standing))
                await _handled(times, before + during)
                await replays.wait(number)
        finally:
            process.terminate()
            await process.wait()
        waits = [s * 1000 for (s,) in struct.iter_unpack("d", times.read_bytes())]
        return percentile(waits[:before], 0.99), percentile(waits[before:], 0.99)


async def _fresh(connection: Connection, goes_on: Callable[[], bool]) -> int:
    """Publish new events at an even rate. Returns how many."""
    count = 0
    while goes_on():
        await connection.publish({"at": time.time()})
        await asyncio.sleep(_EVERY)
        count += 1
    return count


async def _handled(times: Path, count: int) -> None:
    while True:
        if os.path.getsize(times) >= count * 8:  # noqa: PTH202, ASYNC240
            return
        await asyncio.sleep(0.05)


BENCHMARK = Benchmark("replays", "new events' p99 while past ones are replayed at full speed", run)
