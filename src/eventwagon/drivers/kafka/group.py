"""The offsets of a consumer group that has no members."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from ...background import Background, in_daemon
from ...errors import BrokerError
from .causes import Causes
from .errors import GRACE, absent, cause
from .offsets import Place
from .options import Options

R = TypeVar("R")
Trouble = Callable[[KafkaError, str, str], BrokerError]
"""The error to raise for an error of the client, of a call that needs this right on this resource."""


class Group:
    """Commits and reads its offsets by a consumer that joins nothing and reads nothing. Not by an AdminClient: if a
    server that stood still for half a minute goes on, librdkafka 2.16 may end the process in such calls (its pull
    request 5397)."""

    def __init__(self, options: Options, causes: Causes, trouble: Trouble) -> None:
        """The consumer is made when it is needed."""
        self.name = options.group
        self._options = options
        self._causes = causes
        self._trouble = trouble
        self._consumer: Consumer | None = None
        self._background = Background()
        self._under_way: asyncio.Task[Any] | None = None
        """The one call at a time: a commit has no time of its own, and lasts as long as the server stands still."""

    async def commit(self, offsets: Mapping[Place, int]) -> None:
        """Commit these offsets. Those of topics that are gone are passed over. Raises Unavailable, StorageBroken."""

        def commit(topics: Set[str], consumer: Consumer) -> None:
            places = [TopicPartition(topic, p, offset) for (topic, p), offset in offsets.items() if topic in topics]
            try:
                consumer.commit(offsets=places, asynchronous=False)
            except KafkaException as e:  # the error of one of them; those without an error are committed
                if not absent(cause(e)):
                    raise
                if len(topics) > 1:  # another may have another error
                    for topic in topics:
                        commit({topic}, consumer)

        await self._call(partial(commit, {topic for topic, _ in offsets}), "READ")

    async def committed(self, places: Iterable[Place]) -> dict[Place, int]:
        """The offset that is committed in each of these partitions; 0: none. Raises Unavailable, StorageBroken."""
        asked = [TopicPartition(*place) for place in places]
        found = await self._call(lambda consumer: consumer.committed(asked, self._options.timeout), "DESCRIBE")
        return {(at.topic, at.partition): max(0, at.offset) for at in found}

    async def close(self) -> None:
        """End the consumer. A call that hangs is left to itself: a commit may still be stored once the server goes
        on."""
        if self._under_way is not None:
            await asyncio.wait([self._under_way], timeout=GRACE)
        if self._under_way is None and self._consumer is not None:
            ending = self._background.start(in_daemon(self._consumer.close, "eventwagon-kafka-group"))
            await asyncio.wait([ending], timeout=GRACE)
        self._background.cancel()
        await self._background.wait()
        self._consumer = None

    async def _call(self, call: Callable[[Consumer], R], right: str) -> R:
        try:
            async with asyncio.timeout(self._options.timeout + GRACE):
                while self._under_way is not None:
                    await asyncio.wait([self._under_way])
                task = self._background.start(in_daemon(partial(self._blocking, call), "eventwagon-kafka-group"))
                self._under_way = task
                task.add_done_callback(self._over)
                return await asyncio.shield(task)
        except (KafkaException, TimeoutError) as e:
            error, group = cause(e), f"group {self.name}"
        of_topic = error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
        raise self._trouble(error, right, f"topics of {group}" if of_topic else group) from None

    def _blocking(self, call: Callable[[Consumer], R]) -> R:
        consumer = self._consumer  # `close` may take it away meanwhile
        if consumer is None:
            consumer = self._consumer = Consumer(self._config())
        try:
            return call(consumer)
        finally:
            with suppress(KafkaException):
                consumer.poll(0)  # delivers its log records

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._under_way = None
        if not task.cancelled():
            task.exception()  # its caller may have gone

    def _config(self) -> dict[str, object]:
        return {
            **self._options.common(self._causes),
            "group.id": self.name,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "session.timeout.ms": max(1000, int(self._options.timeout * 1000)),  # so long a commit waits for the group
        }
