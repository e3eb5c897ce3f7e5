"""One measured process: `python -m benchmarks.scale.process URL TRAIN EACH OBSERVE`. It works for the train and
publishes to it, and observes it if OBSERVE is `yes`. Each line on its standard input is a command in JSON, and it
answers with one line."""

from __future__ import annotations

import asyncio
import sys
import time
from itertools import count
from typing import Any

import msgspec

from benchmarks.kit import Order
from eventwagon import Train, Volume, Workers
from eventwagon.connection import Connection
from eventwagon.runtime.observer import Observer


class Command(msgspec.Struct, omit_defaults=True):
    """What the process should do; it always tells."""

    rate: float | None = None
    """Publish so many events a second from now on, one a call."""
    wagons: int | None = None
    """Switch until so many wagons are live. Each but the active one is sealed and has an event at work."""


class Told(msgspec.Struct):
    """What it has done since it began."""

    looks: int
    handled: int
    published: int
    cpu: float
    """Seconds of CPU time."""


class _Counted:
    """Of this process."""

    looks = 0
    handled = 0
    published = 0


def _count_looks(counted: _Counted) -> None:
    look = Observer.look

    async def counting(self: Observer, tasks: asyncio.TaskGroup) -> None:
        counted.looks += 1
        await look(self, tasks)

    Observer.look = counting  # type: ignore[method-assign]


async def _publish(connection: Connection, rate: float, counted: _Counted) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in count():
        await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
        await connection.publish(Order(number, "customer", "x" * 150))
        counted.published += 1


async def _grow(connection: Connection, wagons: int) -> None:
    """Each wagon gets an event whose handler never ends, and is sealed."""
    while (active := connection.manifest.active) is None or len(connection.manifest.wagons) < wagons:
        if active is not None:
            await connection.publish(Order(-1, "holds its wagon", ""))
            await connection.request_switch()
        await _until_active_after(connection, 0 if active is None else active.number)


async def _until_active_after(connection: Connection, number: int) -> None:
    """A later wagon than this is the active one."""
    while (active := connection.manifest.active) is None or active.number <= number:  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.05)


async def main(url: str, name: str, each: int, observe: bool) -> None:
    """Until standard input ends, or it is killed."""
    counted = _Counted()
    _count_looks(counted)
    train = Train(name, limit=Volume(10**9), workers=Workers(each=each), wagons=64, handler_timeout=86_400.0)

    @train.on(name)
    async def handle(order: Order) -> None:
        if order.number < 0:
            await asyncio.Event().wait()
        counted.handled += 1

    lines = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(lines)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    async with train.connect(url, listeners=()) as connection, connection.running(observe=observe):
        await connection.found()
        publishing: asyncio.Task[Any] | None = None
        async with asyncio.TaskGroup() as tasks:
            while line := await lines.readline():
                command = msgspec.json.decode(line, type=Command)
                if command.wagons is not None:
                    await _grow(connection, command.wagons)
                if command.rate is not None and publishing is not None:
                    publishing.cancel()
                if command.rate:
                    publishing = tasks.create_task(_publish(connection, command.rate, counted))
                told = Told(counted.looks, counted.handled, counted.published, time.process_time())
                sys.stdout.write(msgspec.json.encode(told).decode() + "\n")
                sys.stdout.flush()
            if publishing is not None:
                publishing.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "yes"))
