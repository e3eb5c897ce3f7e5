"""Measures real processes on a real server: counts on the way, CPU time at both ends."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from benchmarks.places import SERVERS
from tests.servers.kafka import KafkaServer
from tests.servers.ports import free_port
from tests.servers.proxy import Proxy
from tests.servers.redis import ask
from tests.servers.server import Server

from .counting import Counts, Hearing, KafkaRequests, RedisRequests, check
from .model import Shape
from .process import Command, Told

EACH = 4
"""Workers of each wagon."""
_PARTITIONS = 4
_SETTLED = 12.0
"""Seconds until a train that has just begun is idle: what is waited for with a pause that grows, here."""
_CHANGED = 5.0
"""The same after further wagons or another rate: each process has checked in."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement: what all processes together asked of the server, and what it cost."""

    processes: int
    observers: int
    """How many of them observe."""
    wagons: int
    each: int
    rate: float
    """Events a second that were asked for; 0: idle."""
    seconds: float
    looks: int
    events: int
    requests: dict[str, int]
    sent: int
    """Bytes, to the server."""
    received: int
    """Bytes, from the server."""
    stored: float
    """Commands that Redis carried out, those of scripts included; records that were written to Kafka."""
    server_cpu: float
    """Seconds: of the main thread of Redis, of all threads of Kafka."""
    client_cpu: float
    """Seconds, of all processes together."""
    machine: float
    """The part of this machine's CPU time that was in use, by whomever: near 1, everything took longer."""

    @property
    def shape(self) -> Shape:
        """As the model takes it."""
        looks, events = self.looks / self.seconds, self.events / self.seconds
        return Shape(processes=self.processes, wagons=self.wagons, each=self.each, looks=looks, events=events)

    def per_second(self, measure: str) -> float:
        """One of MEASURES, a second."""
        value = sum(self.requests.values()) if measure == "requests" else getattr(self, measure)
        return float(value) / self.seconds


MEASURES = ("requests", "sent", "received", "stored", "server_cpu", "client_cpu")


class Step(msgspec.Struct, frozen=True):
    """What to measure at one number of processes: so many live wagons, events a second."""

    wagons: int
    rate: float = 0.0


class _Process:
    """One of the measured processes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def tell(self, command: Command) -> Told:
        """Give it a command, and wait until it is done."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(msgspec.json.encode(command) + b"\n")
        await stdin.drain()
        async with asyncio.timeout(180):
            line = await stdout.readline()
        if not line:
            raise RuntimeError(f"a measured process has ended with {await self._process.wait()}; see its output above")
        return msgspec.json.decode(line, type=Told)


async def measure(
    name: str,
    processes: int,
    observers: int,
    steps: Sequence[Step],
    directory: Path,
    *,
    window: float = 8.0,
    settled: float = _SETTLED,
) -> AsyncIterator[Point]:
    """Each step in turn, on a fresh server, with so many processes, of which so many observe. Raises Missing where the
    server is not installed."""
    async with AsyncExitStack() as stack:
        port = free_port()
        server = KafkaServer(directory, advertised=port) if name == "Kafka" else SERVERS[name](directory)
        hearing = Hearing(KafkaRequests if name == "Kafka" else RedisRequests)
        await stack.enter_async_context(Proxy(server.host, server.port, listen=port, listener=hearing.listener))
        stack.push_async_callback(asyncio.to_thread, server.close)
        await asyncio.to_thread(server.start)
        query = f"?partitions={_PARTITIONS}" if name == "Kafka" else ""
        url = f"{name.lower()}://{server.host}:{port}{query}"
        running = [await stack.enter_async_context(_started(url, n < observers)) for n in range(processes)]
        await asyncio.gather(*(one.tell(Command()) for one in running))  # they run
        wagons, rate, pause = 1, 0.0, settled
        for step in steps:
            if step.wagons != wagons:
                await running[0].tell(Command(wagons=step.wagons))
            if step.rate != rate:
                await asyncio.gather(*(one.tell(Command(rate=step.rate / processes)) for one in running))
            wagons, rate = step.wagons, step.rate
            await asyncio.sleep(pause)
            pause = min(settled, _CHANGED)
            yield await _window(name, server, hearing, running, observers, step, window)


@asynccontextmanager
async def _started(url: str, observes: bool) -> AsyncIterator[_Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.scale.process", url, "scaled", str(EACH), "yes" if observes else "no",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield _Process(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _window(
    name: str, server: Server, hearing: Hearing, running: Sequence[_Process], observers: int, step: Step, seconds: float
) -> Point:
    """Count for so many seconds."""
    stored: Callable[[], Awaitable[float]] = partial(asyncio.to_thread, _STORED[name], server)
    stored_before, stored_began = await stored(), time.monotonic()
    told = await asyncio.gather(*(one.tell(Command()) for one in running))
    machine = _machine()
    before, began, cpu = hearing.counts, time.monotonic(), server_cpu(name, server)
    moved = redis_bytes(server) if name == "Redis" else None
    await asyncio.sleep(seconds)
    counts, took, cpu = hearing.counts.since(before), time.monotonic() - began, server_cpu(name, server) - cpu
    in_use = [after - before for before, after in zip(machine, _machine(), strict=True)]
    if moved is not None:
        sent, received = redis_bytes(server)
        check(counts, sent=sent - moved[0], received=received - moved[1])
    after = await asyncio.gather(*(one.tell(Command()) for one in running))
    stored_rate = (await stored() - stored_before) / (time.monotonic() - stored_began)
    return _point(
        step, len(running), observers, counts, took, stored_rate * took, cpu, told, after, in_use[0] / sum(in_use)
    )


def _point(
    step: Step,
    processes: int,
    observers: int,
    counts: Counts,
    took: float,
    stored: float,
    cpu: float,
    before: Sequence[Told],
    after: Sequence[Told],
    machine: float,
) -> Point:
    def grown(field: str) -> float:
        return float(sum(getattr(b, field) - getattr(a, field) for a, b in zip(before, after, strict=True)))

    return Point(
        processes=processes,
        observers=observers,
        wagons=step.wagons,
        each=EACH,
        rate=step.rate,
        seconds=took,
        looks=round(grown("looks")),
        events=round(grown("published")),
        requests=counts.requests,
        sent=counts.sent,
        received=counts.received,
        stored=stored,
        server_cpu=cpu,
        client_cpu=grown("cpu"),
        machine=machine,
    )


def server_cpu(name: str, server: Server) -> float:
    """Seconds of CPU time that the server has used: Redis serves in its main thread, Kafka in all."""
    process = Path(f"/proc/{server.pid}")
    if name == "Redis":
        return int((process / "schedstat").read_text().split()[0]) / 1e9
    used = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


def _machine() -> tuple[int, int]:
    """CPU time of this machine until now: in use, and idle (or waiting for a disk)."""
    times = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(times) - times[3] - times[4], times[3] + times[4]


def redis_bytes(server: Server) -> tuple[int, int]:
    """Received and sent, as Redis counts them."""
    found = _info(server)
    return found["total_net_input_bytes"], found["total_net_output_bytes"]


def _info(server: Server) -> dict[str, int]:
    lines = ask(server.port, "INFO", "stats").decode().splitlines()
    pairs = (line.partition(":") for line in lines)
    return {key: int(value) for key, _, value in pairs if value.isdigit()}


def _commands(server: Server) -> float:
    return _info(server)["total_commands_processed"]


def _records(server: Server) -> float:
    """Of all topics: where each partition ends."""
    assert isinstance(server, KafkaServer)
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    topics = admin.list_topics(timeout=10).topics
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    ends = {TopicPartition(name, p): latest for name, topic in topics.items() for p in topic.partitions}
    return float(sum(found.result().offset for found in admin.list_offsets(ends, request_timeout=10).values()))


_STORED: dict[str, Callable[[Server], float]] = {"Redis": _commands, "Kafka": _records}
