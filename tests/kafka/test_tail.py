"""Following partitions: from the client that reads what is new to the one that reads what is quiet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from secrets import token_hex
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer

from eventwagon.drivers.kafka import forward
from eventwagon.drivers.kafka.forward import ForwardPool
from eventwagon.drivers.kafka.options import Options
from eventwagon.drivers.kafka.reader import offset_of
from eventwagon.drivers.kafka.tail import QUICK, SPARING, Tail
from tests.kafka.support import topics
from tests.servers.server import Server


class Followed:
    """A topic of one partition, a tail that follows it, and what it has read."""

    def __init__(self, topic: str, quick: ForwardPool, sparing: ForwardPool, producer: Producer) -> None:
        self.topic = topic
        self.quick, self.sparing = quick, sparing
        self.tail = Tail(quick, sparing)
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

    def send(self, count: int = 1, fill: int = 1) -> None:
        for _ in range(count):
            self._producer.produce(self.topic, b"%0*d" % (fill, self._sent), partition=0)
            self._sent += 1
        self._producer.poll(0)

    async def all_read(self) -> None:
        await until(lambda: len(self.got) >= self._sent)
        assert [int(value) for value in self.got] == list(range(self._sent))

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
    config = partial(options.consumer, queued=4096)
    quick = ForwardPool(config(wait=QUICK), "test-tail", prompt=True)
    sparing = ForwardPool(config(wait=SPARING), "test-tail-quiet", prompt=False)
    topic = f"tail{token_hex(5)}"
    try:
        async with topics(server.url) as admin:
            await admin.create(topic, 1, {})
            one = Followed(topic, quick, sparing, Producer({"bootstrap.servers": bootstrap, "linger.ms": 0}))
            one.follow()
            yield one
            one.tail.close()
            await admin.delete(topic)
    finally:
        await asyncio.gather(quick.close(), sparing.close())


def test_a_quiet_partition_is_read_sparingly_and_misses_nothing(kafka_server: Server) -> None:
    async def main() -> None:
        async with followed(kafka_server) as one:
            one.send(3)
            await one.all_read()
            while not one.is_sparing:
                one.send()  # also while it goes over
                await asyncio.sleep(0.02)
            await one.all_read()
            one.send(200)
            await one.all_read()
            assert one.is_sparing
            await until(lambda: not one.quick._clients[0].assigned)  # noqa: SLF001
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
            client, done = one.sparing._clients[0], asyncio.Event()  # noqa: SLF001

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


def test_an_owner_that_fails_costs_the_others_nothing() -> None:
    async def main() -> None:
        clients = ForwardPool(Options("127.0.0.1:1").consumer(wait=QUICK, queued=4096), "test-tail", prompt=False)
        ends, told = list[int](), list[object]()

        def fail(end: int) -> None:
            raise ValueError(end)

        asyncio.get_running_loop().set_exception_handler(lambda _, about: told.append(about["exception"]))
        client = clients.follow("one", 0, 0, lambda _: None, fail)
        assert clients.follow("other", 0, 0, lambda _: None, ends.append) is client
        client._hand_over([(at, client._sinks[at], 3) for at in (("one", 0), ("other", 0))])  # noqa: SLF001
        await asyncio.sleep(0)
        assert ends == [3]
        assert [type(error) for error in told] == [ValueError]
        await clients.close()

    asyncio.run(main())


def test_several_may_read_the_same_by_clients_that_they_share(kafka_server: Server) -> None:
    async def main() -> None:
        async with followed(kafka_server) as one:
            other = Followed(one.topic, one.quick, one.sparing, one._producer)  # noqa: SLF001
            one.send(3)
            await one.all_read()
            other.follow()
            await until(lambda: one.is_sparing and other.is_sparing)
            assert [len(clients._clients) for clients in (one.quick, one.sparing)] == [2, 2]  # noqa: SLF001
            other.tail.leave(other.topic, 0)
            one.send()
            await one.all_read()
            assert other.got == one.got[:3]
            other.follow()
            await until(lambda: other.got == one.got)
            other.tail.close()

    asyncio.run(main())


def test_what_gets_busy_is_read_by_the_owner_s_own_client_again(kafka_server: Server) -> None:
    """Others share the sparing one, and a cache that is full holds up what its client reads."""

    async def main() -> None:
        async with followed(kafka_server) as one:
            one.send(3)
            await until(lambda: one.is_sparing)
            one.send(200, fill=2000)
            await until(lambda: not one.is_sparing)
            await one.all_read()
            await until(lambda: one.is_sparing)
            one.tail.hold(one.topic, 0)
            assert not one.is_sparing
            one.send(10)
            one.tail.go_on(one.topic, 0)
            await one.all_read()

    asyncio.run(main())


@pytest.mark.parametrize("fails", ["made", "read"])
def test_a_client_that_fails_is_replaced_and_goes_on(
    kafka_server: Server, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, left = list[object](), [3]

    class Fails(Consumer):
        def __init__(self, config: dict[str, object]) -> None:
            made.append(self)
            self.check("made")
            super().__init__(config)

        def consume(self, *args: Any, **kwargs: Any) -> list[Message]:
            self.check("read")
            return super().consume(*args, **kwargs)

        def check(self, what: str) -> None:
            if what == fails and left[0] and len(made) > 1:
                left[0] -= 1
                raise KafkaException(KafkaError(KafkaError._FAIL))  # noqa: SLF001

    async def main() -> None:
        monkeypatch.setattr(forward, "_AGAIN", 0.1)
        monkeypatch.setattr(forward, "Consumer", Fails)
        made.append(None)
        async with followed(kafka_server) as one:
            for _ in range(20):
                one.send(10)
                await asyncio.sleep(0.05)
            await one.all_read()
            assert not left[0]
            assert len(made) < 12

    asyncio.run(main())
