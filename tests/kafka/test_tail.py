"""Following partitions: from the client that reads what is new to the one that reads what is quiet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from secrets import token_hex

import pytest
from confluent_kafka import Message, Producer

from eventwagon.drivers.kafka.options import Options
from eventwagon.drivers.kafka.reader import offset_of
from eventwagon.drivers.kafka.tail import Tail
from tests.kafka.support import topics
from tests.servers.server import Server


class Followed:
    """A topic of one partition, a tail that follows it, and what it has read."""

    def __init__(self, topic: str, tail: Tail, producer: Producer) -> None:
        self.topic = topic
        self.tail = tail
        self.got: list[bytes] = []
        self.next = 0
        """The offset after the last one."""
        self._producer = producer
        self._sent = 0

    def follow(self) -> None:
        self.tail.follow(self.topic, 0, self.next, self._read)

    def _read(self, messages: list[Message]) -> None:
        new = [message for message in messages if offset_of(message) >= self.next]
        self.got += [message.value() or b"" for message in new]
        if new:
            assert offset_of(new[0]) == self.next, "none is left out"
            self.next = offset_of(new[-1]) + 1

    def send(self, count: int = 1) -> None:
        for _ in range(count):
            self._producer.produce(self.topic, str(self._sent).encode(), partition=0)
            self._sent += 1
        self._producer.poll(0)

    async def all_read(self) -> None:
        await until(lambda: len(self.got) >= self._sent)
        assert self.got == [str(n).encode() for n in range(self._sent)]

    @property
    def is_sparing(self) -> bool:
        return self.tail.is_sparing(self.topic, 0)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def followed(server: Server) -> AsyncIterator[Followed]:
    bootstrap = server.url.removeprefix("kafka://").partition("?")[0]
    options = Options(bootstrap)
    tail = Tail(partial(options.consumer, queued=4096), "test-tail")
    topic = f"tail{token_hex(5)}"
    try:
        async with topics(server.url) as admin:
            await admin.create(topic, 1, {})
            one = Followed(topic, tail, Producer({"bootstrap.servers": bootstrap, "linger.ms": 0}))
            one.follow()
            yield one
            tail.leave(topic, 0)
            await admin.delete(topic)
    finally:
        await tail.close()


def test_a_quiet_partition_is_read_sparingly_and_misses_nothing(kafka_server: Server) -> None:
    async def main() -> None:
        async with followed(kafka_server) as one:
            one.send(3)
            await one.all_read()
            while not one.is_sparing:
                one.send()  # also while it goes over
                await asyncio.sleep(0.02)
            await one.all_read()
            one.send(1000)
            await one.all_read()
            assert one.is_sparing
            await until(lambda: not one.tail.quick.assigned)
            one.tail.leave(one.topic, 0)
            one.send(5)
            one.follow()  # by the client that had none left
            await one.all_read()

    asyncio.run(main())


@pytest.mark.parametrize("busy", [True, False])
def test_a_client_forgets_the_topics_that_it_has_left(kafka_server: Server, busy: bool) -> None:
    """It would ask the server once a second where each of them is, for ever."""

    async def main() -> None:
        async with followed(kafka_server) as one, topics(kafka_server.url) as admin:
            others = [f"{one.topic}-{n}" for n in range(35)]
            await asyncio.gather(*(admin.create(name, 1, {}) for name in others))
            await until(lambda: one.is_sparing)
            client, done = one.tail.sparing, asyncio.Event()

            async def send() -> None:
                while busy and not done.is_set():
                    one.send()
                    await asyncio.sleep(0.005)

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(send())
                for name in others:
                    client.follow(name, 0, 0, lambda messages: None)
                    client.leave(name, 0)
                await until(lambda: client.renewed > 0)
                done.set()
            one.send()
            await one.all_read()
            assert one.is_sparing
            assert not client.left & {one.topic}
            await asyncio.gather(*(admin.delete(name) for name in others))

    asyncio.run(main())
