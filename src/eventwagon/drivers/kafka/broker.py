"""Channels as Kafka topics, without consumer groups: a claims log for each wagon records which process has which
event."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Self

from ...backoff import Backoff
from ...contracts.broker import Capabilities, Depth, Finding, Subscription
from ...errors import ChannelGone, StorageBroken, Unavailable
from ...event import Channel, Event
from . import sealing
from .admin import COMPACTED, LOG_TIME, unsuitable
from .claims import ChannelClaims
from .cluster import cluster_of
from .depths import Depths
from .inspection import InspectedTopic, inspect
from .names import Names
from .options import LOGGER, Options
from .proposals import Gone, Release, Renew, Void, runs_of
from .publishing import LIMIT, PROBES_ONLY
from .subscription import KafkaSubscription
from .timetable import KafkaTimetable
from .totals import ClaimedTopic, sync
from .wagon import KafkaWagon
from .wagons import Wagons
from .wire import decode

_ORPHAN = 60.0  # s for which a claims log may exist alone: its creator may be about to create the first channel
_PAGE = 2000  # messages that a browse reads in one call


class KafkaBroker:
    """A Kafka cluster (3.0 or later).

    `servers`: host:port,host:port. `partitions` of a new channel: with more than one, events come in no order, and
    processes share its reading. `replication`: copies of new topics, -1 for the cluster's default. `timeout` in s.
    `cache`: bytes of events that are read ahead, and of a train's events for later that are held in memory.
    `topic_prefix`: begins the name of each topic. `group`: a consumer group whose offsets show the progress of each
    channel. `oauth_cb`: a plain function that returns tokens for SASL/OAUTHBEARER, called from any thread (see
    confluent_kafka). `config`: options of librdkafka, such as security.protocol. Raises UsageError.

    A process needs the rights READ, WRITE, DESCRIBE and DESCRIBE_CONFIGS on the topics; a process that switches and
    removes wagons also CREATE, DELETE and ALTER_CONFIGS; the first one that keeps an event for later also CREATE.
    """

    def __init__(
        self,
        servers: str,
        *,
        partitions: int = 1,
        replication: int = -1,
        max_message_bytes: int = 1_048_588,
        timeout: float = 10.0,
        cache: int = 32 * 1024 * 1024,
        topic_prefix: str = "",
        group: str = "",
        mode: str = "binary",
        oauth_cb: Callable[[str], tuple[Any, ...]] | None = None,
        config: dict[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._options = Options(
            servers,
            partitions,
            replication,
            max_message_bytes,
            timeout,
            topic_prefix=topic_prefix,
            group=group,
            mode=mode,
            config=config or {},
            oauth_cb=oauth_cb,
        ).checked()
        self._names = Names(topic_prefix)
        self._cache = cache
        self.capabilities = Capabilities(
            fences=True,
            bounds=False,
            totals=True,
            durable=True,
            shared=True,
            ordered=partitions == 1,
            reclaims=True,
            losses=True,
        )
        self.timetable = KafkaTimetable(lambda: self.wagons.client, self._names, cache)
        self._depths = Depths(lambda: self.wagons)
        self._orphans: dict[str, float] = {}
        self._wagons: Wagons | None = None
        self._opened = contextlib.AsyncExitStack()

    @classmethod
    def from_url(cls, url: str, *, clock: Callable[[], float] = time.time) -> Self:
        """`kafka://host:9092,host2:9092?partitions=1&replication=3&sasl.username=…`. Raises UsageError."""
        o = Options.from_url(url)
        return cls(
            o.servers,
            partitions=o.partitions,
            replication=o.replication,
            max_message_bytes=o.max_message_bytes,
            timeout=o.timeout,
            topic_prefix=o.topic_prefix,
            group=o.group,
            mode=o.mode,
            config=dict(o.config),
            clock=clock,
        )

    async def __aenter__(self) -> Self:
        """Does nothing yet: it connects with the first call, and each call waits for a server that is not there yet."""
        cluster = await self._opened.enter_async_context(cluster_of(self._options))
        self._wagons = Wagons(cluster, self._cache)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Finish sending, for up to 1 s; then end all threads and connections that no other train uses."""
        async with self._opened:
            await self.timetable.close()
            wagons, self._wagons = self._wagons, None
            if wagons is not None:
                await wagons.close()

    @property
    def wagons(self) -> Wagons:
        """The wagons that it holds in memory. Raises RuntimeError if the broker is not entered."""
        if self._wagons is None:
            raise RuntimeError("a KafkaBroker is entered before use: async with broker: …")
        return self._wagons

    # --- channels ---------------------------------------------------------------------------

    def name_of(self, channel: Channel) -> str:
        """See Named. Its topic."""
        return self._names.topic(channel)

    async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
        async with self.wagons.few:
            await self._create(channel)

    async def _create(self, channel: Channel) -> None:
        admin, topic, log = self.wagons.admin, self._names.topic(channel), self._names.claims(channel)
        events = {LIMIT: str(self._options.max_message_bytes)}
        self.wagons.publisher.forget(channel)
        new_log, new = await asyncio.gather(
            admin.create(log, 1, LOG_TIME), admin.create(topic, self._options.partitions, events)
        )

        async def ready() -> None:
            metadata = await admin.describe_to(self.wagons.publisher.sender, topic)
            if metadata is None or any(p.leader < 0 for p in metadata.partitions.values()):
                raise Unavailable(f"topic {topic} has no leader yet")
            wagon = await self.wagons.of(channel)
            if not new_log:
                await admin.check(log, LOG_TIME)
            if new:
                await self._renew(wagon, channel, len(metadata.partitions))
            else:
                await self._check(channel, topic)
            await admin.describe(topic)
            places = [(topic, p) for p in metadata.partitions]
            ends = await admin.ends(places)
            await self._prove(wagon, channel, [p for (_, p), end in ends.items() if new or not end])

        await self._patiently(ready, f"channel {channel} does not take writes")

    async def _renew(self, wagon: KafkaWagon, channel: Channel, partitions: int) -> None:
        """Forget what the claims say of an earlier topic of this name: new events would pass for settled ones. A wagon
        has one such channel, in which each process of its workers tries a round trip."""
        await sync(self.wagons.admin, [wagon])
        ends = await self.wagons.admin.ends((self._names.topic(channel), p) for p in range(partitions))
        claims, identity = wagon.channel(channel.name), (await self.wagons.publisher.topic(channel)).identity
        is_other = any(claims.partition(p).fresh > (end or 0) for (_, p), end in ends.items())
        is_other = is_other or bool(claims.topic and identity and claims.topic != identity)
        if wagon.claims.format > 1 and is_other:
            await wagon.propose(Renew(channel.name))

    async def _check(self, channel: Channel, topic: str) -> None:
        """Raise StorageBroken unless an existing topic keeps its records and accepts what we publish."""
        found = await self.wagons.admin.configuration(topic)
        if found is None:
            return
        if wrong := unsuitable(self._options.servers, topic, found, self._needed(channel, found)):
            raise StorageBroken(wrong)

    def _needed(self, channel: Channel, found: Mapping[str, str]) -> dict[str, str]:
        """The options that the channel's topic needs in addition to FOREVER, given its configuration."""
        sealed = int(found.get(LIMIT, "0")) <= PROBES_ONLY
        # the train's own dead letters stay for years in a topic that keeps its first size: larger letters are shortened
        return {} if sealed or not channel.wagon else {LIMIT: f">={self._options.max_message_bytes}"}

    async def _prove(self, wagon: KafkaWagon, channel: Channel, partitions: Sequence[int]) -> None:
        """Write a probe to each partition: it accepts writes, or is sealed."""
        client, probes = self.wagons.client, list[tuple[int, int]]()
        done = await asyncio.gather(
            *(
                sealing.probe(client.admin, client.sender, self._names.topic(channel), p, lambda *at: probes.append(at))
                for p in partitions
            ),
            return_exceptions=True,
        )
        identity = ClaimedTopic(wagon, await self.wagons.publisher.topic(channel)).id_to_record
        if probes or identity:
            await wagon.propose(Void(channel.name, runs_of(probes), topic=identity))
        for one in done:
            if isinstance(one, sealing.TopicGone):
                raise ChannelGone(f"topic {channel} is not there yet") from None
            if isinstance(one, BaseException):
                raise one

    async def _patiently(self, step: Callable[[], Awaitable[None]], otherwise: str) -> None:
        """Repeat until the brokers that are asked know of what was just created."""
        loop = asyncio.get_running_loop()
        deadline, backoff = loop.time() + self._options.timeout, Backoff(0.005, 0.25)
        while True:
            try:
                return await step()
            except (ChannelGone, Unavailable) as e:
                if loop.time() > deadline:
                    raise Unavailable(f"Kafka at {self._options.servers}: {otherwise}: {e}") from None
            await asyncio.sleep(backoff.next())

    async def unbound(self, channel: Channel) -> None:
        """Nothing to do: topics have no bound."""

    async def warm(self, channel: Channel) -> None:
        """Looks up the channel's topic."""
        await self.wagons.publisher.warm(channel)

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        await self.wagons.publisher.publish(channel, events)

    async def seal(self, channel: Channel) -> None:
        topic = self._names.topic(channel)
        metadata = await self.wagons.admin.describe(topic)
        if metadata is None:
            return
        client, probes = self.wagons.client, list[tuple[int, int]]()
        copies = max((len(p.replicas) for p in metadata.partitions.values()), default=1)
        count = sealed = 0
        try:
            while metadata is not None and (count := len(metadata.partitions)) > sealed:
                known = await client.admin.describe_to(client.sender, topic)
                if known is not None and len(known.partitions) < count:  # it would take them for absent
                    raise Unavailable(
                        f"Kafka at {self._options.servers}: topic {topic}: a broker does not know of all its "
                        f"{count} partitions yet: try again"
                    )
                await sealing.seal(client.admin, client.sender, topic, count, copies, lambda *at: probes.append(at))
                sealed, metadata = count, await client.admin.describe(topic)  # were some added meanwhile?
            self.wagons.publisher.sealed(channel)
            with contextlib.suppress(ChannelGone):
                await (await self.wagons.of(channel)).name_partitions(channel, count)
        except sealing.TopicGone:
            return
        finally:
            client.sender.known.discard(topic)  # it sends nothing more there
            if probes:
                with contextlib.suppress(ChannelGone):  # without a claims log nobody counts them
                    wagon = await self.wagons.of(channel)
                    await wagon.propose(Void(channel.name, runs_of(probes)))

    async def delete(self, channel: Channel) -> None:
        admin, topic, log = self.wagons.admin, self._names.topic(channel), self._names.claims(channel)
        self.wagons.publisher.forget(channel)
        names = await admin.names()
        if topic in names and log in names:
            with contextlib.suppress(ChannelGone):  # its log was made anew
                wagon = await self.wagons.of(channel)
                wagon.propose(Gone(channel.name))  # only a hint: nothing depends on it
        await admin.delete(topic)
        if (attached := self.wagons.attached(channel)) and (feed := attached.feeds.pop(channel.name, None)):
            feed.end()
        standing = self._names.channels_in(await admin.names(), channel.train)
        left = [c for c in standing if c.wagon == channel.wagon and c != channel]
        if not left:
            await admin.delete(log)
            self.wagons.forget(channel)

    async def channels(self, train: str) -> Sequence[Channel]:
        names = await self.wagons.admin.names()
        found = self._names.channels_in(names, train)
        await self._remove_orphans(names, train, {c.wagon for c in found})
        return found

    async def inspect(self, channels: Sequence[Channel]) -> Sequence[Finding]:
        """See Inspectable."""
        logs = dict.fromkeys(self._names.claims(channel) for channel in channels)
        topics = [InspectedTopic(log, LOG_TIME) for log in logs]
        later = dict.fromkeys(self._names.later(channel.train) for channel in channels)
        topics += [InspectedTopic(topic, COMPACTED) for topic in later]
        for channel in channels:
            topic = self._names.topic(channel)
            found = await self.wagons.admin.configuration(topic)
            asked = self._options.partitions if channel.wagon and not channel.name else 0
            topics.append(InspectedTopic(topic, self._needed(channel, found or {}), asked))
        return await inspect(self.wagons.admin, topics)

    async def _remove_orphans(self, names: list[str], train: str, wagons: set[int]) -> None:
        """Remove claims logs whose wagon has no channel, and had none some time ago."""
        now = asyncio.get_running_loop().time()
        alone = {self._names.claims(c): c for c in self._names.claims_in(names, train) if c.wagon not in wagons}
        for gone in [t for t in self._orphans if t not in alone and self._names.claims_in([t], train)]:
            del self._orphans[gone]
        for topic, channel in alone.items():
            if now - self._orphans.setdefault(topic, now) > _ORPHAN:
                LOGGER.info("topic %s no longer belongs to a channel and is removed", topic)
                await self.wagons.admin.delete(topic)
                self.wagons.forget(channel)

    # --- consumers --------------------------------------------------------------------------

    def consume(
        self, channel: Channel, *, visibility: float, owner: str = ""
    ) -> AbstractAsyncContextManager[Subscription]:
        return self._consume(channel, visibility, owner)

    @asynccontextmanager
    async def _consume(self, channel: Channel, visibility: float, owner: str) -> AsyncIterator[Subscription]:
        wagon = await self.wagons.of(channel)
        feed = await self.wagons.feed(wagon, channel, owner)
        feed.users += 1
        subscription = KafkaSubscription(wagon, feed, channel, visibility, owner)
        try:
            yield subscription
        finally:
            subscription.close()
            feed.users -= 1
            if not feed.users:
                feed.stop()
                if wagon.feeds.get(channel.name) is feed:
                    del wagon.feeds[channel.name]

    async def reclaim(self, channel: Channel, owner: str) -> int:
        if owner:
            with contextlib.suppress(ChannelGone):
                wagon = await self.wagons.of(channel)
                returned = await wagon.propose(Release(channel.name, [], 0, False, owner))
                return sum(grant.stop - grant.start for grant in returned)
        return 0

    # --- figures ----------------------------------------------------------------------------

    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        return await self._depths.of(channels)

    async def read(self, channel: Channel) -> AsyncIterator[Event]:
        await self.wagons.publisher.topic(channel)
        await self.wagons.recount(channel)  # what is left out here may be deleted next
        topic = await self.wagons.publisher.topic(channel)
        try:
            one = ClaimedTopic(await self.wagons.of(channel), topic)
        except ChannelGone:  # its claims log was deleted: what this process does not know as settled is unsettled
            claims = self.wagons.last_claims(channel).channel(channel.name)
        else:
            totals = await self.wagons.totals([one])
            claims = ChannelClaims() if channel in totals.remade else one.claims
        ends = await self.wagons.admin.ends(((topic.name, p) for p in range(topic.partitions)), stable=True)
        pieces = [(p, claims.partition(p).unsettled(), claims.partition(p).fresh) for p in range(topic.partitions)]
        for p, runs, fresh in pieces:
            held = [offset for run in runs for offset in range(*run)]
            end = ends[topic.name, p]
            if end is None:
                self.wagons.publisher.forget(channel)
                raise ChannelGone(f"channel {channel} does not exist")
            for first in range(0, len(held), _PAGE):
                for message in await self.wagons.reader.these(topic.name, p, held[first : first + _PAGE]):
                    if (event := decode(message)) is not None:
                        yield event
            while fresh < end:
                some = await self.wagons.reader.range(topic.name, p, fresh, end, _PAGE)
                for message in some:
                    if (event := decode(message)) is not None:
                        yield event
                fresh = some[-1].offset() + 1 if some else end  # type: ignore[operator]
