"""What must hold for a broker's consumers: receive, settle, release, extend, visibility, suspects, reclaim."""

from __future__ import annotations

import asyncio

from ...contracts.broker import Broker, Delivery, Subscription
from ...errors import ChannelGone
from .broker_trial import LONG, BrokerTrial, past
from .check import CheckFailed, Suite, holds, refused, same, soon, together

suite: Suite[BrokerTrial] = Suite()


@suite.check()
async def consume_absent(t: BrokerTrial) -> None:
    """Attaching a consumer to a channel that does not exist raises ChannelGone, and creates nothing."""

    async def attach() -> None:
        async with t.broker.consume(t.absent(), visibility=LONG):
            pass

    await refused(attach(), ChannelGone, what="consuming an absent channel")
    same(list(await t.broker.channels(t.train)), [], "channels")


@suite.check()
async def receive_respects_the_limit(t: BrokerTrial) -> None:
    """A receive gives at least one event and at most `limit`, each as attempt 1 and none twice."""
    events = t.events(40)
    channel = await t.channel(holding=events)
    got: list[Delivery] = []
    async with t.broker.consume(channel, visibility=LONG) as consumer:
        for limit in (1, 7, 2, 40):
            some = await consumer.receive(limit, t.patience)
            holds(1 <= len(some) <= limit, f"receive({limit}) gave {len(some)}")
            got += some
        got += await t.take(consumer, 40 - len(got)) if len(got) < 40 else []
    same(t.order(d.event.data for d in got), t.order(e.data for e in events), "events received, in order")
    same({d.attempt for d in got}, {1}, "attempts")


@suite.check()
async def receive_gives_up(t: BrokerTrial) -> None:
    """If no event arrives, receive returns an empty batch, not before its timeout."""
    channel = await t.channel()
    loop = asyncio.get_running_loop()
    async with t.broker.consume(channel, visibility=LONG) as consumer:
        same(list(await soon(consumer.receive(10, 0.0), t.patience, "receive with no timeout")), [], "events")
        began = loop.time()
        got = await soon(consumer.receive(10, t.visibility), t.visibility + t.patience, "an empty receive")
        same(list(got), [], "events")
        holds(loop.time() - began > t.visibility * 0.8, "receive returned long before its timeout")


@suite.check()
async def receive_wakes(t: BrokerTrial) -> None:
    """A receive that waits ends soon after a publish, from any process, and not only at its timeout."""
    channel = await t.channel()
    async with t.another() as other, t.broker.consume(channel, visibility=LONG) as consumer:
        for broker in (t.broker, other):
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(
                    soon(consumer.receive(10, 10 * t.patience), t.patience, "a waiting receive")
                )
                await asyncio.sleep(t.visibility / 3)
                await broker.publish(channel, t.events(1))
            same(len(waiting.result()), 1, "events received")


@suite.check()
async def receive_wakes_for_what_comes_back(t: BrokerTrial) -> None:
    """A receive that waits ends soon after an event was released, its delay is over, or its claim has expired."""
    channel = await t.channel(holding=t.events(1))
    async with (
        t.broker.consume(channel, visibility=t.visibility) as holder,
        t.broker.consume(channel, visibility=LONG) as consumer,
    ):
        held = await t.take(holder, 1)
        for delay in (None, 0.0, t.visibility):  # None: left to run out
            async with asyncio.TaskGroup() as group:
                wait = soon(consumer.receive(10, 10 * t.patience), t.visibility + t.patience, f"waiting, delay {delay}")
                waiting = group.create_task(wait)
                await asyncio.sleep(t.visibility / 3)
                if delay is not None:
                    await consumer.release(held, delay=delay)
            held = list(waiting.result())
            same(len(held), 1, "events received")


@suite.check()
async def claimed_is_given_to_nobody_else(t: BrokerTrial) -> None:
    """A claimed event is delivered to no other consumer, in any process, during its visibility time; nor is one whose
    consumer has left."""
    channel = await t.channel(holding=t.events(3))
    async with t.claimed(channel, 3):
        await t.nothing(channel, "events while claimed")
        async with t.another() as other, other.consume(channel, visibility=LONG) as consumer:
            same(list(await consumer.receive(10, t.visibility)), [], "events while claimed, in another process")
    await t.nothing(channel, "events claimed by a consumer that left")


@suite.check()
async def unsettled_comes_back(t: BrokerTrial) -> None:
    """An event whose claim has expired is delivered again as a suspect, with the same attempt each time, whether its
    consumer is still there or not."""
    events = t.events(2)
    channel = await t.channel(holding=events)
    for turn in (1, 2, 3):
        visibility = t.visibility * (3 if turn == 2 else 1)  # suspects come one by one: the first is held that long
        async with t.claimed(channel, 2, visibility=visibility) as (consumer, got):
            same([(d.attempt, d.suspect) for d in got], [(1, turn > 1)] * 2, "attempts and suspicion")
            same({d.event.data for d in got}, {e.data for e in events}, "events")
            if turn == 2:
                await past(visibility)
                got = await t.take(consumer, 2)
                same([(d.attempt, d.suspect) for d in got], [(1, True)] * 2, "the same at the same consumer")
                await consumer.settle(got)
                break
    await t.figures(channel, published=2, settled=2, waiting=0, in_flight=0)


@suite.check()
async def suspects_come_alone(t: BrokerTrial) -> None:
    """Suspects are delivered one at a time and with no other events, to a consumer in any process."""
    channel = await t.channel(holding=t.events(3))
    async with t.claimed(channel, 3, visibility=t.visibility):
        await past(t.visibility)
    suspects, others = 0, set[bytes]()
    async with (
        t.another() as other,
        t.broker.consume(channel, visibility=LONG) as a,
        other.consume(channel, visibility=LONG) as b,
    ):
        events = t.events(3)
        await t.broker.publish(channel, events)
        for turn in range(12):
            if suspects == len(others) == 3:
                break
            some = await (a, b)[turn % 2].receive(10, t.visibility)
            holds(len(some) == 1 or not any(d.suspect for d in some), "a suspect came with others")
            same({d.attempt for d in some} - {1}, set(), "attempts counted")
            suspects += sum(d.suspect for d in some)
            others |= {d.event.data for d in some if not d.suspect}
    same((suspects, others), (3, {e.data for e in events}), "suspects and others")


@suite.check("ordered")
async def suspects_and_others_take_turns(t: BrokerTrial) -> None:
    """While suspects and other events are due, a consumer gets a suspect first, and then both in turn; suspects with
    more attempts come before those with fewer."""
    events = t.events(4)
    channel = await t.channel(holding=events)
    async with t.claimed(channel, 4, visibility=t.visibility):
        await past(t.visibility)
    async with t.broker.consume(channel, visibility=t.visibility) as consumer:
        (first,) = await t.take(consumer, 1)
        holds(await consumer.alone(first), "the claim of a suspect had run out at once")
        await past(t.visibility)
    turns: list[tuple[bool, int]] = []
    async with t.broker.consume(channel, visibility=LONG) as consumer:
        await t.broker.publish(channel, t.events(4))
        await asyncio.sleep(t.visibility)  # a server that pushes has sent them by now
        while len(turns) < 8:
            some = await t.take(consumer, 1)
            turns += [(d.suspect, d.attempt) for d in some]
            await consumer.settle(some)
    same([s for s, _ in turns], [True, False] * 4, "suspects and others in turn")
    same([n for s, n in turns if s], [2, 1, 1, 1], "attempts of the suspects")


@suite.check()
async def suspects_until_proven(t: BrokerTrial) -> None:
    """A suspect stays a suspect if it is released untried; released as tried it no longer is one, with attempt + 1."""
    channel = await t.channel(holding=t.events(1))
    async with t.claimed(channel, visibility=t.visibility):
        await past(t.visibility)
    async with t.broker.consume(channel, visibility=LONG) as consumer:
        for tried, expected in ((False, (1, True)), (False, (1, True)), (True, (1, True)), (False, (2, False))):
            (got,) = await t.take(consumer, 1)
            same((got.attempt, got.suspect), expected, "attempt and suspicion")
            await consumer.release([got], tried=tried)
        (got,) = await t.take(consumer, 1)
        same((got.attempt, got.suspect), (2, False), "attempt and suspicion")


@suite.check()
async def alone_charges(t: BrokerTrial) -> None:
    """If a consumer has called `alone` for a suspect and the claim expires, that counts as one attempt, however often
    it called. The next claim starts afresh."""
    channel = await t.channel(holding=t.events(1))
    async with t.claimed(channel, visibility=t.visibility):
        await past(t.visibility)
    for charged, attempt in ((True, 1), (False, 2), (True, 2), (True, 3)):
        async with t.broker.consume(channel, visibility=t.visibility) as consumer:
            (got,) = await t.take(consumer, 1)
            same((got.attempt, got.suspect), (attempt, True), "attempt and suspicion")
            for _ in range(2 * charged):
                holds(await consumer.alone(got), "alone says that a claim has run out which stands")
            await consumer.extend([got])
            await past(t.visibility)
    async with t.claimed(channel) as (consumer, got_last):
        same([(d.attempt, d.suspect) for d in got_last], [(4, True)], "attempt and suspicion")
        holds(await consumer.alone(got_last[0]), "alone says that a claim has run out which stands")
        await consumer.settle(got_last)
    await t.nothing(channel, "events after it was settled")
    await t.figures(channel, published=1, settled=1, waiting=0, in_flight=0)


@suite.check()
async def alone_of_several(t: BrokerTrial) -> None:
    """A consumer may call `alone` for several suspects. If their claims expire, that counts as one attempt of each for
    which it called, and of no other."""
    channel = await t.channel(holding=t.events(4))
    async with t.claimed(channel, 4, visibility=t.visibility):
        await past(t.visibility)
    async with t.broker.consume(channel, visibility=t.visibility) as consumer:
        got = list[Delivery]()
        while len(got) < 4:
            got += await t.take(consumer, 1)
            await consumer.extend(got)
        for suspect in got[:3]:
            holds(await consumer.alone(suspect), "alone says that a claim has run out which stands")
            await consumer.extend(got)
        await past(t.visibility)
    async with t.claimed(channel, 4) as (consumer, again):
        expected = {**dict.fromkeys((d.event.id for d in got[:3]), 2), got[3].event.id: 1}
        same({d.event.id: d.attempt for d in again if d.suspect}, expected, "attempts of the suspects")
        await consumer.settle(again)
    await t.figures(channel, published=4, settled=4, waiting=0, in_flight=0)


@suite.check()
async def alone_and_released(t: BrokerTrial) -> None:
    """Released after `alone`, an event has one more attempt and is no longer a suspect; released untried, it keeps its
    attempt and stays a suspect."""
    channel = await t.channel(holding=t.events(1))
    async with t.claimed(channel, visibility=t.visibility):
        await past(t.visibility)
    async with t.broker.consume(channel, visibility=LONG) as consumer:
        for tried, expected in ((False, (1, True)), (True, (1, True)), (True, (2, False)), (False, (3, False))):
            (got,) = await t.take(consumer, 1)
            same((got.attempt, got.suspect), expected, "attempt and suspicion")
            if got.suspect:
                holds(await consumer.alone(got), "alone says that a claim has run out which stands")
            await consumer.release([got], tried=tried)
        (got,) = await t.take(consumer, 1)
        same((got.attempt, got.suspect), (3, False), "attempt and suspicion")


@suite.check()
async def cleared_of_suspicion(t: BrokerTrial) -> None:
    """Released untried and cleared, after `alone` or not, a suspect keeps its attempt and is no longer a suspect."""
    for marked in (False, True):
        channel = await t.channel(holding=t.events(1))
        async with t.claimed(channel, visibility=t.visibility):
            await past(t.visibility)
        async with t.broker.consume(channel, visibility=LONG) as consumer:
            (got,) = await t.take(consumer, 1)
            same((got.attempt, got.suspect), (1, True), "attempt and suspicion")
            if marked:
                holds(await consumer.alone(got), "alone says that a claim has run out which stands")
            await consumer.release([got], tried=False, cleared=True)
            (got,) = await t.take(consumer, 1)
            same((got.attempt, got.suspect), (1, False), "attempt and suspicion once cleared")


@suite.check()
async def alone_of_a_stale_claim(t: BrokerTrial) -> None:
    """For an expired claim, `alone` returns False and counts no attempt: neither while the event waits, nor while
    another consumer has it, nor after it was settled."""
    channel = await t.channel(holding=t.events(1))
    async with t.claimed(channel, visibility=t.visibility) as (late, (held,)):
        await past(t.visibility)
        holds(not await late.alone(held), "alone does not say that the claim has run out")
        async with t.claimed(channel, visibility=t.visibility) as (consumer, (got,)):
            same((got.attempt, got.suspect), (1, True), "attempt and suspicion")
            holds(not await late.alone(held), "alone does not say that another has claimed it since")
            await past(t.visibility)
        async with t.claimed(channel) as (consumer, (got,)):
            same((got.attempt, got.suspect), (1, True), "attempt and suspicion")
            await consumer.settle([got])
            holds(not await consumer.alone(got), "alone does not say that it was settled")
    await t.figures(channel, published=1, settled=1, waiting=0, in_flight=0)


@suite.check("reclaims")
async def reclaimed_comes_at_once(t: BrokerTrial) -> None:
    """After `reclaim`, that owner's claimed events are delivered at once, as suspects, also to a receive that waits;
    the events of other owners, and of consumers without a name, stay claimed. An attempt counts if `alone` was
    called."""
    channel = await t.channel(holding=t.events(7))
    async with (
        t.another() as other,
        other.consume(channel, visibility=LONG, owner="gone") as gone,
        other.consume(channel, visibility=LONG, owner="gone") as gone_too,
        t.broker.consume(channel, visibility=LONG, owner="there") as there,
        t.broker.consume(channel, visibility=LONG) as nameless,
    ):
        lost = [*await t.take(gone, 2), *await t.take(gone_too, 1)]
        await t.take(there, 2)
        await t.take(nameless, 2)
        holds(await gone.alone(lost[0]), "alone says that a claim has run out which stands")
        found: list[Delivery] = []
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(soon(there.receive(10, 10 * t.patience), t.patience, "a waiting receive"))
            await asyncio.sleep(t.visibility / 3)
            same(await t.broker.reclaim(channel, "gone"), 3, "events that it says to have given back")
        found += [*waiting.result(), *await t.take(there, 2)]
        same(
            {d.event.data: (d.attempt, d.suspect) for d in found},
            {d.event.data: (1 + (d is lost[0]), True) for d in lost},
            "what comes back",
        )
        same(await t.broker.reclaim(channel, "gone"), 0, "events given back again")
        await gone.release(lost)
        holds(not await gone.alone(lost[1]), "a claim that was reclaimed still stands")
        await t.nothing(channel, "events claimed by others")
        await there.settle(found)
    await t.figures(channel, published=7, settled=3, waiting=0, in_flight=4)


@suite.check()
async def reclaim_of_nothing(t: BrokerTrial) -> None:
    """Reclaiming in an absent channel, for an owner without claims there, or for no name, succeeds and changes
    nothing."""
    channel = await t.channel(holding=t.events(2))
    async with t.claimed(channel) as (consumer, got):
        for where in (channel, t.absent()):
            for owner in ("unknown", ""):
                same(await t.broker.reclaim(where, owner), 0, "events that it says to have given back")
        await t.figures(channel, published=2, settled=0, waiting=1, in_flight=1)
        holds(await consumer.alone(got[0]), "a claim was taken from a consumer without a name")
    same(list(await t.broker.channels(t.train)), [channel], "channels")


@suite.check()
async def extend_keeps_the_claim(t: BrokerTrial) -> None:
    """A claim that is extended in time outlives its visibility time by far; if it is no longer extended, the event
    comes back."""
    loop = asyncio.get_running_loop()
    for _ in range(5):
        channel = await t.channel(holding=t.events(2))
        async with (
            t.broker.consume(channel, visibility=t.visibility) as holder,
            t.broker.consume(channel, visibility=LONG) as other,
        ):
            last = loop.time()  # taken before the claim began, so that a late extension is noticed for sure
            held = await t.take(holder, 2)
            late = False
            for _ in range(9):
                await asyncio.sleep(t.visibility / 3)
                began = loop.time()
                await holder.extend(held)
                late = late or loop.time() - last > t.visibility * 0.9
                last = began
                got = await other.receive(10, 0.0)
                late = late or loop.time() - last > t.visibility * 0.9
                if late:
                    break
                same(list(got), [], "events while their claim is extended")
            if late:
                continue  # the machine stood still for longer than a claim lasts: this run shows nothing
            again = await t.take(other, 2)
            same([d.attempt for d in again], [1, 1], "attempts")
            return
    raise CheckFailed(f"the machine is too slow for a visibility of {t.visibility} s: give the suite more")


@suite.check()
async def extend_of_a_stale_claim(t: BrokerTrial) -> None:
    """Extending an expired claim takes the event neither from its present consumer nor from the next one."""
    channel = await t.channel(holding=t.events(2))
    async with t.claimed(channel, 2, visibility=t.visibility) as (holder, held):
        await past(t.visibility)
        await holder.extend(held)
        async with t.claimed(channel, 2) as (consumer, got):
            same([d.attempt for d in got], [1, 1], "attempts")
            await holder.extend(held)
            await past(t.visibility)
            await t.nothing(channel, "events that another has claimed since")
            await consumer.settle(got)
            await holder.extend(held)
    await t.figures(channel, settled=2, waiting=0, in_flight=0)


@suite.check()
async def settled_never_comes_back(t: BrokerTrial) -> None:
    """Settled events are never delivered again; unsettled events of the same batch are."""
    channel = await t.channel(holding=t.events(5))
    async with t.claimed(channel, 5, visibility=t.visibility) as (consumer, got):
        await consumer.settle(got[::2])
        await past(t.visibility)
        again = await t.take(consumer, 2)
        same({d.event.data for d in again}, {d.event.data for d in got[1::2]}, "what comes again")
        await consumer.settle(again)
        same(list(await consumer.receive(10, 2 * t.visibility)), [], "events left")
    await t.figures(channel, published=5, settled=5, waiting=0, in_flight=0)


@suite.check()
async def settle_counts_once(t: BrokerTrial) -> None:
    """Settling twice, in one call or two, counts once."""
    channel = await t.channel(holding=t.events(3))
    async with t.claimed(channel, 2) as (consumer, got):
        await consumer.settle([got[0], got[0]])
        await consumer.settle(got)
        await consumer.settle(got)
        await consumer.settle([])
        await t.figures(channel, published=3, settled=2, waiting=1, in_flight=0)


@suite.check()
async def settle_after_the_claim(t: BrokerTrial) -> None:
    """Settling after the claim has expired is allowed: the event is done and counts once, even if another consumer
    settles it too."""
    channel = await t.channel(holding=t.events(2))
    async with t.claimed(channel, 2, visibility=t.visibility) as (late, held):
        await past(t.visibility)
        await late.settle(held[:1])  # nobody had it since
        await t.figures(channel, published=2, settled=1)
        async with t.claimed(channel) as (consumer, got):
            same([d.event.data for d in got], [held[1].event.data], "what came back")
            await late.settle(held)  # another has it now
            await t.figures(channel, published=2, settled=2, waiting=0, in_flight=0)
            await consumer.settle(got)
            await consumer.release(got)
            await consumer.extend(got)
    await t.nothing(channel, "events after all was settled")
    await t.figures(channel, published=2, settled=2, waiting=0, in_flight=0)


@suite.check()
async def release_gives_back(t: BrokerTrial) -> None:
    """A released event comes again, to any consumer, with attempt + 1; the rest of the batch stays claimed."""
    channel = await t.channel(holding=t.events(3))
    async with t.claimed(channel, 3) as (holder, held):
        await holder.release(held[1:2])
        await holder.release([])
        async with t.claimed(channel) as (_, got):
            same(got[0].event.data, held[1].event.data, "the event that comes again")
            same(got[0].attempt, 2, "its attempt")
            await t.nothing(channel, "events still claimed")


@suite.check()
async def release_with_delay(t: BrokerTrial) -> None:
    """An event released with a delay is delivered again after it, not before; it does not delay other events."""
    loop = asyncio.get_running_loop()
    channel = await t.channel(holding=t.events(2))
    async with t.claimed(channel) as (consumer, held):
        began = loop.time()
        await consumer.release(held, delay=2 * t.visibility)
        (other,) = await t.take(consumer, 1)
        holds(other.event.data != held[0].event.data, "the released event came before its delay was over")
        (again,) = await t.take(consumer, 1)
        same((again.event.data, again.attempt), (held[0].event.data, 2), "what comes after the delay")
        holds(loop.time() - began > 2 * t.visibility * 0.9, "it came before its delay was over")


@suite.check()
async def release_untried(t: BrokerTrial) -> None:
    """Released with `tried=False`, an event is delivered again with the same attempt; released as tried, with one
    more."""
    channel = await t.channel(holding=t.events(1))
    async with t.broker.consume(channel, visibility=LONG) as consumer:
        for tried, attempt in ((False, 1), (False, 1), (True, 1), (False, 2), (True, 2), (True, 3)):
            held = await t.take(consumer, 1)
            same(held[0].attempt, attempt, "attempt")
            await consumer.release(held, tried=tried)
        same((await t.take(consumer, 1))[0].attempt, 4, "attempt")


@suite.check()
async def release_is_idempotent(t: BrokerTrial) -> None:
    """Releasing twice gives the event back once and counts one attempt."""
    channel = await t.channel(holding=t.events(2))
    async with t.claimed(channel, 2) as (holder, held):
        await holder.release([held[0], held[0], held[1]])
        await holder.release(held)
        await t.figures(channel, published=2, settled=0, waiting=2, in_flight=0)
        async with t.claimed(channel, 2) as (_, got):
            same([d.attempt for d in got], [2, 2], "attempts")
            await holder.release(held)
            await t.nothing(channel, "events given back a second time")


@suite.check()
async def release_of_a_stale_claim(t: BrokerTrial) -> None:
    """Releasing an expired claim takes the event from no consumer and counts no attempt; a settled event that is
    released does not come back."""
    channel = await t.channel(holding=t.events(1))
    async with t.claimed(channel, visibility=t.visibility) as (late, held):
        await past(t.visibility)
        async with t.claimed(channel) as (consumer, got):
            await late.release(held)
            await t.nothing(channel, "events that another has claimed since")
            await consumer.release(got)
            again = await t.take(consumer, 1)
            same(again[0].attempt, 2, "attempt")
            await consumer.settle(again)
            await late.release(held)
            await consumer.release(again)
    await t.nothing(channel, "events after they were settled")
    await t.figures(channel, published=1, settled=1, waiting=0, in_flight=0)


@suite.check()
async def consumers_share(t: BrokerTrial) -> None:
    """Consumers of one channel, in several processes, get each event once between them."""
    channel = await t.channel()
    events = t.events(400)
    got: list[bytes] = []

    async def work(consumer: Subscription) -> None:
        while len(got) < 400:
            some = await consumer.receive(5, t.visibility)
            got.extend(d.event.data for d in some)
            await consumer.settle(some)

    async def publish() -> None:
        for first in range(0, 400, 20):
            await t.broker.publish(channel, events[first : first + 20])

    async with (
        t.another() as other,
        t.broker.consume(channel, visibility=LONG) as a,
        t.broker.consume(channel, visibility=LONG) as b,
        other.consume(channel, visibility=LONG) as c,
    ):
        await soon(together(publish(), work(a), work(b), work(c)), t.patience * 3, "400 events for three consumers")
    same(sorted(got, key=int), [e.data for e in events], "events, each once")
    await t.figures(channel, published=400, settled=400, waiting=0, in_flight=0)


@suite.check()
async def cancelled_receive(t: BrokerTrial) -> None:
    """A receive may be cancelled at any moment and loses no event: its claimed events come back after their visibility
    time."""
    channel = await t.channel()
    events = [t.events(5) for _ in range(30)]
    settled: set[bytes] = set()  # perhaps not, if the settle itself was cancelled
    done: set[bytes] = set()

    async def work(consumer: Subscription) -> None:
        while True:
            some = await consumer.receive(3, t.patience)
            settled.update(d.event.data for d in some)
            await consumer.settle(some)
            done.update(d.event.data for d in some)

    async with t.broker.consume(channel, visibility=t.visibility) as consumer:
        for turn, batch in enumerate(events):
            task = asyncio.create_task(work(consumer))
            await t.broker.publish(channel, batch)
            await asyncio.sleep(0.001 * (turn % 4))
            task.cancel()
            await asyncio.wait([task])
        left = {e.data for e in await t.standing(channel)}
        same({e.data for batch in events for e in batch} - settled - left, set(), "events that are lost")
        same(left & done, set(), "events that were settled and stand")
        while left:
            if not (some := await consumer.receive(1, t.patience)):
                gone = left - {e.data for e in await t.standing(channel)}  # by a settle in progress while we looked
                holds(gone and gone <= settled, f"{len(left)} events stand and none came for {t.patience:g} s")
                left -= gone
            holds({d.event.data for d in some} <= left, "an event came again that was settled")
            left -= {d.event.data for d in some}
            await consumer.settle(some)
    await t.figures(channel, published=150, settled=150, waiting=0, in_flight=0)


@suite.check()
async def delete_tells_consumers(t: BrokerTrial) -> None:
    """When the channel is deleted a waiting receive soon raises ChannelGone, in any process, and so does a later
    one."""
    channel = await t.channel(holding=t.events(1))
    attached = asyncio.Barrier(3)

    async def wait(broker: Broker) -> None:
        async with broker.consume(channel, visibility=LONG) as consumer:
            await attached.wait()
            for what in ("a waiting receive", "a later receive"):
                receive = soon(consumer.receive(1, 10 * t.patience), t.patience, what)
                await refused(receive, ChannelGone, what=f"{what} on a deleted channel")

    async with t.another() as other, t.claimed(channel), asyncio.TaskGroup() as group:
        for broker in (t.broker, other):
            group.create_task(wait(broker))
        await attached.wait()
        await asyncio.sleep(t.visibility / 3)
        await t.broker.delete(channel)


@suite.check()
async def delete_with_events_in_hand(t: BrokerTrial) -> None:
    """After the channel was deleted, settling and releasing received events raise ChannelGone or do nothing; the
    channel does not come back."""
    channel = await t.channel(holding=t.events(2))
    async with t.claimed(channel, 2) as (consumer, got):
        await t.broker.delete(channel)
        for step in (consumer.settle(got[:1]), consumer.release(got[1:]), consumer.extend(got[1:])):
            try:
                await step
            except ChannelGone:
                continue
    same(list(await t.broker.channels(t.train)), [], "channels")


@suite.check("shared")
async def crashed_consumer(t: BrokerTrial) -> None:
    """The claimed events of a process that has ended are delivered to another after the visibility time, as
    suspects."""
    channel = await t.channel(holding=t.events(2))
    async with t.another() as other, other.consume(channel, visibility=t.visibility) as consumer:
        await t.take(consumer, 2)
    async with t.claimed(channel, 2) as (survivor, got):
        same([(d.attempt, d.suspect) for d in got], [(1, True)] * 2, "attempts and suspicion")
        await survivor.settle(got)
    await t.figures(channel, published=2, settled=2, waiting=0, in_flight=0)
