"""Publishing: sends events and reports what was stored."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from random import randrange
from zlib import crc32

from confluent_kafka import KafkaError, KafkaException, Message

from ...errors import BrokerError, ChannelGone, EventTooLarge, PublishUncertain, Sealed, Unavailable
from ...event import Channel, Event
from .admin import Admin, unsuitable
from .errors import absent, cause
from .names import Names
from .options import BATCH, LINGER, LOGGER
from .sender import Sender, failure
from .wire import encode, size

_FRAME = 512  # bytes of a batch besides its records, generously
SEALED = 1
"""A sealed topic's max.message.bytes: not even an empty record fits."""
PROBES_ONLY = 96
"""The topic's max.message.bytes while it is being sealed: a probe's batch takes 61 bytes of header and about 20 more,
the shortest CloudEvent's over 130."""
LIMIT = "max.message.bytes"
_SAME = 0.01  # s for which events without a key go to one partition: fewer and larger batches
_REFUSED = frozenset({KafkaError.NOT_ENOUGH_REPLICAS, KafkaError._PURGE_QUEUE, KafkaError._QUEUE_FULL})
"""Certainly not stored."""


class Topic:
    """What this process knows of one channel's topic."""

    def __init__(self, channel: Channel, name: str, partitions: int, limit: int, identity: str) -> None:
        self.channel = channel
        self.name = name
        self.identity = identity
        """What distinguishes it from others of its name (see `Described`)."""
        self.partitions = partitions
        self.limit = limit
        """Bytes of the largest batch that it takes."""
        self.sealed = limit <= PROBES_ONLY
        self.trouble = ""
        """The setting of its configuration that loses events."""
        self._plain = randrange(max(1, partitions))
        self._until = 0.0

    def plain(self, now: float) -> int:
        """The partition of events without a key, at this time."""
        if now >= self._until:
            self._plain = (self._plain + 1) % self.partitions
            self._until = now + _SAME
        return self._plain


class Publisher:
    """Publishes to any channel. `warm` makes a topic known to the producer, so that its first send is fast."""

    def __init__(self, admin: Admin, names: Names) -> None:
        self._admin = admin
        self._names = names
        self.sender = Sender(admin.options.producer(linger=LINGER, logger=admin.causes), rests=True)
        self._smaller: dict[int, Sender] = {}  # for topics that accept only smaller batches
        self._topics: dict[str, Topic] = {}
        self._asked: dict[str, asyncio.Task[Topic | None]] = {}

    async def topic(self, channel: Channel) -> Topic:
        """The channel's topic, known to a producer that is not at rest. Raises ChannelGone, Unavailable,
        StorageBroken."""
        name = self._names.topic(channel)
        known = self._topics.get(name)
        if known is not None:
            return known
        task = self._asked.get(name)
        if task is None:
            task = self._asked[name] = asyncio.create_task(self._look(channel, name))
            task.add_done_callback(lambda _: self._asked.pop(name, None))
        try:
            found = await asyncio.shield(task)
        except asyncio.CancelledError:
            waiter = asyncio.current_task()
            if not task.cancelled() or (waiter is not None and waiter.cancelling()):
                raise
            raise Unavailable(f"Kafka at {self._admin.options.servers}: the connection was closed meanwhile") from None
        if found is None:
            raise ChannelGone(f"channel {channel} does not exist")
        return found

    def topics(self) -> dict[str, Topic]:
        """The topics that it has looked up, by name."""
        return dict(self._topics)

    def forget(self, channel: Channel) -> None:
        """The channel was deleted, or created again."""
        self.forget_topic(self._names.topic(channel))

    def forget_topic(self, name: str) -> None:
        """The same, by the topic's name."""
        self._topics.pop(name, None)
        for sender in (self.sender, *self._smaller.values()):
            sender.known.discard(name)

    def sealed(self, channel: Channel) -> None:
        """The channel was sealed."""
        if topic := self._topics.get(self._names.topic(channel)):
            topic.sealed = True

    async def close(self) -> None:
        """Finish sending, for up to 1 s; then end."""
        looks = list(self._asked.values())
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)
        await asyncio.gather(*(sender.close() for sender in (self.sender, *self._smaller.values())))

    def _sender(self, topic: Topic) -> Sender:
        if topic.limit >= BATCH + _FRAME:
            return self.sender
        sender = self._smaller.get(topic.limit)
        if sender is None:
            options = self._admin.options.producer(
                linger=LINGER, batch=max(1, topic.limit - _FRAME), logger=self._admin.causes
            )
            sender = self._smaller[topic.limit] = Sender(options, rests=True)
        return sender

    async def _introduce(self, topic: Topic, sender: Sender) -> None:
        """Have the producer know the topic, if it does not yet. Raises Unavailable, StorageBroken."""
        if topic.name not in sender.known:
            await self._admin.describe_to(sender, topic.name)

    async def _look(self, channel: Channel, name: str) -> Topic | None:
        described, found = await asyncio.gather(self._admin.described([name]), self._admin.configuration(name))
        if (known := described[name]) is None:  # a producer that was asked for it would ask the server for it for ever
            return None
        limit = int((found or {}).get(LIMIT, self._admin.options.max_message_bytes))
        topic = Topic(channel, name, known.partitions, limit, known.identity)
        self._judge(topic, found or {})
        if topic.partitions:
            self._topics[name] = topic
        if not (sender := self._sender(topic)).at_rest:
            await self._introduce(topic, sender)
        return topic

    async def grow(self, old: Topic, partitions: int) -> bool:
        """Use the partitions that were added to a known topic, if the producer's broker knows of them, too. Raises
        Unavailable, StorageBroken."""
        name = old.name
        for sender in (self.sender, self._smaller.get(old.limit)):
            if sender is None or sender.at_rest:
                continue
            found = await self._admin.describe_to(sender, name)  # it refuses partitions that it does not know
            if found is None or len(found.partitions) < partitions:
                return False
        new = Topic(old.channel, name, partitions, old.limit, old.identity)  # calls under way count with the old one
        new.sealed, new.trouble = old.sealed, old.trouble
        if self._topics.get(name) is not old:
            return False
        self._topics[name] = new
        return True

    async def look_again(self) -> None:
        """Check whether the known topics still keep their records. Raises Unavailable, StorageBroken."""
        for name, topic in list(self._topics.items()):
            found = await self._admin.configuration(name)
            if found is not None and self._topics.get(name) is topic:
                self._judge(topic, found)

    def _judge(self, topic: Topic, found: Mapping[str, str]) -> None:
        trouble = unsuitable(self._admin.options.servers, topic.name, found, {}) if found else ""
        if trouble and trouble != topic.trouble:
            LOGGER.warning("%s", trouble)
        topic.trouble = trouble

    async def warm(self, channel: Channel) -> None:
        """As `Broker.warm`."""
        topic = await self.topic(channel)
        await self._introduce(topic, self._sender(topic))

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        """As `Broker.publish`."""
        if not events:
            return
        topic = await self.topic(channel)
        if topic.sealed:
            raise Sealed(f"channel {channel} is sealed")
        limit, structured = topic.limit, self._admin.options.mode == "structured"
        for event in events:
            attributes = len(event.id) + len(event.type) + len(event.source) + len(event.content_type)
            if event.subject is not None or event.extensions:
                attributes = event.size - len(event.data)
            if (
                len(event.data) + 8 * attributes + 2000 > limit
                and (taken := size(event, structured=structured)) > limit
            ):
                raise EventTooLarge(
                    f"event {event.id} takes {taken:,} bytes, more than {LIMIT}={limit:,} of topic {topic.name}: "
                    "send a reference to the data"
                )
        sender = self._sender(topic)
        await self._introduce(topic, sender)
        sending = _Sending(sender, len(events), structured=structured)
        await sending.send(topic, events)
        if sending.errors:
            fatal = [error for error in sending.errors if error.fatal() or error.code() == KafkaError._FATAL]
            if fatal:
                sender.mind(fatal[0])
            await self._explain(channel, topic, events, sending)

    async def _explain(self, channel: Channel, topic: Topic, events: Sequence[Event], sending: _Sending) -> None:
        errors = sending.errors
        codes = {error.code() for error in errors}
        first = errors[0]
        where = f"Kafka at {self._admin.options.servers}, channel {channel}"
        if codes == {KafkaError.MSG_SIZE_TOO_LARGE}:
            try:
                limit = int(await self._admin.option(topic.name, LIMIT) or topic.limit)
            except Unavailable as e:
                if not sending.stored:
                    raise
                raise PublishUncertain(f"{where}: {sending.stored} of {len(events)} events were stored: {e}") from None
            if PROBES_ONLY < limit < topic.limit:  # somebody lowered it: no seal
                topic.limit = limit
                if not sending.stored:
                    raise Unavailable(f"{where}: {LIMIT} of the topic was lowered to {limit:,}: try again")
            else:
                topic.sealed = True
                if sending.leading:
                    raise Sealed(f"channel {channel} is sealed", accepted=sending.stored)
        elif all(absent(error) for error in errors):
            self.forget(channel)
            if not sending.stored:
                raise ChannelGone(f"channel {channel} does not exist (any more)")
        elif not sending.stored and codes <= _REFUSED:
            raise Unavailable(f"{where}: {first.str()} ({first.name()}): nothing was stored; try again")
        elif not sending.stored and all(error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED for error in errors):
            raise self._trouble(first, topic)
        elif not sending.stored and await self._is_gone(topic):
            self.forget(channel)
            raise ChannelGone(f"channel {channel} does not exist (any more)")
        why = self._admin.why(first)
        raise PublishUncertain(
            f"{where}: {len(errors)} of {len(events)} events were not acknowledged: {first.str()} ({first.name()}); "
            f"they may be stored: publish them again with the same ids{f'; {why}' if why else ''}"
        )

    async def _is_gone(self, topic: Topic) -> bool:
        """Whether it was deleted meanwhile: then nothing is stored, whatever became of the messages."""
        try:
            return await self._admin.describe(topic.name) is None
        except BrokerError:
            return False

    def _trouble(self, error: KafkaError, topic: Topic) -> BrokerError:
        return self._admin.trouble(error, "WRITE", f"topic {topic.name}")


class _Sending:
    """The events of one call on their way."""

    def __init__(self, sender: Sender, count: int, *, structured: bool) -> None:
        self.sender = sender
        self._structured = structured
        self._left = count
        self._done = asyncio.get_running_loop().create_future()
        self.stored = 0
        self.errors: list[KafkaError] = []
        self._mixed = False
        self._keyed = False

    @property
    def leading(self) -> bool:
        """Whether all stored events come before all others."""
        return not self.stored or not (self._mixed or self._keyed)

    def _report(self, error: KafkaError | None, message: Message) -> None:
        self._left -= 1
        error = failure(error, message)
        if error is None:
            self.stored += 1
            if self.errors:
                self._mixed = True
        else:
            self.errors.append(error)
        if not self._left:
            self._end()

    def _end(self) -> None:
        self.sender.end()
        if not self._done.done():
            self._done.set_result(None)

    async def send(self, topic: Topic, events: Sequence[Event]) -> None:
        """Pass all of them to the producer, and wait for the last report."""
        sender, name, report = self.sender, topic.name, self._report
        # events without a key go to one partition, so that the stored ones are a leading part of the call
        plain = topic.plain(time.monotonic())
        sender.begin()
        given = 0
        try:
            produce = sender.producer().produce
            structured = self._structured
            while given < len(events):
                event = events[given]
                key, value, headers = encode(event, structured=structured)
                partition = plain
                if key is not None and topic.partitions > 1:
                    # as librdkafka does it; but that may know of partitions that the claims log does not name yet
                    partition, self._keyed = crc32(key.encode()) % topic.partitions, True
                try:
                    produce(name, value, key, partition, report, headers=headers)
                except BufferError:
                    await asyncio.sleep(0.001)
                    sender.look()
                    continue
                except KafkaException as e:
                    self.errors += [cause(e)] * (len(events) - given)
                    break
                given += 1
        finally:
            if given < len(events):
                self._left -= len(events) - given
                if not self._left:
                    self._end()
        await self._done
