"""A Kafka topic: the times are those of its records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaError, KafkaException, Message, TopicPartition

from ...contracts.address import Address
from ...drivers.kafka.errors import cause, translate
from ...drivers.kafka.options import Options
from ...errors import Unavailable, UsageError
from ..arrivals import MOST
from .recorded import Arrival

T = TypeVar("T")

_BATCH = 2000
_KILOBYTES = 8192
"""Read ahead."""
_DRIVERS = ("partitions", "replication", "max_message_bytes", "topic_prefix", "group", "mode")


class KafkaTopic:
    """`kafka://host:9092,host2:9092/TOPIC?option=value`, with the options of librdkafka. Its partitions are assigned:
    no group is joined, no offset committed."""

    is_live = True

    def __init__(self, address: Address) -> None:
        """Raises UsageError."""
        self.title = self._topic = address.path.strip("/")
        if not self._topic:
            raise address.wrong("name the topic: kafka://host:9092/TOPIC")
        if wrong := [name for name in _DRIVERS if name in address.options]:
            raise address.wrong(f"{wrong[0]}= has no meaning here: a topic is only read, and no group is joined")
        query = address.url.partition("?")[2]
        self._options = Options.from_url(f"kafka://{address.host}" + (f"?{query}" if query else ""))

    async def batches(self, since: float) -> AsyncIterator[Sequence[Arrival | None]]:
        """See Source.batches."""
        config = self._options.consumer(wait=500, queued=_KILOBYTES) | {"enable.partition.eof": True}
        loop = asyncio.get_running_loop()
        consumer = await asyncio.to_thread(lambda: Consumer(config))
        try:
            ends = await self._called(lambda: self._start(consumer, since))
            heard = loop.time()
            while ends:
                left = len(ends)
                found = await self._called(lambda: self._read(consumer, ends))
                if found or len(ends) < left:
                    heard = loop.time()
                elif loop.time() - heard > self._options.timeout:
                    raise Unavailable(
                        f"Kafka at {self._options.servers}: topic {self._topic}: no record has come for "
                        f"{self._options.timeout:g} s, though there are more"
                    )
                yield found
        finally:
            await asyncio.to_thread(consumer.close)

    async def _called(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(call)
        except KafkaException as e:
            raise translate(cause(e), self._options.servers, "READ", f"topic {self._topic}") from None

    def _start(self, consumer: Consumer, since: float) -> dict[int, int]:
        """Assign the partitions that have records since then. Returns the end of each."""
        patience = self._options.timeout
        found = consumer.list_topics(self._topic, timeout=patience).topics[self._topic]
        if found.error is not None:
            raise KafkaException(found.error)
        wanted = [TopicPartition(self._topic, p, max(0, int(since * 1000))) for p in found.partitions]
        starts = consumer.offsets_for_times(wanted, timeout=patience)
        ends = dict[int, int]()
        assigned = []
        for start in starts:
            if start.error is not None:
                raise KafkaException(start.error)
            _, end = consumer.get_watermark_offsets(TopicPartition(self._topic, start.partition), timeout=patience)
            if 0 <= start.offset < end:
                ends[start.partition] = end
                assigned.append(start)
        if (count := sum(ends[each.partition] - each.offset for each in assigned)) > MOST:
            raise UsageError(
                f"topic {self._topic} has up to {count:,} records in that time; the lab takes up to {MOST:,}: give a "
                "shorter --last"
            )
        if assigned:
            consumer.incremental_assign(assigned)
        return ends

    def _read(self, consumer: Consumer, ends: dict[int, int]) -> list[Arrival | None]:
        """Some of the records before `ends`, from which the partitions that are read to their end are removed."""
        found: list[Arrival | None] = []
        for message in consumer.consume(_BATCH, timeout=1.0):
            partition = _known(message.partition())
            if (error := message.error()) is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                ends.pop(partition, None)  # what is left before the end are markers and open transactions
                continue
            offset = _known(message.offset())
            if offset < ends.get(partition, 0):
                found.append(_arrival(message))
            if offset + 1 >= ends.get(partition, 0) and ends.pop(partition, None) is not None:
                consumer.incremental_unassign([TopicPartition(self._topic, partition)])
        return found


def _known(number: int | None) -> int:
    assert number is not None  # noqa: S101 - each message that was consumed has it
    return number


def _arrival(message: Message) -> Arrival | None:
    kind, at = message.timestamp()
    key: Any = message.key()
    value: Any = message.value()
    return None if kind == TIMESTAMP_NOT_AVAILABLE else Arrival(at / 1000, len(value or b""), key)
