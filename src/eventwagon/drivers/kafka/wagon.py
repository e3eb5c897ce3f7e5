"""One wagon, as one process sees it: its claims log, and the feeds of its channels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from ...display.text import count
from ...errors import ChannelGone
from ...event import Channel
from .claims import ChannelClaims, Grant, WagonClaims
from .committing import Committer
from .feed import Feed
from .following import LogClient, LogGone
from .log import Log
from .names import Names
from .options import LOGGER
from .proposals import FORMAT, Beat, Claim, Gone, Head, Member, Op, Release, Run, Void, encode

_EVERY = 20_000  # records from one snapshot of the claims to the next
_FEW = 8  # members that may write as often as they like
_SLOWER, _SLOWEST = 0.002, 0.05  # s between two records for each further member, and at most


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
        self.me = client.me[:5].hex()
        """This process as a member."""
        self._look = look
        self._committer = Committer(self._append, self._translate, self._pause)

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
        """Propose it; the future has the result once it is in the log. All that is proposed while a record of this
        process is under way shares the next one. The future raises ChannelGone or Unavailable; then it may be done all
        the same."""
        return self._committer.propose(op)

    async def name_partitions(self, channel: Channel, count: int) -> None:
        """See that the log names all partitions of the channel: whoever proves that nothing is left counts them, too.
        Raises ChannelGone, Unavailable."""
        if (named := self.channel(channel.name).named) < count:
            await self.propose(Beat(channel.name, [(p, 0) for p in range(named, count)]))

    async def finish(self) -> None:
        """Wait until everything that was proposed is in the log, or failed."""
        await self._committer.idle.wait()

    def beat(self) -> None:
        """Now and then: show that this process lives, if it owes that; and follow what changed by time alone."""
        if self.claims.owes_a_beat(self.me, self.log.now):
            self.propose(Beat("", []))
        for feed in list(self.feeds.values()):
            feed.look()

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

    def _append(self, ops: Sequence[Op]) -> asyncio.Future[Any]:
        head: list[Head] = [] if self.claims.format == 1 else [Member(self.me)]
        if not self.claims.format:
            head.insert(0, FORMAT)
        return self.log.append(encode([*head, *ops]))

    def _translate(self, op: Op, error: BaseException) -> BaseException:
        if not isinstance(error, LogGone):
            return error
        channel = Channel(self.train, self.number, op.channel)
        self._look(channel)
        return ChannelGone(f"channel {channel} does not exist any more")

    def _pause(self) -> float:
        return min(_SLOWEST, _SLOWER * max(0, len(self.claims.members) - _FEW))

    def _applied(self, result: list[tuple[Op, list[Grant]]], mine: bool) -> None:
        for op, grants in result:
            feed = self.feeds.get(op.channel)
            if feed is None:
                continue
            if isinstance(op, Claim):
                if grants and not mine:
                    feed.claimed_by_others(grants)
            elif isinstance(op, Release | Beat):
                feed.wake()
            elif isinstance(op, Void):
                if op.lost:
                    feed.lost(op.runs)
            elif isinstance(op, Gone):
                self._look(feed.channel)
        for feed in list(self.feeds.values()):
            feed.look()

    def end(self) -> None:
        """All of it is gone, or no longer needed."""
        for feed in self.feeds.values():
            feed.end()
        self.feeds.clear()
        self.log.leave()
