"""One wagon, as one process sees it: its claims log, and the feeds of its channels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ...display.text import count
from ...errors import ChannelGone
from ...event import Channel
from .claims import ChannelClaims, Grant, WagonClaims
from .feed import Feed
from .following import LogClient, LogGone
from .log import Log
from .names import Names
from .options import LOGGER
from .proposals import Claim, Gone, Op, Release, Run, Void, encode

_EVERY = 20_000  # records from one snapshot of the claims to the next
_AT_ONCE = 50  # proposals in one record


class KafkaWagon:
    """One wagon as this process knows it: its log of claims, and the feeds of its channels. Attach it before use."""

    def __init__(self, client: LogClient, channel: Channel, names: Names, look: Callable[[Channel], None]) -> None:
        self.client = client
        self.train = channel.train
        self.number = channel.wagon
        self.claims = WagonClaims()
        self.log = Log(client, names.claims(channel), self.claims, every=_EVERY, applied=self._applied)
        self.feeds: dict[str, Feed] = {}
        self.missed = 0
        """How many checks in a row did not find the log."""
        self.trouble = ""
        """The setting of the log's configuration that loses claims."""
        self._look = look
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[Op, asyncio.Future[list[Grant]]]] = []

    @property
    def in_trouble(self) -> str:
        """What loses claims, or has lost some."""
        rebuilt = (
            f"topic {self.log.topic} lost its beginning, by retention or because somebody deleted records, and was "
            "rebuilt from the rest: events that were settled may have come again"
        )
        return "; ".join(filter(None, (self.trouble, rebuilt if self.claims.rebuilt else "")))

    def channel(self, name: str) -> ChannelClaims:
        """The claims of one channel."""
        return self.claims.channel(name)

    def propose(self, op: Op) -> asyncio.Future[list[Grant]]:
        """Propose it; the future has the result once it is in the log. All proposals of one turn of the event loop
        share a record. The future raises ChannelGone or Unavailable; then it may be done all the same."""
        done: asyncio.Future[list[Grant]] = self._loop.create_future()
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append((op, done))
        return done

    async def lose(self, channel: Channel, runs: list[Run], what: str) -> None:
        """These were removed before they were settled: record and report that. Raises ChannelGone, Unavailable."""
        claims = self.channel(channel.name)
        before = claims.lost
        await self.propose(Void(channel.name, runs, lost=True))
        if (lost := claims.lost - before) > 0:
            LOGGER.warning(
                "channel %s lost %s that were not settled: %s was removed, by retention or by somebody; see to "
                "it that retention.ms and retention.bytes are -1, cleanup.policy is delete, and nobody deletes records",
                channel,
                count(lost, "event"),
                what,
            )

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for first in range(0, len(waiting), _AT_ONCE):
            some = waiting[first : first + _AT_ONCE]
            appended = self.log.append(encode([op for op, _ in some]))
            appended.add_done_callback(lambda appended, some=some: self._tell(some, appended))  # type: ignore[misc]

    def _tell(self, some: list[tuple[Op, asyncio.Future[list[Grant]]]], appended: asyncio.Future[Any]) -> None:
        error = appended.exception()
        for i, (op, done) in enumerate(some):
            if done.done():
                continue
            if error is None:
                done.set_result(appended.result()[i][1])
                continue
            if isinstance(error, LogGone):
                self._look(Channel(self.train, self.number, op.channel))
                error = ChannelGone(f"channel {Channel(self.train, self.number, op.channel)} does not exist any more")
            done.set_exception(error)
            done.exception()

    def _applied(self, result: list[tuple[Op, list[Grant]]], mine: bool) -> None:
        for op, grants in result:
            feed = self.feeds.get(op.channel)
            if feed is None:
                continue
            if isinstance(op, Claim):
                if grants and not mine:
                    feed.claimed_by_others(grants)
            elif isinstance(op, Release):
                feed.wake()
            elif isinstance(op, Void):
                if op.lost:
                    feed.lost(op.runs)
            elif isinstance(op, Gone):
                self._look(feed.channel)

    def end(self) -> None:
        """All of it is gone, or no longer needed."""
        for feed in self.feeds.values():
            feed.end()
        self.feeds.clear()
        self.log.leave()
