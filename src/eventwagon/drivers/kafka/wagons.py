"""The wagons whose claims this process follows, and the events that it reads from their channels."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence

from ...background import Background
from ...display.text import count
from ...errors import BrokerError, ChannelGone
from ...event import Channel
from .added import AddedPartitions
from .admin import LOG_TIME, Described
from .ages import EventTimes
from .claims import WagonClaims
from .cluster import Cluster
from .feed import Feed
from .following import LogClient, LogGone
from .names import Names
from .offsets import Place
from .options import LOGGER
from .progress import Progress
from .proposals import Void
from .publishing import Publisher
from .reader import Reader
from .totals import ClaimedTopic, Totals, is_guarded, totals_of
from .wagon import KafkaWagon

_LOOK = 1.0  # s between two checks whether what is followed still exists
_BEAT = 0.5  # s between two checks whether the others should hear from this process
_SPARING = 65_536  # bytes that are fetched at once where little is asked for: single events, others' partitions
_DESCRIBE = 5  # of these checks, those that also ask whether topics were made anew or have more partitions
_LOOK_CLOSER = 60  # a check of the configuration for this many of them
_TOLD_AGAIN = 60.0  # s between two reports of defects
_SURE = 2  # checks that find nothing before a topic counts as gone: one broker may not know yet what is new


class Wagons:
    """Everything that exists while a broker is entered. Belongs to the event loop that made it."""

    def __init__(self, cluster: Cluster, cache: int) -> None:
        options = cluster.admin.options
        self.names = Names(options.topic_prefix)
        self.client = LogClient(cluster)
        self.admin = self.client.admin
        self.publisher = Publisher(self.admin, self.names)
        causes = self.admin.causes
        self.reader = Reader(self.admin, options.consumer(wait=5, queued=8192, logger=causes))
        self.few = asyncio.Semaphore(8)
        """Channels that are created at the same time: a cluster creates one topic after the other, and has other work,
        too."""
        self.ages = EventTimes(self.admin)
        self.sparing = Reader(self.admin, options.consumer(wait=5, queued=128, fetch=_SPARING, logger=causes))
        """For single records."""
        self._quick = cluster.quick_events()
        self._tail = cluster.events_tail(self._quick)
        self._cache = cache
        self._told_partitions: set[str] = set()
        self._added = AddedPartitions(self.publisher, self.live)
        self._absent: set[str] = set()
        """Topics that the last description lacked."""
        self._told_remade: set[str] = set()
        self._wagons: dict[tuple[str, int], asyncio.Task[KafkaWagon]] = {}
        self._last_claims: dict[tuple[str, int], WagonClaims] = {}
        self._lost_logs: dict[tuple[str, int], str] = {}
        """The identity of each claims log that this process has followed, and that is gone while its wagon is not."""
        self._turn = 0
        """Looks whether the topics still exist, so far."""
        self._background = Background()
        self._background.start(self._each(_LOOK, self._watch, "a look at Kafka's topics"))
        self._background.start(self._each(_BEAT, self._beat, "a sign of life"))
        if options.group:
            self._background.start(Progress(self.admin.group, self.live).run())

    async def close(self) -> None:
        """Finish sending, for up to 1 s; then end all threads and connections but the cluster's."""
        self._background.cancel()
        await self._background.wait()
        with contextlib.suppress(TimeoutError):  # what tells the others that this process has left
            async with asyncio.timeout(1.0):
                await asyncio.gather(*(wagon.finish() for wagon in self.live()))
        for wagon in self.live():
            wagon.end()
        self._wagons.clear()
        self._tail.close()
        readers = (self.reader, self.sparing)
        await asyncio.gather(
            self.publisher.close(), self.ages.close(), self._quick.close(), *(reader.close() for reader in readers)
        )
        self.client.close()

    async def of(self, channel: Channel) -> KafkaWagon:
        """The channel's wagon, attached. Raises ChannelGone, Unavailable."""
        key = (channel.train, channel.wagon)
        task = self._wagons.get(key)
        if task is None:
            task = self._wagons[key] = self._background.start(self._attach(channel))
        try:
            return await asyncio.shield(task)
        except BrokerError:
            if self._wagons.get(key) is task:
                del self._wagons[key]
            raise

    def attached(self, channel: Channel) -> KafkaWagon | None:
        """The channel's wagon, if it is followed already."""
        task = self._wagons.get((channel.train, channel.wagon))
        return _result(task) if task else None

    def forget(self, channel: Channel) -> None:
        """The channel's wagon is gone."""
        self._leave(channel)
        self._last_claims.pop((channel.train, channel.wagon), None)
        self._lost_logs.pop((channel.train, channel.wagon), None)

    def last_claims(self, channel: Channel) -> WagonClaims:
        """The claims of a wagon whose log was deleted, as far as this process had read them."""
        return self._last_claims.get((channel.train, channel.wagon)) or WagonClaims()

    def _leave(self, channel: Channel) -> None:
        if wagon := self.attached(channel):
            wagon.end()
        self._wagons.pop((channel.train, channel.wagon), None)

    async def feed(self, wagon: KafkaWagon, channel: Channel, owner: str) -> Feed:
        """The channel's feed, which is being read, for the process called `owner`. Raises ChannelGone, Unavailable."""
        if feed := _feed_of(wagon, channel):
            return feed
        # this warms the producer for a process that soon publishes here
        topic, _ = await asyncio.gather(self.publisher.topic(channel), self._warm(wagon))
        one = ClaimedTopic(wagon, topic)
        await self._check_topic(one)
        if one.id_to_record:
            wagon.propose(Void(channel.name, [], topic=one.id_to_record))
        # another consumer may have made it meanwhile
        return _feed_of(wagon, channel) or await self._start_feed(one, owner)

    async def _warm(self, wagon: KafkaWagon) -> None:
        if self.client.sender.is_new:  # the consumer's first record would wait for it
            await self.admin.describe_to(self.client.sender, wagon.log.topic)

    async def _check_topic(self, one: ClaimedTopic) -> None:
        """Raise ChannelGone if the topic does not exist, or is not the one that the claims are about."""
        channel, topic = one.channel, one.topic
        totals = await self.totals([one])
        self._tell_partitions(channel, topic.partitions)
        if any(totals.ends[place] is None for place in one.places):
            self.publisher.forget(channel)
            raise ChannelGone(f"channel {channel} does not exist")
        if channel in totals.remade:
            raise ChannelGone(f"topic {topic.name} was made anew, and the wagon's claims are of the old one")

    async def _start_feed(self, one: ClaimedTopic, owner: str) -> Feed:
        wagon, channel, topic = one.wagon, one.channel, one.topic
        feed = Feed(
            channel,
            topic.name,
            topic.partitions,
            wagon.claims,
            wagon.me,
            wagon.propose,
            self._tail,
            self.sparing,
            self._room,
        )
        wagon.feeds[channel.name] = feed
        try:
            stable = await self.admin.ends(one.places, stable=True)
            await feed.start([stable[place] or 0 for place in one.places], owner)
        except BaseException:
            feed.stop()
            feed.end()
            if wagon.feeds.get(channel.name) is feed:
                del wagon.feeds[channel.name]
            raise
        return feed

    def _tell_partitions(self, channel: Channel, found: int) -> None:
        """Tell once for each train that this process's option decides nothing, if it says otherwise."""
        asked = self.admin.options.partitions
        if asked in (1, found) or channel.name or channel.train in self._told_partitions:
            return
        self._told_partitions.add(channel.train)
        LOGGER.warning(
            "channel %s has %s, and this process is told partitions=%d: that counts only for wagons that the process "
            "opens itself. Give the same number to all observers, and to publishers, one of which opens a new train's "
            "first wagon; each wagon that they open from then on has it",
            channel,
            count(found, "partition"),
            asked,
        )

    async def totals(self, topics: Sequence[ClaimedTopic]) -> Totals:
        """What the claims logs and the topics say, as of now. Raises Unavailable, LogGone."""
        totals = await totals_of(self.admin, topics)
        for one in totals.remade.values():
            self._tell_remade(one.topic.name)
        return totals

    def look_soon(self, channel: Channel) -> None:
        """Another process reports that this channel is about to be deleted: check now, and again later."""

        async def look() -> None:
            for pause in (0.0, 0.1, 0.3, 1.0):
                await asyncio.sleep(pause)
                await self._look()

        if len(self._background) < 100:
            self._background.start(look())

    async def _attach(self, channel: Channel) -> KafkaWagon:
        wagon = KafkaWagon(self.client, channel, self.names, self.look_soon)
        try:
            await wagon.log.attach()
        except LogGone:
            raise ChannelGone(f"channel {channel} does not exist (no topic {wagon.log.topic})") from None
        known = self._lost_logs.get((channel.train, channel.wagon), wagon.log.identity)
        if wagon.log.identity != known:
            wagon.log.leave()
            raise ChannelGone(f"topic {wagon.log.topic} was deleted and made anew")
        return wagon

    async def _each(self, seconds: float, turn: Callable[[], Awaitable[None]], name: str) -> None:
        """Take a turn every so many seconds. A defect in one ends none of the others."""
        told = -math.inf
        while True:
            await asyncio.sleep(seconds)
            try:
                await turn()
            except Exception:  # noqa: BLE001 - it is logged
                if (now := asyncio.get_running_loop().time()) >= told + _TOLD_AGAIN:
                    told = now
                    LOGGER.exception("%s failed unexpectedly; the next is in %g s", name, seconds)

    async def _beat(self) -> None:
        for wagon in self.live():
            wagon.beat()

    async def _watch(self) -> None:
        self._turn += 1
        await self._look(describe=self._turn % _DESCRIBE == 0)
        if self._turn % _LOOK_CLOSER == 0:
            await self._look_closer()

    async def _look_closer(self) -> None:
        """Check whether the topics in use still keep their records: somebody may have changed their configuration."""
        try:
            await self.publisher.look_again()
            for wagon in self.live():
                trouble = await self.admin.unsuitable(wagon.log.topic, LOG_TIME)
                if trouble and trouble != wagon.trouble:
                    LOGGER.warning("%s", trouble)
                wagon.trouble = trouble
        except BrokerError as e:
            LOGGER.debug("could not read the configuration of topics: %s", e)

    async def recount(self, channel: Channel) -> None:
        """Notice now which partitions somebody has added to the channel's topic. Raises Unavailable, StorageBroken."""
        await self._added.notice(await self.admin.described([self.names.topic(channel)]))

    async def _look(self, *, describe: bool = False) -> None:
        """End the feeds whose topics are gone, and the wagons whose logs are gone. `describe`: even if nothing is
        missing, ask which were made anew; and which have more partitions."""
        wagons = self.live()
        read = {wagon: wagon.log.next for wagon in wagons}
        feeds = [(wagon, feed) for wagon in wagons for feed in wagon.feeds.values()]
        places = [(f.topic, p) for _, f in feeds for p in range(f.partition_count)] + [(w.log.topic, 0) for w in wagons]
        try:
            ends = await self.admin.ends(places, stable=True, patient=True)
            lacking = [wagon for wagon in wagons if await self._lacks_records(wagon, ends, read[wagon])]
            shorter = any(_is_shorter(wagon, feed, ends) for wagon, feed in feeds)
            names = [*self.publisher.topics(), *(wagon.log.topic for wagon in wagons)]
            look_up = describe or lacking or shorter
            found = await self.admin.described(names, patient=True) if look_up else {}
        except BrokerError as e:
            LOGGER.debug("could not check whether channels still exist: %s", e)
            return
        same, remade = self._compare_topics(wagons, found)
        for wagon, feed in feeds:
            self._count_missed(wagon, feed, ends)
        for wagon in wagons:
            wagon.missed = wagon.missed + 1 if wagon in lacking else 0
            if wagon in remade or wagon.missed >= _SURE:
                await self._lost_log(wagon, is_alone=wagon in same)
        if describe:
            self._forget_absent(found)
            try:
                await self._added.notice(found)
            except BrokerError as e:
                LOGGER.debug("could not look at the new partitions of topics: %s", e)

    def _count_missed(self, wagon: KafkaWagon, feed: Feed, ends: Mapping[Place, int | None]) -> None:
        """End the feed if its topic was missing in several looks."""
        for p in range(feed.partition_count):
            feed.reaches(p, ends.get((feed.topic, p)) or 0)  # none was asked for one that was just noticed
        feed.missed = feed.missed + 1 if ends[feed.topic, 0] is None else 0
        if feed.missed >= _SURE:
            feed.end()
            self.publisher.forget(feed.channel)
            if wagon.feeds.get(feed.channel.name) is feed:
                del wagon.feeds[feed.channel.name]

    def _forget_absent(self, found: Mapping[str, Described | None]) -> None:
        """Forget the topics that two descriptions in a row lack: else what is asked would grow with every wagon."""
        gone = {name for name, one in found.items() if one is None}
        for name in gone & self._absent:
            self.publisher.forget_topic(name)
        self._absent = gone

    def _compare_topics(
        self, wagons: Sequence[KafkaWagon], found: Mapping[str, Described | None]
    ) -> tuple[set[KafkaWagon], set[KafkaWagon]]:
        """End the feeds of topics that were deleted and made anew. Returns the wagons of which a topic is still as it
        was, and those of them whose claims log was made anew. One of which nothing is as it was begins anew."""
        live = {(wagon.train, wagon.number): wagon for wagon in wagons}
        identities = {name: one.identity for name, one in found.items() if one}
        same, remade = set[KafkaWagon](), set[KafkaWagon]()
        for topic in self.publisher.topics().values():
            wagon, identity = live.get((topic.channel.train, topic.channel.wagon)), identities.get(topic.name, "")
            if wagon is None or not is_guarded(topic.channel):
                continue
            if not topic.identity:
                topic.identity = identity
            elif identity == topic.identity:
                same.add(wagon)
            elif identity:
                self._tell_remade(topic.name)
                self.publisher.forget(topic.channel)
                if feed := wagon.feeds.pop(topic.channel.name, None):
                    feed.end()
        for wagon in wagons:
            identity = identities.get(wagon.log.topic, "")
            if not wagon.log.identity:
                wagon.log.identity = identity
            elif identity not in ("", wagon.log.identity) and wagon in same:
                self._tell_remade(wagon.log.topic)
                remade.add(wagon)
        return same, remade

    def _tell_remade(self, topic: str) -> None:
        """Tell once that this topic is another one."""
        if topic not in self._told_remade:
            self._told_remade.add(topic)
            servers = self.admin.options.servers
            LOGGER.warning("Kafka at %s: topic %s was deleted and made anew, or has lost its end", servers, topic)

    async def _lacks_records(self, wagon: KafkaWagon, stable: Mapping[Place, int | None], read: int) -> bool:
        """Whether the wagon's log was deleted, or has lost its end: then it ends before what was `read` of it."""
        place = (wagon.log.topic, 0)
        if (end := stable[place]) is None:
            return True
        if end >= read:
            return False
        try:  # somebody else's open transaction hides its end, too
            return ((await self.admin.ends([place]))[place] or 0) < read
        except BrokerError as e:
            LOGGER.debug("could not check whether channels still exist: %s", e)
            return False

    async def _lost_log(self, wagon: KafkaWagon, *, is_alone: bool) -> None:
        """The wagon's log is gone. If its channels are not, somebody deleted it: remember the claims. `is_alone`: one
        that is made anew is not followed, since it knows of no settled event."""
        ingress = Channel(wagon.train, wagon.number)
        try:
            standing = self.names.channels_in(await self.admin.names(), wagon.train)
        except BrokerError as e:
            LOGGER.debug("could not check whether channels still exist: %s", e)
            return
        if any(c.wagon == wagon.number for c in standing):
            self._last_claims[wagon.train, wagon.number] = wagon.claims
            if is_alone and wagon.log.identity:
                self._lost_logs[wagon.train, wagon.number] = wagon.log.identity
            self._leave(ingress)
        else:
            self.forget(ingress)

    def _room(self) -> int:
        """Bytes that one channel may read ahead."""
        return max(1_048_576, self._cache // max(1, sum(len(w.feeds) for w in self.live())))

    def live(self) -> list[KafkaWagon]:
        """Those whose claims log is open."""
        return [wagon for task in self._wagons.values() if (wagon := _result(task))]


def _feed_of(wagon: KafkaWagon, channel: Channel) -> Feed | None:
    """The channel's feed, if there is one whose topic is not gone."""
    feed = wagon.feeds.get(channel.name)
    return None if feed is None or feed.gone else feed


def _is_shorter(wagon: KafkaWagon, feed: Feed, ends: Mapping[Place, int | None]) -> bool:
    """Whether a partition ends before what was claimed of it."""
    asked = (p for p in range(feed.partition_count) if (feed.topic, p) in ends)  # not one that was just noticed
    return any((ends[feed.topic, p] or 0) < wagon.channel(feed.channel.name).partition(p).fresh for p in asked)


def _result(task: asyncio.Task[KafkaWagon]) -> KafkaWagon | None:
    return task.result() if task.done() and not task.cancelled() and task.exception() is None else None
