"""A topic of Kafka, by a consumer group."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self
from urllib.parse import urlencode

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from ...cloudevents import Pairs
from ...contracts.address import Address
from ...display.text import said
from ...drivers.kafka.admin import Admin
from ...drivers.kafka.errors import cause
from ...drivers.kafka.options import Options
from ...errors import BrokerError, Unavailable, UsageError
from ...event import check_word
from ..source import Begin, Lag, Record
from .kafka_group import Arrived, Member, begin_at, committed, place_of, watermarks

_OWN = ("group", "assignor")
_MEMBERSHIP = (
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "max.poll.interval.ms",
    "group.instance.id",
    "topic.metadata.refresh.interval.ms",
)
"""Options of librdkafka for a member of a group. A train's driver joins none, and does not take them."""
_EAGER = "range,roundrobin"
_CALL = 10.0
_LOOK = 2.0
"""Seconds between two looks whether the topic is still the same."""


def open_kafka(address: Address, begin: Begin) -> KafkaSource:
    """The source of `kafka://host:port,host2:port/TOPIC?group=NAME`. Raises UsageError."""
    topic, group = address.path.strip("/"), address.options.get("group", "")
    if not topic or "/" in topic or not group:
        raise address.wrong("name the topic and its consumer group: kafka://host:9092/TOPIC?group=NAME")
    further = urlencode({name: value for name, value in address.options.items() if name not in (*_OWN, *_MEMBERSHIP)})
    membership = {name: address.options[name] for name in _MEMBERSHIP if name in address.options}
    options = Options.from_url(f"kafka://{address.host}?{further}")
    assignor = address.options.get("assignor", "eager")
    assignor = {"eager": _EAGER, "cooperative": "cooperative-sticky"}.get(assignor, assignor)
    if not set(assignor.split(",")) <= {"range", "roundrobin", "cooperative-sticky"}:
        raise address.wrong(f"assignor={assignor}: give eager, cooperative, range, roundrobin or cooperative-sticky")
    config = {**membership, "group.id": group, "partition.assignment.strategy": assignor}
    try:
        Consumer({**config, "log_level": 0}).close()
    except KafkaException as e:
        raise address.wrong(
            f"librdkafka does not take {', '.join(membership) or 'the group'}: {cause(e).str()}"
        ) from None
    name = check_word("source", f"kafka://{options.servers}/{topic}")
    return KafkaSource(options, topic, config, name=name, begin=begin, clock=address.clock)


class KafkaSource:
    """Reads as a member of the group; commits by itself only what it is told to."""

    def __init__(
        self,
        options: Options,
        topic: str,
        membership: Mapping[str, str],
        *,
        name: str,
        begin: Begin,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self._options, self._topic, self._membership = options, topic, membership
        self._begin, self._clock, self._group = begin, clock, membership["group.id"]
        self._admin: Admin | None = None
        self._topic_id = ""
        self._look_at = 0.0
        self._member: Member | None = None

    async def __aenter__(self) -> Self:
        self._admin = Admin(self._options)
        try:
            if (described := (await self._admin.described([self._topic]))[self._topic]) is None:
                raise UsageError(f"{self.name}: there is no topic {self._topic!r}")
            self._topic_id = described.identity
            if await self._blocking(self._has_position):
                self._begin = "earliest"  # of partitions that were added since
            elif self._begin is None:
                raise UsageError(
                    f"{self.name}: the group {self._group!r} has no position in this topic. Give --from earliest, "
                    "latest or a time to begin with a new group"
                )
        except BaseException:
            await self._admin.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._member is not None:
            await self._member.leave()
        if self._admin is not None:
            await self._admin.close()

    async def read(self, limit: int, wait: float) -> Sequence[Record] | None:
        """See Source."""
        await self._check_topic()
        if self._member is None:
            self._member = Member(self._config(), self._topic, self._begin, self.name)
        taken = await self._member.take(limit, wait)
        if not taken and (trouble := self._member.trouble) is not None:
            raise self._error(trouble)
        return [self._record(one) for one in taken]

    async def _check_topic(self) -> None:
        """Now and then, see whether the topic is still the one that was opened: to the client a topic of the same name
        that was made anew is the same, and what it has up to the old position would be passed over."""
        loop = asyncio.get_running_loop()
        if self._admin is None or loop.time() < self._look_at:
            return
        self._look_at = loop.time() + _LOOK
        try:
            found = await self._admin.identity(self._topic)
        except BrokerError:
            return  # `take` tells of it
        if not self._topic_id:
            return  # the server is too old to tell topics apart
        if not found:
            self._look_at = 0.0  # a read that finds nothing must not count as an answer
            raise Unavailable(f"{self.name}: the topic was deleted")
        if found != self._topic_id:
            raise UsageError(
                f"{self.name}: the topic was deleted and made anew. Records of the new one may have been passed over: "
                f"set the group's offsets to its begin (kafka-consumer-groups --group {self._group} --topic "
                f"{self._topic} --reset-offsets --to-earliest --execute), and start the bridge again"
            )

    async def commit(self, records: Sequence[Record]) -> None:
        """See Source."""
        if not records or self._member is None:
            return
        try:
            await self._member.commit([record.token for record in records])
        except KafkaException as e:
            raise self._error(cause(e)) from None
        except TimeoutError:
            raise Unavailable(f"{self.name}: no answer in time") from None

    async def peek(self, limit: int) -> Sequence[Record]:
        """See Source. It does not join the group."""
        found: list[Record] = await self._blocking(lambda consumer: self._peek(consumer, limit))
        return found

    async def lag(self) -> Lag:
        """See Source: that of the partitions which are assigned to this reader."""
        if self._member is None or self._admin is None:
            return Lag()
        member, positions = self._member, self._member.positions
        ends = await self._admin.ends([(self._topic, partition) for partition in positions], stable=True)
        records = sum(max(0, (ends[self._topic, partition] or 0) - at) for partition, at in positions.items())
        if not records:
            return Lag(records=0, seconds=0.0) if positions else Lag()
        oldest = member.oldest
        return Lag(records=records, seconds=None if oldest is None else max(0.0, self._clock() - oldest))

    def _config(self) -> dict[str, Any]:
        return {
            **self._options.consumer(wait=100, logger=None if self._admin is None else self._admin.causes),
            **self._membership,
        }

    def _places(self, consumer: Consumer) -> list[TopicPartition]:
        found = consumer.list_topics(self._topic, timeout=_CALL).topics[self._topic].partitions
        return [TopicPartition(self._topic, partition) for partition in sorted(found)]

    def _has_position(self, consumer: Consumer) -> bool:
        return any(one.offset >= 0 for one in committed(consumer, self._places(consumer)))

    def _peek(self, consumer: Consumer, limit: int) -> list[Record]:
        starts, left = list[TopicPartition](), set[int]()
        for one in committed(consumer, self._places(consumer)):
            first, end = watermarks(consumer, one)
            at = one.offset if one.offset >= 0 else begin_at(consumer, one, self._begin, first, end)
            at = at if first <= at <= end else first
            if at < end:
                starts.append(TopicPartition(self._topic, one.partition, at))
                left.add(one.partition)
        consumer.assign(starts)
        found: list[Record] = []
        until = time.monotonic() + _CALL
        while left and len(found) < limit and time.monotonic() < until:
            for message in consumer.consume(limit - len(found), 0.2):
                error = message.error()
                if error is None:
                    found.append(self._record(Arrived(message, *place_of(message), 0)))
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition() or 0)
                else:
                    raise KafkaException(error)
        return found

    async def _blocking(self, call: Callable[[Consumer], Any]) -> Any:
        """The result of a call with a consumer of its own, which joins no group."""
        if self._admin is None:
            raise Unavailable(f"{self.name}: it is not open")

        def run() -> Any:
            consumer = Consumer({**self._config(), "enable.partition.eof": True})
            try:
                return call(consumer)
            finally:
                consumer.close()

        try:
            return await self._admin.blocking(run)
        except KafkaException as e:
            raise self._error(cause(e)) from None

    def _error(self, error: KafkaError) -> Exception:
        if self._admin is None:
            return Unavailable(f"{self.name}: {error.str()}")
        return self._admin.trouble(error, "READ", f"topic {self._topic} by group {self._group}")

    def _record(self, one: Arrived) -> Record:
        message = one.message
        kind, milliseconds = message.timestamp()
        headers: Pairs = ()
        trouble = ""
        try:
            headers = message.headers() or ()  # type: ignore[assignment]
        except Exception as e:  # noqa: BLE001 - the client reads their names as UTF-8
            trouble = f"its headers can't be read: {said(e)}"
        key: Any = message.key()
        return Record(
            position=f"kafka/{self._topic}/{one.partition}/{one.offset}" + (f"@{milliseconds}" if kind else ""),
            value=message.value() or b"",
            headers=headers,
            key=key,
            time=milliseconds / 1000 if kind else self._clock(),
            token=one,
            trouble=trouble,
        )
