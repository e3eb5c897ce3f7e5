"""What must hold for a broker's channels: create, publish, bound, seal, delete, list."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from ...contracts.broker import Broker, Depth
from ...errors import ChannelFull, ChannelGone, Sealed
from ...event import DEAD, Channel, Event
from .broker_trial import LONG, BrokerTrial
from .check import Suite, holds, refused, same, together

suite: Suite[BrokerTrial] = Suite()


@suite.check()
async def create_is_idempotent(t: BrokerTrial) -> None:
    """An existing channel keeps its events and totals when it is created again, from any process."""
    channel = await t.channel(holding=t.events(3))
    async with t.claimed(channel) as (consumer, got):
        await consumer.settle(got)
    await t.broker.create(channel)
    async with t.another() as other:
        await other.create(channel)
    await t.figures(channel, published=3, settled=1, waiting=2, in_flight=0)
    same(len(await t.standing(channel)), 2, "events that stand")


@suite.check("fences")
async def create_keeps_the_seal(t: BrokerTrial) -> None:
    """A sealed channel that is created again is still sealed."""
    channel = await t.channel()
    await t.broker.seal(channel)
    await t.broker.create(channel, capacity=10)
    await refused(t.broker.publish(channel, t.events(1)), Sealed, what="publish after seal and create")


@suite.check()
async def created_by_many_at_once(t: BrokerTrial) -> None:
    """Many processes may create the same channel at the same time; it accepts writes when any of them returns."""
    channel = t.absent()

    async def create_and_publish(broker: Broker) -> None:
        await broker.create(channel)
        await broker.publish(channel, t.events(1))

    async with t.another() as other:
        await together(*(create_and_publish(broker) for broker in (t.broker, other) for _ in range(5)))
    await t.figures(channel, published=10, waiting=10)


@suite.check("bounds")
async def create_takes_over_capacity(t: BrokerTrial) -> None:
    """Creating a channel again sets its capacity, above or below its number of events; without a capacity it keeps its
    own."""
    channel = await t.channel(capacity=2, holding=t.events(2))
    await refused(t.broker.publish(channel, t.events(1)), ChannelFull, what="publish beyond 2")
    await t.broker.create(channel, capacity=3)
    await t.broker.publish(channel, t.events(1))
    await t.broker.create(channel, capacity=1)
    full = await refused(t.broker.publish(channel, t.events(1)), ChannelFull, what="publish beyond 1")
    same(full.accepted, 0, "accepted by a channel that holds more than its capacity")
    await t.broker.create(channel)
    await refused(t.broker.publish(channel, t.events(1)), ChannelFull, what="publish after creating without a capacity")
    await t.figures(channel, published=3)


@suite.check("bounds")
async def unbound_lifts_the_capacity(t: BrokerTrial) -> None:
    """After `unbound`, also a repeated one, the channel accepts any number of events; its events and totals stay."""
    channel = await t.channel(capacity=2, holding=t.events(2))
    await refused(t.broker.publish(channel, t.events(1)), ChannelFull, what="publish beyond 2")
    await t.broker.unbound(channel)
    await t.broker.publish(channel, t.events(5))
    await t.broker.unbound(channel)
    await t.broker.publish(channel, t.events(1))
    await t.figures(channel, published=8, waiting=8)


@suite.check()
async def unbound_and_warm_make_nothing(t: BrokerTrial) -> None:
    """`unbound` of an absent channel succeeds, `warm` may raise ChannelGone; neither creates the channel."""
    channel = t.absent()
    await t.broker.unbound(channel)
    with suppress(ChannelGone):
        await t.broker.warm(channel)
    same(await t.broker.channels(channel.train), [], "channels that were made")


@suite.check()
async def warm_stores_nothing(t: BrokerTrial) -> None:
    """`warm`, also repeated, stores nothing; afterwards events are published as always."""
    channel = await t.channel()
    await t.broker.warm(channel)
    await t.broker.warm(channel)
    await t.figures(channel, published=0, waiting=0)
    await t.broker.publish(channel, t.events(3))
    await t.figures(channel, published=3, waiting=3)


@suite.check("ordered")
async def publish_keeps_order(t: BrokerTrial) -> None:
    """Events are delivered in the order in which they were published, within a call and from call to call."""
    events = t.events(90)
    channel = await t.channel()
    for first, last in ((0, 1), (1, 50), (50, 51), (51, 90)):
        await t.broker.publish(channel, events[first:last])
    async with t.broker.consume(channel, visibility=LONG) as consumer:
        got = await t.take(consumer, 90, limit=7)
    same([d.event.data for d in got], [e.data for e in events], "the order of events")


@suite.check()
async def publish_of_nothing(t: BrokerTrial) -> None:
    """Publishing no events stores nothing and is no error."""
    channel = await t.channel()
    await t.broker.publish(channel, [])
    await t.figures(channel, published=0, waiting=0)


@suite.check()
async def publish_of_thousands(t: BrokerTrial) -> None:
    """5,000 events, in calls of 1,000, all arrive, once each and in order."""
    events = t.events(5000)
    channel = await t.channel()
    for first in range(0, 5000, 1000):
        await t.broker.publish(channel, events[first : first + 1000])
    await t.figures(channel, published=5000, waiting=5000)
    same(t.order(e.id for e in await t.standing(channel)), t.order(e.id for e in events), "what stands, in order")
    async with t.broker.consume(channel, visibility=LONG) as consumer:
        got = await t.take(consumer, 5000, limit=1000)
        await consumer.settle(got)
    same(t.order(d.event.id for d in got), t.order(e.id for e in events), "what was received, in order")
    await t.figures(channel, published=5000, settled=5000, waiting=0, in_flight=0)


@suite.check("bounds")
async def full_accepts_the_first(t: BrokerTrial) -> None:
    """A call that does not fit stores its first events, as many as there is room for, and says how many."""
    events = t.events(9)
    channel = await t.channel(capacity=5)
    await t.broker.publish(channel, events[:3])
    full = await refused(t.broker.publish(channel, events[3:]), ChannelFull, what="publish beyond the capacity")
    same(full.accepted, 2, "accepted")
    same(t.order(e.data for e in await t.standing(channel)), [e.data for e in events[:5]], "what stands")
    full = await refused(t.broker.publish(channel, events[5:]), ChannelFull, what="publish to a full channel")
    same(full.accepted, 0, "accepted by a full channel")


@suite.check("bounds")
async def full_stays_full(t: BrokerTrial) -> None:
    """The capacity bounds all events that a channel ever accepts: settled events make no room (a wagon's volume is
    exact)."""
    channel = await t.channel(capacity=3, holding=t.events(3))
    async with t.claimed(channel, 3) as (consumer, got):
        await consumer.settle(got)
    await refused(t.broker.publish(channel, t.events(1)), ChannelFull, what="publish after all was settled")


@suite.check("bounds")
async def full_is_exact(t: BrokerTrial) -> None:
    """With many publishers in several processes a channel accepts exactly its capacity."""
    channel = await t.channel(capacity=333)

    async def publish(broker: Broker) -> int:
        accepted = 0
        for _ in range(10):
            try:
                await broker.publish(channel, t.events(7))
                accepted += 7
            except ChannelFull as full:
                accepted += full.accepted
        return accepted

    async with t.another() as other:
        accepted = await together(*(publish(broker) for broker in (t.broker, other) for _ in range(5)))
    same(sum(accepted), 333, "events accepted")
    same(len({e.id for e in await t.standing(channel)}), 333, "events that stand")


@suite.check()
async def publish_to_absent(t: BrokerTrial) -> None:
    """Publishing to a channel that does not exist raises ChannelGone and creates nothing."""
    channel = t.absent()
    await refused(t.broker.publish(channel, t.events(2)), ChannelGone, what="publish to an absent channel")
    same(list(await t.broker.channels(t.train)), [], "channels")


@suite.check("fences")
async def seal_refuses_everybody(t: BrokerTrial) -> None:
    """After `seal` has returned, every publish raises Sealed and stores nothing, in any process (I4)."""
    channel = await t.channel(holding=t.events(1))
    async with t.another() as other:
        await other.publish(channel, t.events(1))  # it knows the channel from before
        await t.broker.seal(channel)
        for broker in (t.broker, other):
            await refused(broker.publish(channel, t.events(1)), Sealed, what="publish of one after seal")
            await refused(broker.publish(channel, t.events(700)), Sealed, what="publish of many after seal")
    async with t.another() as other:
        await refused(other.publish(channel, t.events(1)), Sealed, what="publish through a new connection after seal")
    same(len(await t.standing(channel)), 2, "events that stand")


@suite.check("fences")
async def seal_amid_publishers(t: BrokerTrial) -> None:
    """A channel that is sealed while many publish holds exactly the accepted events, and none arrives after `seal` has
    returned (I4)."""
    channel = await t.channel()
    accepted: list[str] = []
    amid, after = asyncio.Event(), asyncio.Event()

    async def publish(broker: Broker) -> None:
        while True:
            events = t.events(3)
            late = after.is_set()
            try:
                await broker.publish(channel, events)
            except Sealed as sealed:
                holds(not late or not sealed.accepted, "a publish that began after seal returned stored something")
                accepted.extend(e.id for e in events[: sealed.accepted])
                return
            holds(not late, "a publish that began after seal returned succeeded")
            accepted.extend(e.id for e in events)
            if len(accepted) > 60:
                amid.set()

    async def seal() -> list[Event]:
        await amid.wait()
        await t.broker.seal(channel)
        after.set()
        return await t.standing(channel)

    async with t.another() as other, asyncio.TaskGroup() as group:
        for broker in (t.broker, other):
            for _ in range(4):
                group.create_task(publish(broker))
        sealed = group.create_task(seal())
    same(
        sorted(e.id for e in sealed.result()), sorted(accepted), "what stood when seal returned, and what was accepted"
    )
    same(len(await t.standing(channel)), len(accepted), "events that stand later")


@suite.check()
async def seal_is_idempotent(t: BrokerTrial) -> None:
    """Sealing again, from any process, and sealing an absent channel are no errors and create nothing."""
    channel = await t.channel(holding=t.events(1))
    await t.broker.seal(channel)
    await t.broker.seal(channel)
    async with t.another() as other:
        await other.seal(channel)
    await t.broker.seal(t.absent())
    same(list(await t.broker.channels(t.train)), [channel], "channels")


@suite.check()
async def seal_leaves_consumers_alone(t: BrokerTrial) -> None:
    """Events in a sealed channel are received, given back, received again and settled as before."""
    channel = await t.channel(holding=t.events(4))
    async with t.claimed(channel) as (early, first):
        await t.broker.seal(channel)
        await early.settle(first)
        rest = await t.take(early, 3)
        await early.release(rest)
        again = await t.take(early, 3)
        same([d.attempt for d in again], [2, 2, 2], "attempts")
        await early.extend(again)
        await early.settle(again)
    async with t.broker.consume(channel, visibility=LONG) as late:
        same(list(await late.receive(1, 0.0)), [], "what a new consumer gets")
    await t.figures(channel, published=4, settled=4, waiting=0, in_flight=0)


@suite.check()
async def seal_is_of_one_channel(t: BrokerTrial) -> None:
    """The wagon's inner channels, its dead letters and other wagons accept events after its ingress was sealed."""
    ingress = await t.channel()
    others = [Channel(t.train, ingress.wagon, "inner"), Channel(t.train, ingress.wagon, DEAD), t.absent()]
    for other in others:
        await t.broker.create(other)
    await t.broker.seal(ingress)
    for other in others:
        await t.broker.publish(other, t.events(1))
        await t.figures(other, published=1, waiting=1)


@suite.check()
async def delete_removes(t: BrokerTrial) -> None:
    """A deleted channel is gone with all its events; deleting it again, or deleting an absent one, succeeds."""
    channel = await t.channel(holding=t.events(3))
    await t.broker.delete(channel)
    await t.broker.delete(channel)
    await t.broker.delete(t.absent())
    async with t.another() as other:
        await other.delete(channel)
        same(list(await other.channels(t.train)), [], "channels")
    same(list(await t.broker.depth([channel])), [Depth()], "the depth of a deleted channel")
    await refused(t.standing(channel), ChannelGone, what="browsing a deleted channel")


@suite.check()
async def delete_is_of_one_channel(t: BrokerTrial) -> None:
    """Deleting a channel leaves all others, also those whose names begin alike."""
    channel = await t.channel()
    others = [Channel(t.train, channel.wagon, "inner"), Channel(t.train, channel.wagon * 10), Channel(t.train, 0, DEAD)]
    for other in others:
        await t.broker.create(other)
        await t.broker.publish(other, t.events(2))
    await t.broker.delete(channel)
    same({str(c) for c in await t.broker.channels(t.train)}, {str(c) for c in others}, "channels left")
    for other in others:
        same(len(await t.standing(other)), 2, f"events in {other}")


@suite.check()
async def delete_outlives_stale_publishers(t: BrokerTrial) -> None:
    """A publisher that knew the channel is refused after its deletion, and does not bring it back."""
    for sealed in (False, True):
        channel = await t.channel()
        async with t.another() as other:
            for broker in (t.broker, other):
                await broker.publish(channel, t.events(1))
            if sealed:
                await t.broker.seal(channel)
            await t.broker.delete(channel)
            for broker in (other, t.broker, other):
                await refused(broker.publish(channel, t.events(1)), ChannelGone, Sealed, what="publish after delete")
        same(list(await t.broker.channels(t.train)), [], "channels")


@suite.check()
async def channels_are_listed(t: BrokerTrial) -> None:
    """All channels of the train are found, by any process: ingress, inner, dead letters, the train's own; none of
    another train."""
    mine = [Channel(t.train, n, name) for n in (1, 2, 11) for name in ("", "welcome_email", "a-b_v1", DEAD)]
    mine.append(Channel(t.train, 0, DEAD))
    foreign = [Channel(t.train + suffix, n, name) for suffix in ("_x", "-x", "x") for n, name in ((0, DEAD), (1, ""))]
    try:
        for channel in (*mine, *foreign):
            await t.broker.create(channel)
        async with t.another() as other:
            for broker in (t.broker, other):
                found = list(await broker.channels(t.train))
                same(sorted(map(str, found)), sorted(map(str, mine)), "channels")
                same({(c.wagon, c.name) for c in found}, {(c.wagon, c.name) for c in mine}, "wagons and names")
    finally:
        for channel in foreign:
            await t.broker.delete(channel)
