"""Partitions that somebody adds to topics in use."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

from ...display.text import count
from ...errors import BrokerError
from .admin import Described
from .options import LOGGER
from .publishing import Publisher
from .wagon import KafkaWagon


class AddedPartitions:
    """Notices them: from then on they are read, counted and written to."""

    def __init__(self, publisher: Publisher, live: Callable[[], Sequence[KafkaWagon]]) -> None:
        self._publisher = publisher
        self._live = live
        self._noticing = asyncio.Lock()

    async def notice(self, described: Mapping[str, Described | None]) -> None:
        """Look for partitions in what the cluster says of topics now. Raises Unavailable, StorageBroken."""
        async with self._noticing:
            topics = self._publisher.topics()
            wagons = {(wagon.train, wagon.number): wagon for wagon in self._live()}
            feeds = {feed.topic: feed for wagon in wagons.values() for feed in wagon.feeds.values()}
            for name, now in ((name, one.partitions) for name, one in described.items() if one):
                feed, topic = feeds.get(name), topics.get(name)
                had = min(feed.partition_count if feed else now, topic.partitions if topic else now)
                if now <= had:
                    continue
                grew = feed is not None and await feed.grow(now)
                if topic is not None and topic.partitions < now:
                    channel = topic.channel
                    if (wagon := wagons.get((channel.train, channel.wagon))) and not grew:
                        with contextlib.suppress(BrokerError):  # a process that may only read does not write there
                            await wagon.name_partitions(channel, now)
                    grew = await self._publisher.grow(topic, now) or grew  # last: the log names what is written to
                if grew:
                    LOGGER.warning(
                        "topic %s has %s, it had %d: somebody added some. They are read, counted and sealed like the "
                        "others; the next wagon's topics have as many as the URL says",
                        name,
                        count(now, "partition"),
                        had,
                    )
