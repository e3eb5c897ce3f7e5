"""What a file for each wagon brings over one file for all, when several processes write."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

from eventwagon.drivers.sqlite import SQLiteBroker
from eventwagon.event import Channel

from .kit import Aim, Benchmark, Line, Run, Stopwatch, in_turn, percentile, unused
from .sqlite_publish import batches

_WRITERS = 4
_BATCH = 50


async def run(how: Run) -> list[Line]:
    seconds = 0.5 if how.quick else 1.2
    with how.scratch() as directory, _Writers(directory) as writers:
        ours, theirs = await in_turn(
            how.pick(7, 3), lambda: writers.write(seconds, shared=False), lambda: writers.write(seconds, shared=True)
        )
    what, against = f"{_WRITERS} processes, a file each", f"{_WRITERS} processes, one file"
    apart, together = writers.slowest[2::2], writers.slowest[3::2]  # the first two were for warming up
    return [
        Line(what=what, against=against, unit="events/s", ours=ours, theirs=theirs, aim=Aim("ratio", least=4.3)),
        Line(what=f"p99 of a batch of {_BATCH}", against=against, unit="ms", ours=apart, theirs=together),
    ]


class _Writers:
    """Processes that publish when told to."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.slowest: list[float] = []
        """The p99 of each run's publishes in ms."""
        self._context = multiprocessing.get_context("spawn")

    def __enter__(self) -> _Writers:
        self._pipes = []
        self._processes = []
        for _ in range(_WRITERS):
            here, there = self._context.Pipe()
            process = self._context.Process(target=_writer, args=(str(self._directory), there), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)
        return self

    def __exit__(self, *exc: object) -> None:
        for pipe in self._pipes:
            pipe.close()  # that is what they end at
        for process in self._processes:
            process.join(10)
            if process.is_alive():
                process.kill()

    async def write(self, seconds: float, *, shared: bool) -> float:
        """All write for so long, to one wagon or to one each: events/s together."""
        train = unused("files")
        channels = [Channel(train, 1 if shared else n) for n in range(1, _WRITERS + 1)]
        async with SQLiteBroker(self._directory) as broker:
            for channel in channels:
                await broker.create(channel)
            await self._tell([(channel, seconds) for channel in channels])
            await self._hear()  # all have opened their file
            await self._tell([None] * _WRITERS)
            took = [seconds for answer in await self._hear() for seconds in answer]
        self.slowest.append(percentile(took, 0.99) * 1000)
        return len(took) * _BATCH / seconds

    async def _tell(self, words: Sequence[object]) -> None:
        for pipe, word in zip(self._pipes, words, strict=True):
            pipe.send(word)

    async def _hear(self) -> list[list[float]]:
        return [await asyncio.to_thread(pipe.recv) for pipe in self._pipes]


def _writer(directory: str, pipe: Pipe) -> None:
    asyncio.run(_serve(Path(directory), pipe))


async def _serve(directory: Path, pipe: Pipe) -> None:
    work = batches(_BATCH, 20)
    while True:
        try:
            channel, seconds = await asyncio.to_thread(pipe.recv)
        except EOFError:
            return
        took: list[float] = []
        async with SQLiteBroker(directory) as broker:
            await broker.publish(channel, work[0])
            pipe.send(took)
            await asyncio.to_thread(pipe.recv)
            whole = Stopwatch()
            while whole.seconds < seconds:
                watch = Stopwatch()
                await broker.publish(channel, work[len(took) % len(work)])
                took.append(watch.seconds)
        pipe.send(took)


BENCHMARK = Benchmark("sqlite-files", "four processes that write to four wagons' files against one shared file", run)
