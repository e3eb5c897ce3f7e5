"""The suite for timetables: events for later, claims, cancelling, ticks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from secrets import token_hex
from typing import Any

import msgspec

from ...contracts.timetable import CHANNEL, Due, Timetable, key, key_of, timetable_of
from ...event import BINARY, Event
from .check import Body, Check, Make, Suite, holds, identity, same, sentence, together

_BYTES = 1 << 20


class TimetableTrial:
    """A timetable under trial, a train name unique to the check, and the steps that checks share."""

    def __init__(self, timetable: Timetable, another: Callable[[], AbstractAsyncContextManager[Any]], lease: float):
        self.timetable = timetable
        self.another = another
        """Another process's view of its store."""
        self.lease = lease
        self.train = f"check_{token_hex(6)}"

    async def event(self, name: str, after: float, data: bytes = b"1", channel: str = "") -> Event:
        """An event that is due `after` seconds from now."""
        now = await self.timetable.now(self.train)
        return Event(name, "happened", "/check", now + after, data, extensions={CHANNEL: channel} if channel else {})

    async def keep(self, name: str, after: float, data: bytes = b"1", channel: str = "") -> Event:
        """The same, added."""
        event = await self.event(name, after, data, channel)
        await self.timetable.add(self.train, [event])
        return event

    async def claim(self, limit: int = 100, *, most_bytes: int = _BYTES, lease: float = 60.0) -> Due:
        """What is due, claimed."""
        return await self.timetable.claim(self.train, limit=limit, most_bytes=most_bytes, lease=lease)

    async def claimed(self, limit: int = 100, *, most_bytes: int = _BYTES) -> list[str]:
        """The ids of what is due."""
        return [event.id for event in (await self.claim(limit, most_bytes=most_bytes)).events]

    async def kept(self) -> list[str]:
        """The ids of all events that are kept, in order."""
        return [event.id async for event in self.timetable.entries(self.train)]


def timetable_checks(*, lease: float = 0.5) -> Sequence[Check[Any]]:
    """Every check of the contract of a timetable, for a broker or registry that has one. `lease`: the shortest claim
    that the driver keeps reliably, in seconds."""

    def make_check(body: Body[TimetableTrial], requires: tuple[str, ...]) -> Check[Any]:
        async def start(check: Check[Any], make: Make[Any]) -> None:
            async with make() as store:
                timetable = timetable_of(store)
                assert timetable is not None  # noqa: S101 - for the type checker
                await body(TimetableTrial(timetable, make, lease))

        return Check(identity(body), sentence(body), requires, start)

    return [make_check(body, requires) for body, requires in suite.bodies]


suite: Suite[TimetableTrial] = Suite()


@suite.check()
async def an_event_is_due_at_its_time_and_not_before(t: TimetableTrial) -> None:
    """An event is due at its time and not before, and comes as it was."""
    subject = "\N{SNOWMAN} "
    early = await t.event("early", -1.0)
    early = msgspec.structs.replace(
        early, data=bytes(range(256)), subject=subject, content_type=BINARY, extensions={"tenant": "ä\n"}
    )
    late = await t.event("late", t.lease)
    await t.timetable.add(t.train, [late, early])
    due = await t.claim()
    same(list(due.events), [early], "what is due")
    holds(due.next_at is not None and abs(due.next_at - late.time) < 0.01, f"next at {due.next_at}, not {late.time}")
    await asyncio.sleep(t.lease)
    due = await t.claim()
    same(list(due.events), [late], "what is due later")
    holds(due.now >= late.time, "it came before its time")


@suite.check()
async def an_event_is_kept_once(t: TimetableTrial) -> None:
    """An event that is kept already changes nothing, also with another time or while it is claimed."""
    event = await t.keep("one", -1.0)
    await t.timetable.add(t.train, [event, msgspec.structs.replace(event, time=event.time + 1000.0)])
    same(await t.kept(), ["one"], "what is kept")
    due = await t.claim()
    same([e.time for e in due.events], [event.time], "its time")
    same(list(due.keys), [key_of(event)], "its key")
    await t.timetable.add(t.train, [event])
    same(await t.claimed(), [], "what is due while it is claimed")
    await t.timetable.remove(t.train, ["no such key", key_of(event)], until=due.until)
    same(await t.kept(), [], "what is kept once it is published")
    await t.timetable.add(t.train, [event])
    same(await t.claimed(), ["one"], "what is due when it was added again")


@suite.check()
async def a_claim_excludes_others_until_it_ends(t: TimetableTrial) -> None:
    """Each of many claims gets other events; those that are not removed are due again when the claim ends."""
    for n in range(20):
        await t.keep(f"e{n}", -1.0)
    dues = await together(*(t.claim(4) for _ in range(8)))
    while (more := await t.claim(4)).events:  # claims at the same moment may get fewer than there are
        dues.append(more)
    found = sorted(event.id for due in dues for event in due.events)
    same(found, sorted(f"e{n}" for n in range(20)), "what all claims got")
    same(await t.claimed(), [], "what is due meanwhile")
    other = [await t.keep(f"f{n}", -1.0) for n in range(4)]
    due = await t.claim(lease=t.lease)
    await t.timetable.remove(t.train, [key_of(event) for event in other[:2]], until=due.until)
    same(await t.claimed(), [], "what is due while the claim stands")
    await asyncio.sleep(t.lease + 0.1)
    same(sorted(await t.claimed()), ["f2", "f3"], "what is due afterwards")


@suite.check()
async def only_the_claim_that_stands_removes(t: TimetableTrial) -> None:
    """A process whose claim has ended does not remove what another has claimed or added since."""
    event = await t.keep("one", -1.0)
    first = await t.claim(lease=t.lease)
    await asyncio.sleep(t.lease + 0.1)
    second = await t.claim()
    same([e.id for e in second.events], ["one"], "what the second claim got")
    await t.timetable.remove(t.train, [key_of(event)], until=first.until)
    same(await t.kept(), ["one"], "what is kept")
    await t.timetable.remove(t.train, [key_of(event)], until=second.until)
    await t.keep("one", 100.0)
    await t.timetable.remove(t.train, [key_of(event)], until=second.until)
    same(await t.kept(), ["one"], "what is kept when it was added again")


@suite.check()
async def the_earliest_come_first(t: TimetableTrial) -> None:
    """The earliest events come first, as many as were asked for and fit."""
    order = [3, 1, 4, 0, 2]
    now = await t.timetable.now(t.train)
    events = [Event(f"e{n}", "happened", "/check", now - 10.0 + n, b"x" * 1000) for n in order]
    await t.timetable.add(t.train, events)
    same(await t.kept(), ["e0", "e1", "e2", "e3", "e4"], "what is kept")
    same(await t.claimed(2), ["e0", "e1"], "the first two")
    same(await t.claimed(most_bytes=10), ["e2"], "the first of those that don't fit")
    same(await t.claimed(most_bytes=2500), ["e3", "e4"], "those that fit")


@suite.check()
async def what_waits_can_be_cancelled(t: TimetableTrial) -> None:
    """An event that waits can be cancelled once; one that is claimed, or was, will or may be published."""
    await t.keep("one", 100.0)
    same(await t.timetable.cancel(t.train, [key("two"), key("one")]), True, "cancelling it")
    same(await t.timetable.cancel(t.train, [key("one")]), False, "cancelling it again")
    same(await t.kept(), [], "what is kept")
    await t.keep("three", -1.0)
    await t.claim(lease=t.lease)
    same(await t.timetable.cancel(t.train, [key("three")]), False, "cancelling what is claimed")
    same(await t.kept(), ["three"], "what is kept")
    await asyncio.sleep(t.lease + 0.1)
    same(await t.timetable.cancel(t.train, [key("three")]), False, "cancelling what was claimed")
    same(await t.kept(), [], "what is kept in the end")


@suite.check()
async def channels_are_told_apart(t: TimetableTrial) -> None:
    """The same id for two channels, and ids that look like channels, are different events."""
    for name, channel in (("one", ""), ("one", "mail"), ("mail one", ""), (" one", "")):
        await t.keep(name, 100.0, channel=channel)
    waiting = await t.timetable.waiting(t.train)
    same(waiting.count, 4, "how many wait")
    same(await t.timetable.cancel(t.train, [key("one", "mail")]), True, "cancelling that of a channel")
    kept = [(e.id, e.extensions.get(CHANNEL, "")) async for e in t.timetable.entries(t.train)]
    same(sorted(kept), [(" one", ""), ("mail one", ""), ("one", "")], "what is kept")
    await t.keep("one", 100.0, channel="mail")
    same(await t.timetable.cancel(t.train, [key("one"), key("one", "mail")]), True, "cancelling both at once")
    same(sorted(await t.kept()), [" one", "mail one"], "what is kept then")


@suite.check()
async def another_process_sees_the_same(t: TimetableTrial) -> None:
    """Another process finds what was kept, its count and when it is due."""
    event = await t.keep("one", 100.0)
    async with t.another() as store:
        timetable = timetable_of(store)
        assert timetable is not None  # noqa: S101 - for the type checker
        waiting = await timetable.waiting(t.train)
        same(waiting.count, 1, "how many wait")
        ahead = -1.0 if waiting.next_at is None else waiting.next_at - waiting.now
        holds(90.0 < ahead <= 100.01, f"the next is due in {ahead} s")
        same([e async for e in timetable.entries(t.train)], [event], "what it finds")


@suite.check()
async def a_tick_is_recorded_once(t: TimetableTrial) -> None:
    """Of many processes that record a tick one succeeds, and one event is kept; none for the first tick of a series."""
    now = await t.timetable.now(t.train)
    same(await t.timetable.latest(t.train, "s"), None, "the latest tick of a new series")
    first = await t.event("first", 0.0)
    same(await t.timetable.tick(t.train, "s", now - 10.5, first), True, "the first tick")
    same(await t.kept(), [], "what is kept of it")
    events = [await t.event(f"e{n}", 0.0) for n in range(5)]
    stored = await together(*(t.timetable.tick(t.train, "s", now, event) for event in events))
    same(sorted(stored), [False] * 4 + [True], "what each was told")
    same(len(await t.kept()), 1, "how many events are kept")
    same(await t.timetable.tick(t.train, "s", now - 5.0, events[0]), False, "an earlier tick")
    same(await t.timetable.latest(t.train, "s"), now, "the latest tick")
    same(await t.timetable.tick(t.train, "s", now + 5.0, None), True, "a tick without an event")
    same(await t.timetable.tick(t.train, "other", now, None), True, "another series")
    same(len(await t.kept()), 1, "how many events are kept in the end")
    same(dict(await t.timetable.latest_of_all(t.train)), {"s": now + 5.0, "other": now}, "the latest ticks of all")
    same(dict(await t.timetable.latest_of_all(f"{t.train}x")), {}, "the latest ticks of another train")


@suite.check()
async def an_empty_timetable_is_no_error(t: TimetableTrial) -> None:
    """Of a train that has none everything is empty, and nothing fails."""
    waiting = await t.timetable.waiting(t.train)
    same((waiting.count, waiting.next_at), (0, None), "what waits")
    due = await t.claim()
    same((len(due.events), due.next_at), (0, None), "what is due")
    same(await t.kept(), [], "what is kept")
    await t.timetable.add(t.train, [])
    await t.timetable.remove(t.train, [key("one")], until=1.0)
    same(await t.timetable.cancel(t.train, [key("one")]), False, "cancelling")
    same(await t.timetable.clear(t.train), 0, "clearing")


@suite.check()
async def clearing_forgets_one_train(t: TimetableTrial) -> None:
    """`clear` forgets everything of its train, claims and ticks included, and nothing of another's."""
    await t.keep("one", -1.0)
    await t.keep("two", 100.0)
    await t.timetable.tick(t.train, "s", 5.0, None)
    await t.claim(1)
    other = f"{t.train}x"
    await t.timetable.add(other, [await t.event("three", 100.0)])
    same(await t.timetable.clear(t.train), 2, "how many it forgot")
    same(await t.timetable.clear(t.train), 0, "how many it forgot the second time")
    same(await t.kept(), [], "what is kept")
    same(await t.timetable.latest(t.train, "s"), None, "its latest tick")
    same((await t.timetable.waiting(other)).count, 1, "how many wait of the other train")
    await t.keep("one", -1.0)
    same(await t.claimed(), ["one"], "what is due when it was added again")
    await t.timetable.clear(other)


@suite.check()
async def many_events_are_kept(t: TimetableTrial) -> None:
    """Events in any number, and of any size that a train allows, are kept and found."""
    now = await t.timetable.now(t.train)
    many = [Event(f"e{n:04}", "happened", "/check", now + 100.0 + n, b"x") for n in range(1500)]
    large = [Event(f"l{n}", "happened", "/check", now - 1.0, b"x" * 250_000) for n in range(12)]
    await t.timetable.add(t.train, [*many, *large])
    same((await t.timetable.waiting(t.train)).count, 1512, "how many wait")
    same(len(await t.kept()), 1512, "how many are found")
    got = await t.claimed()
    while more := await t.claimed():
        holds(len(more) <= 4, f"{len(more)} large events in one claim")
        got += more
    same(sorted(got), sorted(event.id for event in large), "what is due")
    await t.timetable.clear(t.train)
