"""What an event costs on Kafka, in bytes and CPU time, as more processes share a wagon; beside the bare client.

Each process counts the bytes of its own TCP connections, as the system does, and its own CPU time from before it
attaches to its last settle. Filling the channel, and Python's own start, are not measured.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from urllib.parse import urlsplit

import msgspec
from confluent_kafka import Consumer, TopicPartition

from eventwagon.drivers.kafka import KafkaBroker
from eventwagon.event import Channel

from .kit import Aim, Benchmark, Line, Run, in_turn, unused
from .places import place
from .sockets import moved
from .sqlite_publish import batches

_PARTITIONS = 8
_SIZE = 1000
_PROCESSES = (1, 2, 4, 8)
_QUIET = 1.5  # s without an event after which a process asks whether all are settled


class Part(msgspec.Struct):
    """What one process did: how many events, bytes moved, CPU seconds, and when it settled its last."""

    events: int
    bytes: int
    cpu: float
    ended: float


class Whole(msgspec.Struct):
    """What an event cost all processes together: bytes, CPU in µs; and the rate in events/s."""

    bytes: float
    cpu: float
    rate: float


async def run(how: Run) -> list[Line]:
    rounds, count = how.pick(5, 1), how.pick(240_000, 60_000)
    with how.scratch() as directory:
        async with place("Kafka", directory) as url:
            if url is None:
                return []
            sides = [partial(_measure, url, count, k, _ours) for k in _PROCESSES]
            sides += [partial(_measure, url, count, k, _bare) for k in _PROCESSES]
            sides += [partial(_measure, url, count, k, _ours, "structured") for k in (1, _PROCESSES[-1])]
            found = await in_turn(rounds, *sides, warm=False)
    each = len(_PROCESSES)
    ours, bare, structured = found[:each], found[each : 2 * each], found[2 * each :]
    lines = [_line(f"bytes an event, {k} processes", "B", "bytes", ours[i], bare[i]) for i, k in enumerate(_PROCESSES)]
    lines += [_line(f"CPU an event, {k} processes", "µs", "cpu", ours[i], bare[i]) for i, k in enumerate(_PROCESSES)]
    lines += [_line(f"rate, {k} processes", "events/s", "rate", ours[i], bare[i]) for i, k in enumerate(_PROCESSES)]
    for k, mine, theirs in zip((1, _PROCESSES[-1]), structured, (bare[0], bare[-1]), strict=True):
        lines.append(_line(f"rate, {k} processes, structured mode", "events/s", "rate", mine, theirs))
    lines.append(_line("bytes an event, 8 processes", "B", "bytes", ours[-1], ours[0], 1.25))
    lines.append(_line("CPU an event, 8 processes", "µs", "cpu", ours[-1], ours[0], 1.8))
    return lines


def _line(what: str, unit: str, field: str, ours: list[Whole], theirs: list[Whole], most: float = 0.0) -> Line:
    return Line(
        what=what,
        against="1 process" if most else "confluent-kafka: consume, headers, commit",
        unit=unit,
        ours=[getattr(one, field) for one in ours],
        theirs=[getattr(one, field) for one in theirs],
        aim=Aim("ratio", most=most) if most else None,
    )


async def _measure(url: str, count: int, processes: int, side: Callable[..., Part], mode: str = "binary") -> Whole:
    channel = Channel(unused("processes"), 1)
    async with KafkaBroker.from_url(f"{url}?partitions={_PARTITIONS}&mode={mode}") as broker:
        await broker.create(channel)
        for batch in batches(_SIZE, count // _SIZE):
            await broker.publish(channel, batch)
            await asyncio.sleep(0.011)  # the next one goes to another partition
        # one worker a process: the pool must not give two of them to the same one
        began = 0.0
        context = multiprocessing.get_context("spawn")
        with multiprocessing.Manager() as manager:
            ready = manager.Barrier(processes + 1)
            pools = [ProcessPoolExecutor(1, mp_context=context) for _ in range(processes)]
            try:
                parts: list[Future[Part]] = [
                    pool.submit(side, url, channel, count, n, processes, ready) for n, pool in enumerate(pools)
                ]
                await asyncio.to_thread(ready.wait)
                began = time.time()
                done = [await asyncio.wrap_future(part) for part in parts]
            finally:
                for pool in pools:
                    pool.shutdown()
        await broker.delete(channel)
    events = sum(part.events for part in done)
    assert events >= count, (events, count)
    return Whole(
        sum(part.bytes for part in done) / count,
        sum(part.cpu for part in done) * 1e6 / count,
        count / (max(part.ended for part in done) - began),
    )


def _ours(url: str, channel: Channel, count: int, number: int, processes: int, ready: object) -> Part:
    return asyncio.run(_consume(url, channel, count, ready))


async def _consume(url: str, channel: Channel, count: int, ready: object) -> Part:
    async with KafkaBroker.from_url(url) as broker:
        await asyncio.to_thread(ready.wait)  # type: ignore[attr-defined]
        part, began = Part(0, 0, 0.0, 0.0), time.process_time()
        async with broker.consume(channel, visibility=600.0) as consumer:
            while True:
                got = await consumer.receive(_SIZE, _QUIET)
                if got:
                    await consumer.settle(got)
                    part.events += len(got)
                    part.cpu, part.ended = time.process_time() - began, time.time()
                elif (await broker.depth([channel]))[0].settled == count:
                    part.bytes = moved().bytes
                    return part


def _bare(url: str, channel: Channel, count: int, number: int, processes: int, ready: object) -> Part:
    servers, group = urlsplit(url).netloc, f"bare-{channel}-{number}"
    config = {"group.id": group, "enable.auto.commit": False, "log_level": 0, "enable.partition.eof": True}
    ready.wait()  # type: ignore[attr-defined]
    began = time.process_time()
    consumer = Consumer({"bootstrap.servers": servers, **config})
    mine = [p for p in range(_PARTITIONS) if p % processes == number]
    consumer.assign([TopicPartition(str(channel), p, 0) for p in mine])
    part, left = Part(0, 0, 0.0, 0.0), set(mine)
    while left:
        got = consumer.consume(_SIZE, 0.05)
        events = [message for message in got if message.error() is None]
        left -= {message.partition() for message in got if message.error() is not None}
        for message in events:
            dict(message.headers() or ())
            message.value()
        part.events += sum(len(message.headers() or ()) > 1 for message in events)  # others are probes
        if events:
            consumer.commit(message=events[-1], asynchronous=False)
            part.cpu, part.ended = time.process_time() - began, time.time()
    part.bytes = moved().bytes
    consumer.close()
    return part


BENCHMARK = Benchmark(
    "kafka-processes", "bytes and CPU of an event on Kafka with 1, 2, 4, 8 processes, beside the bare client", run
)
