"""A consumer of one channel."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from ...contracts.broker import Delivery
from ...errors import BrokerError
from ...event import Channel
from .claims import Grant
from .feed import Feed, Piece
from .options import LOGGER
from .pace import Pace
from .proposals import Claim, Extend, Release, Settle, Void, held_of, runs_of
from .reader import offset_of
from .wagon import KafkaWagon
from .wire import decode

Token = tuple[int, int, int]
"""Partition, offset, number of the claim."""

_VAIN = 0.002  # s to wait after a claim that returned nothing
_UNUSED = 0.05  # s after which a claim ahead is given back


class _Ahead(NamedTuple):
    limit: int
    claimed: asyncio.Future[list[Grant]]
    until: float
    """The loop's time until which it certainly stands."""


class KafkaSubscription:
    """The tokens of its deliveries belong to no process: any process that has one may settle, release and extend."""

    def __init__(self, wagon: KafkaWagon, feed: Feed, channel: Channel, visibility: float, owner: str) -> None:
        self._wagon = wagon
        self._feed = feed
        self._name = channel.name
        self._visibility = max(1, round(visibility * 1000))
        self._owner = owner
        self._suspect_first = True
        self._pace = Pace()
        self._ahead: _Ahead | None = None
        """A claim for the next receive."""
        self._returned: asyncio.Future[list[Grant]] | None = None
        """The last claim that is given back as soon as it is answered."""

    async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        await asyncio.sleep(
            0
        )  # a consumer in a loop must let others run; before the claim, so that a cancelled one takes nothing
        feed, log = self._feed, self._wagon.log
        if self._ahead and (self._ahead.limit > limit or loop.time() > self._ahead.until):
            self._drop_ahead()
        if self._returned is not None:  # its events are back before others are claimed: they stay in order
            await asyncio.wait([self._returned], timeout=max(0.0, deadline - loop.time()))
            if not self._returned.done():
                return []
            self._returned = None
        if (ahead := self._ahead) is not None:
            feed.check()
            self._ahead = None
            if got := await self._claimed(limit, ahead.claimed):
                return got
        while True:
            feed.check()
            if (claimed := self._propose_claim(limit)) is not None:
                if got := await self._claimed(limit, claimed):
                    return got
                await feed.wait(_VAIN)
            left = deadline - loop.time()
            if left <= 0:
                return []
            if not feed.available(log.now):
                await feed.wait(min(left, feed.pause(log.now)))

    async def settle(self, deliveries: Sequence[Delivery]) -> None:
        if not deliveries:
            return
        self._feed.check()
        held = held_of([d.token for d in deliveries])
        named = self._wagon.claims.format > 1
        runs = [] if named else [(p, start, stop) for p, start, stop, _ in held]
        settled = self._wagon.propose(Settle(self._name, runs, held if named else []))
        self._claim_ahead(len(deliveries))
        await settled
        self._feed.settled(held)

    async def release(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0, tried: bool = True, cleared: bool = False
    ) -> None:
        if not deliveries:
            return
        self._feed.check()
        held, later = held_of(d.token for d in deliveries), max(0, round(delay * 1000))
        self._feed.released(held)
        await self._wagon.propose(Release(self._name, held, later, tried, cleared=cleared))

    async def alone(self, delivery: Delivery) -> bool:
        self._feed.check()
        return bool(await self._wagon.propose(Extend(self._name, held_of([delivery.token]), 0, alone=True)))

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        if not deliveries:
            return
        self._feed.check()
        await self._wagon.propose(Extend(self._name, held_of(d.token for d in deliveries), self._visibility))

    def close(self) -> None:
        """Give back what nobody will ask for."""
        self._drop_ahead()

    def _claim_ahead(self, settled: int) -> None:
        """Who settles large batches as fast as they come gets the next one by a claim in the record of the settle: the
        log is written once a batch, and waited for once."""
        loop, limit = asyncio.get_running_loop(), self._pace.batch
        is_due = self._pace.settled(settled, loop.time()) and self._ahead is None
        if is_due and (proposed := self._propose_claim(limit)) is not None:
            ahead = self._ahead = _Ahead(limit, proposed, loop.time() + self._visibility / 2000)

            def answered(claimed: asyncio.Future[list[Grant]]) -> None:
                if claimed.exception():  # the settle's error tells it
                    self._drop_ahead(ahead)
                else:
                    loop.call_later(_UNUSED, self._drop_ahead, ahead)

            proposed.add_done_callback(answered)

    def _drop_ahead(self, only: _Ahead | None = None) -> None:
        """Give back what was claimed ahead; `only` if it is this."""
        ahead = self._ahead
        if ahead is None or only not in (None, ahead):
            return
        self._ahead = None
        self._pace.stop()
        self._abandon(ahead.claimed)

    def _abandon(self, claimed: asyncio.Future[list[Grant]]) -> None:
        """Give back what was claimed. If the claim is answered already, this happens now, before anything else is
        claimed."""
        if claimed.done():
            self._give_back(claimed)
        else:
            claimed.add_done_callback(self._give_back)
            self._returned = claimed

    def _propose_claim(self, limit: int) -> asyncio.Future[list[Grant]] | None:
        """Claim from the own partitions, or from one that another process leaves alone; None if there is nothing."""
        feed, now = self._feed, self._wagon.log.now
        own = feed.available(now)
        elsewhere = feed.elsewhere(limit, now, busy=own)
        if not own and elsewhere is None:
            return None

        def answered(_: asyncio.Future[list[Grant]]) -> None:
            feed.asked -= limit
            feed.wake()  # who saw too little for two may have what came meanwhile

        feed.asked += limit
        ends = feed.ends() if elsewhere is None else [elsewhere]
        claim_op = Claim(self._name, limit, self._visibility, ends, self._suspect_first, self._owner)
        proposed = self._wagon.propose(claim_op)
        proposed.add_done_callback(answered)
        return proposed

    async def _claimed(self, limit: int, proposed: asyncio.Future[list[Grant]]) -> list[Delivery]:
        """What the claim returned."""
        feed = self._feed
        try:
            grants = await asyncio.shield(proposed)
        except asyncio.CancelledError:
            self._abandon(proposed)
            raise
        if not grants:
            return []
        try:
            taken = await feed.take(grants)
        except BaseException:
            self._give_back(proposed)
            raise
        got: list[Delivery] = []
        probes: list[tuple[int, int]] = []
        for piece in taken.pieces:
            some = _delivered(piece, probes)
            feed.delivered(piece.grant, some)
            got += some
        if probes:
            self._wagon.propose(Void(self._name, runs_of(probes)))
        if taken.missing:
            try:
                await self._leave_out(taken.missing, grants)
            except BrokerError as e:  # the next consumer that gets them tries again
                LOGGER.debug("channel %s: offsets without an event are left for later: %s", feed.channel, e)
            except BaseException:
                self._give_back(proposed)
                raise
        if got:
            self._suspect_first = not got[0].suspect
        self._pace.received(len(got), limit, asyncio.get_running_loop().time())
        return got

    async def _leave_out(self, missing: list[tuple[int, int]], grants: Sequence[Grant]) -> None:
        """There are no messages at these offsets. Before the partition's beginning they were removed, and perhaps also
        if the topic is compacted; elsewhere they are traces of transactions."""
        wagon, feed, admin = self._wagon, self._feed, self._wagon.client.admin
        places = {(feed.topic, p) for p, _ in missing}
        try:
            starts, policy = await asyncio.gather(admin.starts(places), admin.option(feed.topic, "cleanup.policy"))
        except BrokerError:
            starts, policy = {}, None
        compacted = "compact" in (policy or "")
        lost = [(p, o) for p, o in missing if compacted or o < (starts.get((feed.topic, p)) or 0)]
        if not starts or lost:  # they are ours until they are given back: what is held is not lost
            claims = {(g.partition, o): g.claim for g in grants for o in range(g.start, g.stop)}
            gone = missing if not starts else lost
            wagon.propose(Release(self._name, held_of((*at, claims[at]) for at in gone), 0, False))
        if starts and (traces := sorted(set(missing).difference(lost))):
            wagon.propose(Void(self._name, runs_of(traces)))
        if lost:
            what = f"offsets {min(o for _, o in lost)} to {max(o for _, o in lost)} of {feed.topic}"
            await wagon.lose(feed.channel, runs_of(lost), what)

    def _give_back(self, proposed: asyncio.Future[list[Grant]]) -> None:
        """Nobody waits for the claimed events any more: give them back before the claim expires."""
        if proposed.cancelled() or proposed.exception() or self._feed.gone:
            return
        held = [(g.partition, g.start, g.stop, g.claim) for g in proposed.result()]
        if held:
            self._wagon.propose(Release(self._name, held, 0, False))


def _delivered(piece: Piece, probes: list[tuple[int, int]]) -> list[Delivery]:
    """The events that were taken. The places of messages that are none are added to `probes`."""
    (partition, start, stop, attempt, claim, suspect), messages, kept = piece
    solid = len(messages) == stop - start
    offsets = range(start, stop) if solid else sorted([*map(offset_of, messages), *kept])
    got: list[Delivery] = []
    messages.reverse()
    for offset in offsets:
        # a message goes at once, with its headers: of thousands that live at a time the garbage collector looks at all
        event = kept[offset] if offset in kept else decode(messages.pop())
        if event is None:
            probes.append((partition, offset))
        else:
            got.append(Delivery(event, attempt, (partition, offset, claim), suspect))
    return got
