"""What waits in channels, and what is wrong with them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

import msgspec

from ...contracts.broker import Depth
from ...errors import BrokerError, ChannelGone
from ...event import DEAD, Channel
from .offsets import Place
from .probes import DeadLetterProbes
from .reader import Spot
from .totals import ClaimedTopic, Totals
from .wagons import Wagons


class Depths:
    """The figures of channels, from their wagons' claims and the ends of their topics."""

    def __init__(self, wagons: Callable[[], Wagons]) -> None:
        self._wagons = wagons
        self._probes = DeadLetterProbes()

    async def of(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        """As `Broker.depth`."""
        known, claimless, totals = await self._counted(channels)
        depths = {c: Depth(undeliverable=True, trouble=self._claimless(c)) for c in claimless}
        depths |= {c: _remade(known.pop(c), totals.ends) for c in totals.remade}
        await self._record_losses(known, totals.ends)
        dead = [one for c, one in known.items() if c.name == DEAD]
        if await self._probes.void(dead, totals.ends, self._wagons().sparing):  # that took time
            totals = await self._wagons().totals(list(known.values()))
        depths |= {c: self._depth(one, totals) for c, one in known.items()}
        await self._add_times(depths, known, totals.ends)
        return [depths.get(c, Depth()) for c in channels]

    async def _counted(self, channels: Sequence[Channel]) -> tuple[dict[Channel, ClaimedTopic], list[Channel], Totals]:
        """The channels as `_known`, and their totals, in all partitions that their claims logs name."""
        wagons = self._wagons()
        known, claimless = await self._known(channels)
        totals = await wagons.totals(list(known.values()))
        if more := [c for c, one in known.items() if one.claims.named > one.topic.partitions]:
            for channel in more:  # this process has not noticed them yet
                await wagons.recount(channel)
            known, claimless = await self._known(channels)
            totals = await wagons.totals(list(known.values()))
        return known, claimless, totals

    async def _known(self, channels: Sequence[Channel]) -> tuple[dict[Channel, ClaimedTopic], list[Channel]]:
        """The channels that have a claims log, and those that have none."""
        topics, followed = await asyncio.gather(
            asyncio.gather(*map(self._wagons().publisher.topic, channels), return_exceptions=True),
            asyncio.gather(*map(self._wagons().of, channels), return_exceptions=True),
        )
        for one in (*topics, *followed):
            if isinstance(one, BaseException) and not isinstance(one, ChannelGone):
                raise one
        found, claimless = dict[Channel, ClaimedTopic](), list[Channel]()
        for channel, topic, wagon in zip(channels, topics, followed, strict=True):
            if isinstance(topic, BaseException):
                continue
            if not isinstance(wagon, BaseException):
                found[channel] = ClaimedTopic(wagon, topic)
            elif await self._wagons().admin.describe(topic.name) is not None:
                claimless.append(channel)
            else:
                self._wagons().publisher.forget(channel)
        return found, claimless

    async def _record_losses(self, known: Mapping[Channel, ClaimedTopic], ends: Mapping[Place, int | None]) -> None:
        """Record in the claims, and report, what was removed before it was settled, by retention or by somebody."""
        asked = dict[Place, ClaimedTopic]()
        for one in known.values():
            for place in one.places:
                part = one.claims.partition(place[1])
                if part.holds or part.returned or part.fresh < (ends[place] or 0):
                    asked[place] = one
        if not asked:
            return
        for (topic, p), start in (await self._wagons().admin.starts(asked)).items():
            one = asked[topic, p]
            if start and (runs := one.claims.to_lose(p, start, one.wagon.log.now)):
                with contextlib.suppress(BrokerError):  # without the right to write, leave it to others
                    await one.wagon.lose(
                        one.channel, runs, f"the records before offset {start} of {topic}, partition {p}"
                    )

    async def _add_times(
        self, depths: dict[Channel, Depth], known: Mapping[Channel, ClaimedTopic], ends: Mapping[Place, int | None]
    ) -> None:
        """The times of the oldest and the newest waiting event, if all records that tell them could be read. Only those
        of an ingress: nobody uses others."""
        spots = {c: _spots(one, ends) for c, one in known.items() if depths[c].waiting and not c.name}
        times = await self._wagons().ages.times([spot for some in spots.values() for spot in some])
        for channel, some in spots.items():
            found = [times[spot] for spot in some if spot in times]
            if found and len(found) == len(some):
                depths[channel] = msgspec.structs.replace(depths[channel], oldest_at=min(found), newest_at=max(found))

    def _claimless(self, channel: Channel) -> str:
        """Trouble of a wagon whose claims log was deleted: reported once, for its ingress; empty for other channels."""
        log = self._wagons().names.claims(channel)
        if not channel.wagon:
            return (
                f"topic {log} was deleted, which says which dead letters were retried or dropped: all are listed again"
            )
        if channel.name:
            return ""
        return (
            f"topic {log} was deleted (one that is there now was made anew), which says who has which event and what "
            "is settled: no event of the wagon can be delivered any more; new events go to the next wagon, and those "
            "that are not known to be settled are published there again, so handlers may see events twice"
        )

    def _depth(self, one: ClaimedTopic, totals: Totals) -> Depth:
        claims, ends = one.claims, [totals.ends[place] for place in one.places]
        claims.ends = {p: end or 0 for p, end in enumerate(ends)}
        if None in ends:
            self._wagons().publisher.forget(one.channel)
            return Depth()
        published = sum(claims.ends.values()) - claims.voids - claims.lost
        again = claims.waiting_again(one.wagon.log.now)
        in_flight = claims.held() - again
        return Depth(
            published=published,
            settled=totals.settled[one.channel],
            waiting=max(0, published - claims.settled - in_flight),
            in_flight=in_flight,
            lost=claims.lost,
            trouble="; ".join(filter(None, (one.topic.trouble, "" if one.channel.name else one.wagon.in_trouble))),
        )


def _remade(one: ClaimedTopic, ends: Mapping[Place, int | None]) -> Depth:
    """The depth of a topic that replaced the one the claims are about: all its records, the seal's probes too, count as
    not settled."""
    claims, new = one.claims, sum(ends[place] or 0 for place in one.places)
    trouble = (
        f"topic {one.topic.name} was made anew, or has lost its end: its events would pass for settled ones; "
        "those not settled before are lost, new events go to the next wagon, and all that the topic has now are "
        "published there again, so handlers may see events twice"
    )
    return Depth(
        published=claims.settled + new,
        settled=claims.settled,
        waiting=new,
        in_flight=0,
        lost=claims.left_behind(),
        undeliverable=True,
        trouble=trouble,
    )


def _spots(one: ClaimedTopic, ends: Mapping[Place, int | None]) -> list[Spot]:
    """The places of the oldest and the newest waiting event, in each partition's order."""
    now = one.wagon.log.now
    spans = [(place, one.claims.partition(place[1]).waiting_span(ends[place] or 0, now)) for place in one.places]
    return [(*place, offset) for place, span in spans if span for offset in sorted(set(span))]
