"""Events over HTTP into a train on Redis, against a bare ASGI application on the same server; and around a switch."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec

from eventwagon import Train
from eventwagon.cli.http import listen, server
from eventwagon.limits import Volume
from eventwagon.workers import Workers

from .kit import Aim, Benchmark, Line, Run, in_turn, percentile
from .places import place

_CLIENTS = 64
_SECONDS = 4.0
_DATA = b'{"x":"%s"}' % (b"x" * 190)
_PACED = 400
"""Requests a second around a switch: a fraction of what the machine can do, since this is about waits."""

train = Train("gateway", limit=Volume(100_000_000), workers=Workers(total=8), spares=1)


@train.on("gateway")
async def handle(_: object) -> None:
    """Nothing."""


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """The bare application: it reads the body and answers with it."""
    body = (await receive())["body"]
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 202, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve_echo() -> None:
    """Serve it until the process is ended."""

    async def main() -> None:
        listening = listen("127.0.0.1", 0)
        print(f"http://127.0.0.1:{listening.getsockname()[1]}/", flush=True)
        await server(echo, connections=10_000).serve(sockets=[listening])

    asyncio.run(main())


class _Found(msgspec.Struct, frozen=True):
    """What a load came to: requests a second, and how long each took, in seconds."""

    rate: float
    took: list[float]


async def run(how: Run) -> list[Line]:
    rounds = how.pick(5, 2)
    with how.scratch() as directory:
        async with place("Redis", directory) as url:
            if url is None:
                return []
            ours = [
                sys.executable,
                "-m",
                "eventwagon",
                "gateway",
                "benchmarks.gateway:train",
                "--url",
                url,
                "--port",
                "0",
            ]
            bare = [sys.executable, "-c", "from benchmarks.gateway import serve_echo; serve_echo()"]
            async with _serving(ours) as gateway, _serving(bare) as other:
                loaded = await in_turn(rounds, partial(_load, gateway), partial(_load, other))
                switched = await _around_a_switch(url, gateway, rounds)
    return [
        Line(
            what=f"events over HTTP, {_CLIENTS} clients, 200 bytes, Redis",
            against="ASGI echo, same server",
            unit="/s",
            ours=[one.rate for one in loaded[0]],
            theirs=[one.rate for one in loaded[1]],
            aim=Aim("ratio", least=0.5),
        ),
        Line(
            what="p99 in the second of a switch",
            against="the second before",
            unit="ms",
            ours=[during for _, during in switched],
            theirs=[before for before, _ in switched],
            aim=Aim("ratio", most=1.5),
            note=f"{_PACED} requests a second",
        ),
    ]


@asynccontextmanager
async def _serving(command: Sequence[str]) -> AsyncIterator[int]:
    """Run the command; yields the port that it prints."""
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=dict(os.environ))
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        port = re.search(r":(\d+)/", line)
        assert port is not None, line
        yield int(port[1])
    finally:
        process.terminate()
        await process.wait()


class _Client:
    """One connection that is kept."""

    def __init__(self, port: int, number: int) -> None:
        self._port = port
        self._name = b"%d-%d" % (number, time.time_ns())
        self._sent = 0

    async def __aenter__(self) -> _Client:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def ask(self) -> float:
        """Publish one event. Returns the seconds that it took."""
        self._sent += 1
        began = time.perf_counter()
        self._writer.write(
            b"POST /trains/gateway/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nce-id: %s-%d\r\n"
            b"ce-source: /bench\r\nce-type: bench\r\nce-specversion: 1.0\r\ncontent-length: %d\r\n\r\n%s"
            % (self._name, self._sent, len(_DATA), _DATA)
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length is not None
        body = await self._reader.readexactly(int(length[1]))
        assert head.startswith(b"HTTP/1.1 202"), head + body
        return time.perf_counter() - began


async def _load(port: int) -> _Found:
    took: list[float] = []

    async def client(number: int) -> None:
        async with _Client(port, number) as one:
            while time.perf_counter() < until:
                took.append(await one.ask())

    began = time.perf_counter()
    until = began + _SECONDS
    async with asyncio.TaskGroup() as group:
        for number in range(_CLIENTS):
            group.create_task(client(number))
    return _Found(len(took) / (time.perf_counter() - began), took)


async def _around_a_switch(url: str, port: int, rounds: int) -> list[tuple[float, float]]:
    """The p99 in ms of the second before a switch and of the second in which it is asked for, for each round."""
    found: list[tuple[float, float]] = []
    async with train.connect(url, listeners=()) as c, c.running():
        for turn in range(rounds):
            until = time.perf_counter() + 4.0
            seen: list[tuple[float, float]] = []

            async def client(which: int, until: float, seen: list[tuple[float, float]]) -> None:
                async with _Client(port, which) as one:
                    due = time.perf_counter() + which % 16 / _PACED
                    while due < until:
                        await asyncio.sleep(max(0.0, due - time.perf_counter()))
                        began = time.perf_counter()
                        seen.append((began, await one.ask()))
                        due += 16 / _PACED

            async with asyncio.TaskGroup() as group:
                for which in range(16):
                    group.create_task(client(1000 * turn + which, until, seen))
                await asyncio.sleep(2.5)
                switched = time.perf_counter()
                number = await c.request_switch("benchmark")
                await asyncio.wait_for(c.wait_switched(number), 20)
            calm = [took for at, took in seen if switched - 1 <= at < switched - 0.1]
            during = [took for at, took in seen if switched - 0.1 <= at < switched + 0.9]
            found.append((percentile(calm, 0.99) * 1000, percentile(during, 0.99) * 1000))
    return found


BENCHMARK = Benchmark("gateway", "what does HTTP cost in front of a train?", run)
