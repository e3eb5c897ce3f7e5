"""What publishing to Pulsar, receiving and settling cost over the bare client's calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pulsar  # type: ignore[import-untyped]

from eventwagon.drivers.pulsar import PulsarBroker
from eventwagon.drivers.pulsar.wire import properties
from eventwagon.event import Channel, Event

from .kit import Aim, Benchmark, Line, Run, Stopwatch, in_turn, unused
from .places import place
from .sqlite_publish import batches

_PUBLISH = Aim("ratio", least=0.9)
_CONSUME = Aim("ratio", least=0.8)
_CALLERS = 64


async def run(how: Run) -> list[Line]:
    rounds = how.pick(7, 3)
    count = how.pick(20_000, 6_400)
    with how.scratch() as directory:
        async with place("Pulsar", directory) as url:
            if url is None:
                return []
            url = url.split("&registry=")[0]
            return [
                await _many(url, count, rounds),
                await _callers(url, count // _CALLERS, rounds),
                await _consume(url, count, rounds),
            ]


async def _many(url: str, count: int, rounds: int) -> Line:
    work = batches(1000, count // 1000)

    async def ours() -> float:
        async with PulsarBroker.from_url(url) as broker:
            channel = Channel(unused("bench"), 1)
            await broker.create(channel)
            await broker.publish(channel, work[0][:1])
            watch = Stopwatch()
            await asyncio.gather(*(broker.publish(channel, batch) for batch in work))
            speed = len(work) * 1000 / watch.seconds
            await broker.delete(channel)
            return speed

    flat = [event for batch in work for event in batch]
    mine, raw, batched = await in_turn(
        rounds,
        ours,
        lambda: asyncio.to_thread(_raw, url, flat, len(flat), batching=False),
        lambda: asyncio.to_thread(_raw, url, flat, len(flat), batching=True),
    )
    return Line(
        what="calls of 1,000",
        against="pulsar-client, send_async",
        unit="events/s",
        ours=mine,
        theirs=raw,
        aim=_PUBLISH,
        note=f"with the client's own batching, which this driver does not use: {_median(mine, batched)}",
    )


async def _callers(url: str, each: int, rounds: int) -> Line:
    work = batches(1, each * _CALLERS)

    async def ours() -> float:
        async with PulsarBroker.from_url(url) as broker:
            channel = Channel(unused("bench"), 1)
            await broker.create(channel)
            await broker.publish(channel, work[0])

            async def call(first: int) -> None:
                for batch in work[first::_CALLERS]:
                    await broker.publish(channel, batch)

            watch = Stopwatch()
            await asyncio.gather(*(call(first) for first in range(_CALLERS)))
            speed = len(work) / watch.seconds
            await broker.delete(channel)
            return speed

    flat = [batch[0] for batch in work]
    mine, raw, batched = await in_turn(
        rounds,
        ours,
        lambda: asyncio.to_thread(_raw, url, flat, _CALLERS, batching=False),
        lambda: asyncio.to_thread(_raw, url, flat, _CALLERS, batching=True),
    )
    return Line(
        what=f"{_CALLERS} callers of one event",
        against=f"pulsar-client, {_CALLERS} under way",
        unit="events/s",
        ours=mine,
        theirs=raw,
        aim=_PUBLISH,
        note=f"with the client's own batching: {_median(mine, batched)}",
    )


async def _consume(url: str, count: int, rounds: int) -> Line:
    work = batches(1000, count // 1000)

    async def ours() -> float:
        async with PulsarBroker.from_url(url) as broker:
            channel = Channel(unused("bench"), 1)
            await broker.create(channel)
            await asyncio.gather(*(broker.publish(channel, batch) for batch in work))
            watch, done = Stopwatch(), 0
            async with broker.consume(channel, visibility=600.0) as consumer:
                while done < len(work) * 1000:
                    got = await consumer.receive(500, 5.0)
                    await consumer.settle(got)
                    done += len(got)
                speed = done / watch.seconds
            await broker.delete(channel)
            return speed

    flat = [event for batch in work for event in batch]
    mine, raw = await in_turn(rounds, ours, lambda: asyncio.to_thread(_drained, url, flat))
    return Line(
        what="receive and settle 500",
        against="pulsar-client, receive and acknowledge",
        unit="events/s",
        ours=mine,
        theirs=raw,
        aim=_CONSUME,
    )


class _Topic:
    """A topic with a subscription, and a client of its own."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        name = unused("raw")
        self.topic = f"persistent://public/default/{name}"
        self._path = f"{parse_qs(parts.query)['admin'][0]}/admin/v2/persistent/public/default/{name}"
        self._service = f"{parts.scheme}://{parts.netloc}"

    def __enter__(self) -> _Topic:
        httpx.put(self._path, timeout=30).raise_for_status()
        earliest = {"ledgerId": -1, "entryId": -1}
        httpx.put(f"{self._path}/subscription/bench", json=earliest, timeout=30).raise_for_status()
        quiet = pulsar.ConsoleLogger(pulsar._pulsar.LoggerLevel.Error)
        self.client: Any = pulsar.Client(self._service, logger=quiet)
        return self

    def __exit__(self, *exc: object) -> None:
        self.client.close()
        httpx.delete(self._path, params={"force": "true"}, timeout=30)


def _raw(url: str, events: Sequence[Event], under_way: int, *, batching: bool) -> float:
    """send_async with the same bytes and properties, up to so many without an answer."""
    with _Topic(url) as on:
        producer = on.client.create_producer(
            on.topic, batching_enabled=batching, batching_max_publish_delay_ms=1, max_pending_messages=20_000
        )
        producer.send(b"first")
        watch = Stopwatch()
        _send(producer, events, under_way)
        return len(events) / watch.seconds


def _send(producer: Any, events: Sequence[Event], under_way: int) -> None:
    room, done = threading.Semaphore(under_way), threading.Event()
    answers: list[None] = []

    def answered(result: Any, _: Any) -> None:
        assert result == pulsar.Result.Ok, result
        answers.append(None)
        room.release()
        if len(answers) == len(events):
            done.set()

    for event in events:
        room.acquire()
        producer.send_async(event.data, answered, properties=properties(event))
    done.wait()


def _drained(url: str, events: Sequence[Event]) -> float:
    """receive and acknowledge, one by one, as the client's manual has it; the payload and properties are looked at."""
    with _Topic(url) as on:
        _send(on.client.create_producer(on.topic, max_pending_messages=20_000), events, 5_000)
        watch = Stopwatch()
        consumer = on.client.subscribe(on.topic, "bench", pulsar.ConsumerType.Shared)
        for _ in events:
            message = consumer.receive()
            message.data(), message.properties()
            consumer.acknowledge(message)
        return len(events) / watch.seconds


def _median(mine: Sequence[float], theirs: Sequence[float]) -> str:
    ratios = sorted(a / b for a, b in zip(mine, theirs, strict=True))
    return f"{ratios[len(ratios) // 2]:.2f}×"


BENCHMARK = Benchmark(
    "pulsar", "PulsarBroker's publish, receive and settle against the bare client's calls, the same bytes", run
)
