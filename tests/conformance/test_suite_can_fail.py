"""A suite that nothing fails proves nothing: each of these broken drivers is caught by the check that is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest

from eventwagon.contracts.broker import Broker, Delivery, Depth
from eventwagon.contracts.facts import Entry
from eventwagon.contracts.manifest import Manifest
from eventwagon.contracts.registry import Member, Registry, Snapshot
from eventwagon.drivers.memory.broker import MemoryBroker, MemoryHold, MemoryQueue, MemorySubscription
from eventwagon.drivers.memory.registry import MemoryRegistry
from eventwagon.errors import ChannelFull, ChannelGone, EventwagonError
from eventwagon.event import Channel, Event
from eventwagon.testing.conformance import broker_checks, registry_checks
from eventwagon.testing.virtual_time import VirtualClock, run

BROKER_CHECKS = {str(c): c for c in broker_checks(visibility=30.0, patience=600.0, clock=VirtualClock())}
REGISTRY_CHECKS = {str(c): c for c in registry_checks(ttl=5.0, patience=600.0, clock=VirtualClock())}


class SealsNothing(MemoryBroker):
    async def seal(self, channel: Channel) -> None:
        pass


class SealsLater(MemoryBroker):
    """As a broker whose reply comes before its effect."""

    async def seal(self, channel: Channel) -> None:
        asyncio.get_running_loop().call_later(0.05, setattr, self.queues[channel], "sealed", True)


class SealsTheWagon(MemoryBroker):
    async def seal(self, channel: Channel) -> None:
        for other in await self.channels(channel.train):
            if other.wagon == channel.wagon:
                await super().seal(other)


class IgnoresCapacity(MemoryBroker):
    async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
        await super().create(channel)


class CountsBeforeItStores(MemoryBroker):
    """Looks at the bound, and stores in a second step: many publishers at once overrun it."""

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        queue = self.queue_of(channel)
        if queue.capacity is not None and queue.published < queue.capacity - len(events):
            await asyncio.sleep(0.001)
            queue.fresh.extend(events)
            queue.published += len(events)
        else:
            await super().publish(channel, events)


class RefusesWhole(MemoryBroker):
    """All or nothing where a part would fit."""

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        queue = self.queue_of(channel)
        if queue.capacity is not None and queue.published + len(events) > queue.capacity:
            raise ChannelFull("full", accepted=0)
        await super().publish(channel, events)


class MakesRoom(MemoryBroker):
    """Its capacity bounds what stands in the channel, not what it ever took."""

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        queue = self.queue_of(channel)
        if queue.capacity is not None:
            queue.capacity += queue.settled
        await super().publish(channel, events)


class PublishCreates(MemoryBroker):
    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        if channel not in self.queues:
            await self.create(channel)
        await super().publish(channel, events)


class CreateLifts(MemoryBroker):
    async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
        await super().create(channel, capacity=capacity)
        self.queues[channel].capacity = capacity


class KeepsTheBound(MemoryBroker):
    async def unbound(self, channel: Channel) -> None:
        pass


class UnboundCreates(MemoryBroker):
    async def unbound(self, channel: Channel) -> None:
        await self.create(channel)
        await super().unbound(channel)


class WarmCreates(MemoryBroker):
    async def warm(self, channel: Channel) -> None:
        await self.create(channel)


class WarmStores(MemoryBroker):
    async def warm(self, channel: Channel) -> None:
        await self.publish(channel, [Event("0" * 26, "t", "s", 1.0, b"")])


class CreateClears(MemoryBroker):
    async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
        self.queues[channel] = MemoryQueue(channel)


class DeletesNothing(MemoryBroker):
    async def delete(self, channel: Channel) -> None:
        pass


class DeletesByPrefix(MemoryBroker):
    async def delete(self, channel: Channel) -> None:
        for other in list(self.queues):
            if str(other).startswith(str(channel)):
                await super().delete(other)


class Reverses(MemoryBroker):
    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        await super().publish(channel, events[::-1])


class DropsExtensions(MemoryBroker):
    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        await super().publish(channel, [msgspec.structs.replace(e, extensions={}) for e in events])


class Guesses(MemoryBroker):
    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        unknown = Depth(published=0, settled=0, waiting=0, in_flight=0)
        return [unknown if d == Depth() else d for d in await super().depth(channels)]


class LeavesOutInFlight(MemoryBroker):
    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        return [msgspec.structs.replace(d, in_flight=0) for d in await super().depth(channels)]


class BrowsesOnlyWaiting(MemoryBroker):
    async def read(self, channel: Channel) -> AsyncIterator[Event]:
        for event in list(self.queue_of(channel).fresh):
            yield event


class ListsIngressOnly(MemoryBroker):
    async def channels(self, train: str) -> Sequence[Channel]:
        return [c for c in await super().channels(train) if not c.name]


class NeverExpires(MemoryBroker):
    def consume(self, channel: Channel, *, visibility: float, owner: str = "") -> MemorySubscription:
        return super().consume(channel, visibility=1e9, owner=owner)


class OtherConsumer(MemoryBroker):
    consumer: type[MemorySubscription]

    def consume(self, channel: Channel, *, visibility: float, owner: str = "") -> MemorySubscription:
        return self.consumer(self, channel, visibility, owner)


class AtMostOnce(OtherConsumer):
    class consumer(MemorySubscription):  # noqa: N801
        async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
            got = await super().receive(limit, timeout)
            await self.settle(got)
            await asyncio.sleep(0.001)
            return got


class IgnoresLimit(OtherConsumer):
    class consumer(MemorySubscription):  # noqa: N801
        async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
            return await super().receive(500, timeout)


class GivesUpAtOnce(OtherConsumer):
    class consumer(MemorySubscription):  # noqa: N801
        async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
            return await super().receive(limit, 0.0)


class Sleeps(OtherConsumer):
    class consumer(MemorySubscription):  # noqa: N801
        async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
            if got := await super().receive(limit, 0.0):
                return got
            await asyncio.sleep(timeout)
            return await super().receive(limit, 0.0)


class CountsEachSettle(OtherConsumer):
    class consumer(MemorySubscription):  # noqa: N801
        async def settle(self, deliveries: Sequence[Delivery]) -> None:
            await super().settle(deliveries)
            self.queue.settled += sum(d.token.number not in self.queue.taken for d in deliveries) // 2


class SettlesOnlyItsClaims(OtherConsumer):
    class consumer(MemorySubscription):  # noqa: N801
        async def settle(self, deliveries: Sequence[Delivery]) -> None:
            now = asyncio.get_running_loop().time()
            await super().settle([d for d in deliveries if d.token.due > now])


class IgnoresExtend(OtherConsumer):
    class consumer(MemorySubscription):  # noqa: N801
        async def extend(self, deliveries: Sequence[Delivery]) -> None:
            pass


class ReleasesAnybodys(OtherConsumer):
    class consumer(MemorySubscription):  # noqa: N801
        async def release(
            self, deliveries: Sequence[Delivery], *, delay: float = 0.0, tried: bool = True, cleared: bool = False
        ) -> None:
            for delivery in deliveries:
                current = self.queue.taken.get(delivery.token.number)
                if current is not None and not current.back:
                    self.queue.give_back(current, 0.0, current.attempt + 1, suspect=False)


class CountsUntried(OtherConsumer):
    class consumer(MemorySubscription):  # noqa: N801
        async def release(
            self, deliveries: Sequence[Delivery], *, delay: float = 0.0, tried: bool = True, cleared: bool = False
        ) -> None:
            await super().release(deliveries, delay=delay)


class ClearsNobody(OtherConsumer):
    class consumer(MemorySubscription):  # noqa: N801
        async def release(
            self, deliveries: Sequence[Delivery], *, delay: float = 0.0, tried: bool = True, cleared: bool = False
        ) -> None:
            await super().release(deliveries, delay=delay, tried=tried)


class IgnoresDelay(OtherConsumer):
    class consumer(MemorySubscription):  # noqa: N801
        async def release(
            self, deliveries: Sequence[Delivery], *, delay: float = 0.0, tried: bool = True, cleared: bool = False
        ) -> None:
            await super().release(deliveries, tried=tried, cleared=cleared)


class CountsWhatRunsOut(MemoryBroker):
    async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
        self.queues.setdefault(channel, _CountsRunOut(channel)).capacity = capacity


class _CountsRunOut(MemoryQueue):
    def run_out(self, hold: MemoryHold, due: float) -> None:
        self.give_back(hold, due, hold.attempt + 1, suspect=True)


class SuspectsNobody(MemoryBroker):
    async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
        self.queues.setdefault(channel, _SuspectsNobody(channel)).capacity = capacity


class _SuspectsNobody(MemoryQueue):
    def run_out(self, hold: MemoryHold, due: float) -> None:
        self.give_back(hold, due, hold.attempt + hold.alone, suspect=False)


class MixesSuspects(OtherConsumer):
    class consumer(MemorySubscription):  # noqa: N801
        async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
            got = list(await super().receive(limit, timeout))
            while got and len(got) < limit and (more := await super().receive(limit - len(got), 0.0)):
                got += more
            return got


class SuspectsFirst(OtherConsumer):
    class consumer(MemorySubscription):  # noqa: N801
        async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
            self._suspect_first = True
            return await super().receive(limit, timeout)


class IgnoresAlone(OtherConsumer):
    class consumer(MemorySubscription):  # noqa: N801
        async def alone(self, delivery: Delivery) -> bool:
            return True


class MarksOne(OtherConsumer):
    class consumer(MemorySubscription):  # noqa: N801
        marked: Delivery | None = None

        async def alone(self, delivery: Delivery) -> bool:
            self.marked = self.marked or delivery
            return self.marked.event.id != delivery.event.id or await super().alone(delivery)


class ChargesTwice(OtherConsumer):
    class consumer(MemorySubscription):  # noqa: N801
        async def release(
            self, deliveries: Sequence[Delivery], *, delay: float = 0.0, tried: bool = True, cleared: bool = False
        ) -> None:
            for d in deliveries:
                d.token.attempt += d.token.alone
            await super().release(deliveries, delay=delay, tried=tried, cleared=cleared)


class ReclaimsNothing(MemoryBroker):
    async def reclaim(self, channel: Channel, owner: str) -> int:
        return 0


class ReclaimsAll(MemoryBroker):
    async def reclaim(self, channel: Channel, owner: str) -> int:
        queue, now = self.queues.get(channel), asyncio.get_running_loop().time()
        return sum(queue.reclaim(everybody, now) for everybody in ("gone", "there", "")) if queue else 0


class TellsNobody(OtherConsumer):
    class consumer(MemorySubscription):  # noqa: N801
        async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
            try:
                return await super().receive(limit, timeout)
            except ChannelGone:
                await asyncio.sleep(timeout)
                return []


BROKEN_BROKERS: list[tuple[type[MemoryBroker], str]] = [
    (SealsNothing, "seal_refuses_everybody"),
    (SealsNothing, "create_keeps_the_seal"),
    (SealsLater, "seal_refuses_everybody"),
    (SealsLater, "seal_amid_publishers"),
    (SealsTheWagon, "seal_is_of_one_channel"),
    (IgnoresCapacity, "create_takes_over_capacity"),
    (IgnoresCapacity, "full_accepts_the_first"),
    (CountsBeforeItStores, "full_is_exact"),
    (RefusesWhole, "full_accepts_the_first"),
    (MakesRoom, "full_stays_full"),
    (CreateLifts, "create_takes_over_capacity"),
    (KeepsTheBound, "unbound_lifts_the_capacity"),
    (UnboundCreates, "unbound_and_warm_make_nothing"),
    (WarmCreates, "unbound_and_warm_make_nothing"),
    (WarmStores, "warm_stores_nothing"),
    (PublishCreates, "publish_to_absent"),
    (PublishCreates, "delete_outlives_stale_publishers"),
    (CreateClears, "create_is_idempotent"),
    (DeletesNothing, "delete_removes"),
    (DeletesNothing, "wagons_come_and_go"),
    (DeletesByPrefix, "delete_is_of_one_channel"),
    (Reverses, "publish_keeps_order"),
    (DropsExtensions, "events_survive_the_trip"),
    (Guesses, "figures_of_many"),
    (LeavesOutInFlight, "figures_at_each_stage"),
    (BrowsesOnlyWaiting, "read_does_not_consume"),
    (ListsIngressOnly, "channels_are_listed"),
    (NeverExpires, "unsettled_comes_back"),
    (AtMostOnce, "unsettled_comes_back"),
    (AtMostOnce, "cancelled_receive"),
    (IgnoresLimit, "receive_respects_the_limit"),
    (GivesUpAtOnce, "receive_gives_up"),
    (Sleeps, "receive_wakes"),
    (Sleeps, "receive_wakes_for_what_comes_back"),
    (CountsEachSettle, "settle_counts_once"),
    (SettlesOnlyItsClaims, "settle_after_the_claim"),
    (IgnoresExtend, "extend_keeps_the_claim"),
    (ReleasesAnybodys, "release_of_a_stale_claim"),
    (CountsUntried, "release_untried"),
    (ClearsNobody, "cleared_of_suspicion"),
    (IgnoresDelay, "release_with_delay"),
    (CountsWhatRunsOut, "unsettled_comes_back"),
    (CountsWhatRunsOut, "alone_of_a_stale_claim"),
    (SuspectsNobody, "unsettled_comes_back"),
    (MixesSuspects, "suspects_come_alone"),
    (SuspectsFirst, "suspects_and_others_take_turns"),
    (IgnoresAlone, "alone_charges"),
    (IgnoresAlone, "alone_of_a_stale_claim"),
    (MarksOne, "alone_of_several"),
    (ChargesTwice, "alone_and_released"),
    (ReclaimsNothing, "reclaimed_comes_at_once"),
    (ReclaimsAll, "reclaimed_comes_at_once"),
    (ReclaimsAll, "reclaim_of_nothing"),
    (TellsNobody, "delete_tells_consumers"),
]


@pytest.mark.parametrize(("broken", "check"), BROKEN_BROKERS, ids=lambda it: it if isinstance(it, str) else it.__name__)
def test_a_broken_broker_is_caught(broken: type[MemoryBroker], check: str) -> None:
    broker: Broker = broken()
    with pytest.raises(BaseException) as caught:
        run(BROKER_CHECKS[check].run(lambda: broker))
    assert _failed(caught.value), caught.value


# --- registries ---------------------------------------------------------------------------


class LastWins(MemoryRegistry):
    async def replace(
        self,
        train: str,
        manifest: Manifest,
        *,
        expect: int,
        entries: Sequence[Entry] = (),
        keep: int = 10_000,
        beyond: int = 0,
    ) -> Snapshot:
        document = self.document_of(train)
        document.newest = Snapshot(manifest, document.newest.version + 1)
        return document.newest


class JournalsConflicts(MemoryRegistry):
    async def replace(
        self,
        train: str,
        manifest: Manifest,
        *,
        expect: int,
        entries: Sequence[Entry] = (),
        keep: int = 10_000,
        beyond: int = 0,
    ) -> Snapshot:
        await self.append(train, entries, keep=keep)
        return await super().replace(train, manifest, expect=expect, keep=keep, beyond=beyond)


class KeepsAll(MemoryRegistry):
    async def append(self, train: str, entries: Sequence[Entry], *, keep: int = 10_000) -> None:
        await super().append(train, entries)


class NeverForgets(MemoryRegistry):
    async def check_in(self, train: str, member: Member, *, ttl: float) -> None:
        await super().check_in(train, member, ttl=1e9)


class ListsAll(MemoryRegistry):
    async def trains(self) -> Sequence[str]:
        return sorted(self.documents)


class DeletesTheManifestAlone(MemoryRegistry):
    async def delete(self, train: str) -> None:
        self.document_of(train).newest = Snapshot(Manifest(train=train), 0)


class DeletesByTheBeginning(MemoryRegistry):
    """A pattern that fits other trains' keys too."""

    async def delete(self, train: str) -> None:
        for name in list(self.documents):
            if name.startswith(train):
                await super().delete(name)


class CountsOn(MemoryRegistry):
    """What was deleted is empty, and counts its versions on."""

    async def delete(self, train: str) -> None:
        document = self.document_of(train)
        version = document.newest.version
        await super().delete(train)
        document.newest = Snapshot(Manifest(train=train), version)


BROKEN_REGISTRIES: list[tuple[type[MemoryRegistry], str]] = [
    (LastWins, "replace_conflicts"),
    (LastWins, "first_one_wins"),
    (LastWins, "many_writers"),
    (JournalsConflicts, "replace_conflicts"),
    (KeepsAll, "journal_is_bounded"),
    (NeverForgets, "members_come_and_go"),
    (NeverForgets, "members_time_out"),
    (ListsAll, "absent_train"),
    (DeletesTheManifestAlone, "delete_leaves_nothing"),
    (DeletesTheManifestAlone, "founded_anew_after_deletion"),
    (DeletesByTheBeginning, "delete_leaves_nothing"),
    (CountsOn, "founded_anew_after_deletion"),
]


@pytest.mark.parametrize(
    ("broken", "check"), BROKEN_REGISTRIES, ids=lambda it: it if isinstance(it, str) else it.__name__
)
def test_a_broken_registry_is_caught(broken: type[MemoryRegistry], check: str) -> None:
    registry: Registry = broken()
    with pytest.raises(BaseException) as caught:
        run(REGISTRY_CHECKS[check].run(lambda: registry))
    assert _failed(caught.value), caught.value


def _failed(error: BaseException) -> bool:
    """By the check's or the driver's own word, alone or among what tasks raised."""
    if isinstance(error, BaseExceptionGroup):
        return any(_failed(e) for e in error.exceptions)
    return isinstance(error, AssertionError | EventwagonError)
