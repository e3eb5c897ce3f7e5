"""What must hold for the contents of channels: figures, browsing, attributes, many channels, interruptions."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from ...contracts.broker import Depth
from ...errors import ChannelFull, ChannelGone, Sealed
from ...event import Channel, Event
from .broker_trial import LONG, BrokerTrial
from .check import Suite, holds, refused, same, together

suite: Suite[BrokerTrial] = Suite()


@suite.check()
async def figures_at_each_stage(t: BrokerTrial) -> None:
    """The depth is correct after each step: published, received, released, settled."""
    channel = await t.channel()
    await t.figures(channel, published=0, settled=0, waiting=0, in_flight=0)
    await t.broker.publish(channel, t.events(5))
    await t.figures(channel, published=5, settled=0, waiting=5, in_flight=0)
    async with t.claimed(channel, 4) as (consumer, got):
        await t.figures(channel, published=5, settled=0, waiting=1, in_flight=4)
        await consumer.settle(got[:1])
        await t.figures(channel, published=5, settled=1, waiting=1, in_flight=3)
        await consumer.release(got[1:2])
        await t.figures(channel, published=5, settled=1, waiting=2, in_flight=2)
        await consumer.release(got[2:3], delay=LONG)
        await t.figures(channel, published=5, settled=1, waiting=3, in_flight=1)
        await consumer.settle(got[3:])
        await t.figures(channel, published=5, settled=2, waiting=3, in_flight=0)


@suite.check()
async def figures_of_many(t: BrokerTrial) -> None:
    """Depths come in the order of the channels given; an absent channel's figures are all unknown; for no channels the
    result is empty."""
    channels = [await t.channel(holding=t.events(count)) for count in (3, 1, 2)]
    asked = [channels[2], t.absent(), channels[0], channels[1]]
    depths = list(await t.broker.depth(asked))
    same(len(depths), 4, "depths")
    same(depths[1], Depth(), "the depth of an absent channel")
    for depth, count in ((depths[0], 2), (depths[2], 3), (depths[3], 1)):
        holds(depth.published in (count, None) and depth.waiting in (count, None), f"expected {count} in {depth}")
    same(list(await t.broker.depth([])), [], "the depths of no channels")


@suite.check()
async def figures_of_age(t: BrokerTrial) -> None:
    """Where they are known, the times are those of the oldest and newest waiting event; None if no event waits."""
    now = round(t.clock(), 3)
    old, middle, new = (
        Event(id=e.id, type=e.type, source=e.source, time=now - ago, data=e.data)
        for e, ago in zip(t.events(3), (50.0, 30.0, 10.0), strict=True)
    )
    channel = await t.channel(holding=[old, middle, new])

    async def times(oldest: float | None, newest: float | None, when: str) -> None:
        (depth,) = await t.broker.depth([channel])
        for name, found, expected in (("oldest", depth.oldest_at, oldest), ("newest", depth.newest_at, newest)):
            if found is not None:
                right = expected is not None and abs(found - expected) < 0.01
                holds(right, f"{name}_at {when}: expected {expected}, found {found}")

    await times(old.time, new.time, "at first")
    async with t.claimed(channel) as (consumer, got):
        await times(middle.time, new.time, "while the oldest is in flight")
        await consumer.release(got)
        await times(old.time, new.time, "with the oldest given back")
        await consumer.settle(await t.take(consumer, 3))
        await times(None, None, "when all is settled")


@suite.check()
async def read_does_not_consume(t: BrokerTrial) -> None:
    """Browsing finds unsettled events, claimed or not, oldest first, and changes nothing; it may end half-way."""
    events = t.events(6)
    channel = await t.channel(holding=events)
    async with t.claimed(channel, 3) as (consumer, got):
        await consumer.settle(got[1:2])
        left = [e.data for e in (events[0], *events[2:])]
        same(t.order(e.data for e in await t.standing(channel)), t.order(left), "what stands")
        async with aclosing(t.broker.read(channel)) as browsing:  # type: ignore[type-var]
            async for _ in browsing:
                break
        await t.broker.seal(channel)
        same(t.order(e.data for e in await t.standing(channel)), t.order(left), "what stands when sealed")
        await t.figures(channel, published=6, settled=1, waiting=3, in_flight=2)
        same([d.attempt for d in await t.take(consumer, 3)], [1, 1, 1], "attempts of what was browsed")
    await refused(t.standing(t.absent()), ChannelGone, what="browsing an absent channel")


@suite.check()
async def events_survive_the_trip(t: BrokerTrial) -> None:
    """Every attribute that `publish` accepts and the data come back unchanged: Unicode, large (256 KiB), any bytes."""
    now = round(t.clock(), 3)
    texts = ["plain", "ünïcödé ✓ 🚃 日本", " two  spaces ", "a;b=c,d\"e'f%20\\/"]
    datas = [b"", b"\0", bytes(range(256)), b'{"n": 1}', "ü✓🚃".encode(), b"\r\n\r\n", bytes(range(256)) * 1024]
    ids = [e.id for e in t.events(len(texts) + len(datas))]
    events = [
        Event(
            ids.pop(),
            text,
            f"/{text}",
            now + i,
            b"x",
            text,
            "text/plain; charset=utf-8",
            {"a1": text, "traceparent": "00-1"},
        )
        for i, text in enumerate(texts)
    ]
    events += [Event(ids.pop(), "t", "s", now - i * 1e6, data, content_type="a") for i, data in enumerate(datas)]
    events.append(Event("not a uuid/✓", "t", "s", 0.0, b""))
    channel = await t.channel(holding=events)
    async with t.claimed(channel, len(events)) as (_, got):
        place = {event.id: i for i, event in enumerate(events)}
        for found in ([d.event for d in got], await t.standing(channel)):
            found = found if t.broker.capabilities.ordered else sorted(found, key=lambda e: place[e.id])
            for there, back in zip(events, found, strict=True):
                for name in ("id", "type", "source", "data", "subject", "content_type"):
                    same(getattr(back, name), getattr(there, name), f"{name} of event {there.id}")
                same(dict(back.extensions), dict(there.extensions), f"extensions of event {there.id}")
                holds(abs(back.time - there.time) < 2e-6, f"time: expected {there.time}, found {back.time}")


@suite.check()
async def many_channels(t: BrokerTrial) -> None:
    """A hundred channels at once keep their events apart."""
    channels = [t.absent() for _ in range(100)]
    events = t.events(100)

    async def fill(channel: Channel, event: Event) -> None:
        await t.broker.create(channel)
        await t.broker.publish(channel, [event])

    async def empty(channel: Channel, event: Event) -> None:
        async with t.claimed(channel) as (consumer, got):
            same(got[0].event.id, event.id, f"the event in {channel}")
            await consumer.settle(got)

    pairs = list(zip(channels, events, strict=True))
    await together(*(fill(*pair) for pair in pairs))
    same(len(await t.broker.channels(t.train)), 100, "channels")
    await together(*(empty(*pair) for pair in pairs))
    for channel, depth in zip(channels, await t.broker.depth(channels), strict=True):
        holds(depth.settled in (1, None) and depth.waiting in (0, None), f"{channel}: {depth}")


@suite.check()
async def wagons_come_and_go(t: BrokerTrial) -> None:
    """Channels that are created, used and deleted one after the other leave nothing behind."""
    for _ in range(50):
        channel = await t.channel(holding=t.events(2))
        async with t.claimed(channel) as (consumer, got):
            await consumer.settle(got)
        await t.broker.seal(channel)
        await t.broker.delete(channel)
    same(list(await t.broker.channels(t.train)), [], "channels")


@suite.check()
async def cancelled_publish(t: BrokerTrial) -> None:
    """A cancelled publish has stored a leading part of its events or none; the events of calls that returned stay, and
    the broker goes on."""
    channel = await t.channel()
    returned: list[str] = []
    begun: list[list[str]] = []

    async def publish() -> None:
        for _ in range(20):
            events = t.events(20)
            begun.append([e.id for e in events])
            await t.broker.publish(channel, events)
            returned.extend(begun[-1])

    for turn in range(20):
        task = asyncio.create_task(publish())
        await asyncio.sleep(0.001 * (turn % 5))
        task.cancel()
        await asyncio.wait([task])
    await t.broker.publish(channel, last := t.events(1))
    stands = [e.id for e in await t.standing(channel)]
    place = {stored: i for i, stored in enumerate(stands)}
    same(len(stands), len(place), "events that stand, and different ones")
    holds(place.keys() >= set(returned), "an event whose publish returned is missing")
    for ids in begun:
        stored = [one for one in ids if one in place]
        if t.broker.capabilities.ordered:
            same(stored, ids[: len(stored)], "what a cancelled call stored")
            same(stored, sorted(stored, key=place.__getitem__), "the order of what a call stored")
    holds(last[0].id in place, "the last event is missing")


@suite.check("durable", "shared")
async def durable(t: BrokerTrial) -> None:
    """Accepted events, seals, settled events, totals and bounds stay when all processes have closed the broker."""
    open_channel, sealed = t.absent(), t.absent()
    async with t.another() as first:
        for channel in (open_channel, sealed):
            await first.create(channel, capacity=4 if first.capabilities.bounds else None)
            await first.publish(channel, t.events(3))
        await first.seal(sealed)
        async with first.consume(open_channel, visibility=LONG) as consumer:
            await consumer.settle(await t.take(consumer, 1))
    async with t.another() as second:
        same({str(c) for c in await second.channels(t.train)}, {str(open_channel), str(sealed)}, "channels")
        await t.figures(open_channel, published=3, settled=1, waiting=2)
        if second.capabilities.fences:
            await refused(second.publish(sealed, t.events(1)), Sealed, what="publish to a channel sealed before")
        if second.capabilities.bounds:
            full = await refused(second.publish(open_channel, t.events(2)), ChannelFull, what="publish beyond 4")
            same(full.accepted, 1, "accepted")
