"""All benchmarks, and running one in a process of its own."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

import msgspec

from . import (
    archive,
    elastic,
    gateway,
    handlers,
    idle_processes,
    isolation,
    kafka,
    kafka_changes,
    kafka_processes,
    kubernetes,
    later,
    many_publishers,
    memory_flat,
    next_wagon,
    observed,
    observer,
    once,
    path,
    pulsar,
    redis_consume,
    redis_publish,
    replays,
    sqlite_callers,
    sqlite_files,
    sqlite_publish,
    switch,
    trains,
    units,
)
from .kit import Benchmark, Line, Run

BENCHMARKS = {
    module.BENCHMARK.name: module.BENCHMARK
    for module in (
        sqlite_publish,
        sqlite_callers,
        sqlite_files,
        path,
        switch,
        next_wagon,
        observer,
        observed,
        once,
        archive,
        memory_flat,
        handlers,
        isolation,
        units,
        trains,
        idle_processes,
        many_publishers,
        gateway,
        redis_publish,
        replays,
        redis_consume,
        kafka,
        kafka_changes,
        kafka_processes,
        kubernetes,
        elastic,
        pulsar,
        later,
    )
}


class Result(msgspec.Struct, frozen=True):
    """What came of one benchmark."""

    benchmark: Benchmark
    seconds: float
    lines: list[Line]
    error: str = ""


def measure(name: str, how: Run) -> Result:
    """Run it on a fresh heap, so that what one leaves behind is not the next one's."""
    benchmark = BENCHMARKS[name]
    began = time.perf_counter()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        try:
            lines: list[Line] = process.submit(_run, name, how).result()
        except Exception as e:  # noqa: BLE001 - the other benchmarks go on
            return Result(benchmark, time.perf_counter() - began, [], f"{type(e).__name__}: {e}")
    return Result(benchmark, time.perf_counter() - began, lines)


def _run(name: str, how: Run) -> list[Line]:
    async def run() -> list[Line]:
        lines: list[Line] = await BENCHMARKS[name].run(how)
        return lines

    return asyncio.run(run())
