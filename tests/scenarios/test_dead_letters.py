"""Dead letters by order: which are meant, retried with their ids into their channel, dropped; never more than was
counted, none lost, none reported as lost. In virtual time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from eventwagon import (
    Connection,
    Context,
    DeadFilter,
    DeadLetter,
    DeadLettersChanged,
    DeadLettersDropped,
    DeadLettersLost,
    DeadLettersRetried,
    Event,
    EventTooLarge,
    Reject,
    Train,
    Unavailable,
    UsageError,
    Volume,
    Workers,
)
from eventwagon.contracts.lifecycle import State
from eventwagon.drivers.memory.broker import MemoryBroker, MemorySubscription
from eventwagon.event import DEAD, Channel
from eventwagon.policy import letters as letters_policy
from eventwagon.runtime.removal import WagonRemover
from eventwagon.testing.virtual_time import run
from tests.support import World, until

ALL = DeadFilter(all=True)


@pytest.mark.parametrize(
    ("ids", "said"),
    [(("a",), "id='a', error='no host'"), (("a", "b"), "2 ids, error='no host'"), ((), "error='no host'")],
)
def test_a_filter_in_words(ids: tuple[str, ...], said: str) -> None:
    assert str(DeadFilter(ids=ids, error="no host")) == said


EVEN, ODD = "even", "odd"


class Case:
    """A train that passes on each number to the inner channel `even` or `odd`, where it dies while `bad`; those above
    1000 die at the ingress."""

    def __init__(self) -> None:
        self.world = World()
        self.bad = True
        self.seen: list[tuple[str, int, Event]] = []

    def train(self, *channels: str) -> Train:
        train = Train("train", limit=Volume(100_000), workers=Workers(total=2), spares=1, keep_drained=0.2)

        @train.on("train")
        async def first(n: int, ctx: Context) -> None:
            if n > 1000 and self.bad:
                raise Reject(f"{n} is too much")
            if n > 1000:
                self.seen.append(("", n, ctx.event))
            else:
                ctx.emit(ODD if n % 2 else EVEN, n)

        for name in channels or (EVEN, ODD):
            self.inner(train, name)
        return train

    def inner(self, train: Train, name: str) -> None:
        @train.on(name)
        async def second(n: int, ctx: Context) -> None:
            if self.bad:
                raise Reject(f"no host {n} for {name}")
            self.seen.append((name, n, ctx.event))

    async def died(self, c: Connection, *numbers: int) -> list[DeadLetter]:
        before = len(await letters(c))
        await c.publish_many(numbers, subject=lambda n: f"s{n}")
        async with asyncio.timeout(60):
            while len(found := await letters(c)) < before + len(numbers):
                await asyncio.sleep(0.1)
        return found


async def letters(c: Connection, where: DeadFilter | None = None) -> list[DeadLetter]:
    return [letter async for letter in c.dead.list(where)]


def scenario(main: Callable[[Case, Connection], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        case = Case()
        async with case.world.running(case.train()) as c:
            await main(case, c)
            assert not case.world.of(DeadLettersLost)

    run(whole())


def test_a_retry_keeps_id_time_and_attributes_and_goes_to_the_channel_of_the_death() -> None:
    async def main(case: Case, c: Connection) -> None:
        dead = {letter.event.id: letter.event for letter in await case.died(c, *range(20), 1001)}
        case.bad = False
        preview = await c.dead.preview(DeadFilter(channel=EVEN))
        assert (preview.count, preview.retried, preview.channels) == (10, 10, (EVEN,))
        done = await c.dead.retry(preview, "the host is back", by="ada")
        assert (done.count, done.refused, done.left) == (10, 0, 0)
        await until(lambda: len(case.seen) == 10)
        assert {name for name, _, _ in case.seen} == {EVEN}
        for _, n, event in case.seen:
            old = dead[event.id]
            assert (event.time, event.data, event.subject, event.source) == (old.time, old.data, f"s{n}", old.source)
            assert event.extensions == {"deadattempts": "1", "deadretries": "1"}
        assert len(await letters(c)) == 11
        fact = case.world.of(DeadLettersRetried)[0]
        assert (fact.count, fact.by, fact.because) == (10, "ada", "the host is back")
        await asyncio.sleep(100)  # observers compare their figures
        assert (await c.dead.retry(await c.dead.preview(ALL))).count == 11
        await until(lambda: len(case.seen) == 21)
        assert sorted(n for _, n, _ in case.seen) == [*range(20), 1001]
        assert not await letters(c)
        await asyncio.sleep(100)

    scenario(main)


def test_letters_of_removed_wagons_go_to_the_active_one_and_attempts_go_on() -> None:
    async def main(case: Case, c: Connection) -> None:
        await case.died(c, *range(6))
        await c.wait_switched(await c.request_switch())
        await c.wait_drained(1)
        assert {letter.wagon for letter in await letters(c)} == {1}
        for life in range(1, 4):
            assert (await c.dead.retry(await c.dead.preview(ALL))).count == 6
            await asyncio.sleep(20)
            found = await letters(c)
            assert {(a.attempts, a.retries, a.wagon, a.event.subject) for a in found} == {
                (life + 1, life, 2, f"s{n}") for n in range(6)
            }
        preview = await c.dead.preview(ALL)
        assert (preview.count, preview.quarantined, preview.retried) == (6, 6, 0)
        assert (await c.dead.retry(preview)).count == 0
        assert len(await letters(c)) == 6
        case.bad = False
        assert (await c.dead.retry(await c.dead.preview(ALL, retries=9))).count == 6
        await until(lambda: len(case.seen) == 6)
        assert not await letters(c)

    scenario(main)


def test_refused_if_the_set_has_changed() -> None:
    async def main(case: Case, c: Connection) -> None:
        await case.died(c, 2, 4, 5)
        even, everything = await c.dead.preview(DeadFilter(channel=EVEN)), await c.dead.preview(ALL)
        await case.died(c, 7)
        for order in (c.dead.retry, c.dead.drop):
            with pytest.raises(DeadLettersChanged, match="there were 3, now there are 4"):
                await order(everything)
        assert len(await letters(c)) == 4
        assert (await c.dead.drop(even)).count == 2
        with pytest.raises(DeadLettersChanged, match="there were 2, now there are 0"):
            await c.dead.drop(even)
        assert sorted(msgspec.json.decode(a.event.data) for a in await letters(c)) == [5, 7]
        assert [f.count for f in case.world.of(DeadLettersDropped)] == [2]
        # the same events, which died once more, are other letters
        before = await c.dead.preview(ALL)
        assert (await c.dead.retry(before)).count == 2
        await asyncio.sleep(5)
        assert len(await letters(c)) == 2
        with pytest.raises(DeadLettersChanged):
            await c.dead.retry(before)

    scenario(main)


def test_filters_and_groups() -> None:
    async def main(case: Case, c: Connection) -> None:
        all_ = await case.died(c, 2, 4, 5, 1001)
        await asyncio.sleep(10)
        then = case.world.clock()
        await case.died(c, 6)

        async def of(**filters: Any) -> list[int]:
            found = await letters(c, DeadFilter(**filters))
            assert (await c.dead.preview(DeadFilter(**filters))).count == len(found)
            return sorted(msgspec.json.decode(a.event.data) for a in found)

        assert await of(all=True) == [2, 4, 5, 6, 1001]
        assert await of(channel="") == [1001]
        assert await of(channel=EVEN, subject="s4") == [4]
        assert await of(error="NO HOST") == await of(error="no host # for") == [2, 4, 5, 6]
        assert await of(error="host 5 ") == [5]
        assert await of(wagon=1) == [2, 4, 5, 6, 1001]
        assert await of(wagon=2) == []
        assert await of(type=all_[0].event.type) == [2, 4, 5, 6, 1001]
        assert await of(type="x") == []
        assert await of(since=then) == [6]
        assert await of(until=datetime.fromtimestamp(then, UTC)) == [2, 4, 5, 1001]
        assert await of(ids=[a.event.id for a in all_[:2]]) == sorted(
            msgspec.json.decode(a.event.data) for a in all_[:2]
        )
        groups = (await c.dead.preview(ALL)).groups
        assert [(g.channel, g.because, g.count) for g in groups] == [
            (EVEN, "rejected: no host # for even", 3),
            ("", "rejected: # is too much", 1),
            (ODD, "rejected: no host # for odd", 1),
        ]

    scenario(main)


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"ids": []},
        {"ids": "abc"},
        {"ids": [7]},
        {"ids": 7},
        {"ids": {""}},
        {"wagon": 0},
        {"wagon": True},
        {"wagon": float("nan")},
        {"type": ""},
        {"subject": " "},
        {"channel": 7},
        {"error": ""},
        {"since": datetime(2027, 1, 1)},
        {"until": float("nan")},
        {"since": True},
        {"all": 1},
        {"all": True, "channel": "x"},
    ],
)
def test_a_filter_that_says_nothing_or_nonsense_is_refused(filters: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        DeadFilter(**filters)


def test_many_ids_cost_no_more_than_one() -> None:
    """They are looked up, not compared with each letter: a filter of 20,000 ids would hold up the loop for seconds."""
    events = [Event(id=f"id{n}", type="int", source="s", time=1.0, data=b"1") for n in range(20_000)]
    where = DeadFilter(ids=[event.id for event in reversed(events)])
    began = time.process_time()
    assert all(where.takes(letters_policy.read(event)) for event in events)
    assert time.process_time() - began < 1
    assert where == msgspec.json.decode(msgspec.json.encode(where), type=DeadFilter)


def test_wrong_use() -> None:
    async def main(case: Case, c: Connection) -> None:
        for wrong in (None, {}, "all", object()):
            with pytest.raises(UsageError):
                await c.dead.preview(wrong)  # type: ignore[arg-type]
            with pytest.raises(UsageError):
                await c.dead.retry(wrong)  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            await c.dead.preview(ALL, retries=0)
        with pytest.raises(UsageError):
            await c.dead.drop(await c.dead.preview(ALL), "")
        assert (await c.dead.retry(await c.dead.preview(ALL))).count == 0

    scenario(main)


def test_strange_letters() -> None:
    """Others can write what they like: it is shown, retried as far as it can be, and hurts nobody."""

    async def main(case: Case, c: Connection) -> None:
        case.bad = False
        await c.publish(2000)
        await until(lambda: len(case.seen) == 1)
        x = {"deadattempts": "1e999", "deadretries": "-inf", "deadwagon": "x", "deadat": "nan", "deadbecause": "\x00?"}
        strange = Event(id="\u202e\n", type="int", source="s", time=1.0, data=b"1500", extensions=x)
        cut = Event(id="cut", type="int", source="s", time=1.0, data=b"15", extensions={"deadsize": "4"})
        below = msgspec.structs.replace(cut, id="below", extensions={"deadretries": "-7", "deadattempts": "-7"})
        read_back = letters_policy.read(below)
        assert (read_back.retries, read_back.attempts) == (0, 0)
        own = Channel("train", 0, DEAD)
        await case.world.broker.create(own)
        await case.world.broker.publish(own, [strange, cut, strange])  # one of them twice, as after a crash
        preview = await c.dead.preview(ALL)
        assert (preview.count, preview.cut, preview.retried) == (2, 1, 1)
        done = await c.dead.retry(preview)
        assert (done.count, done.refused, done.left) == (1, 0, 0)
        await until(lambda: len(case.seen) == 2)
        await asyncio.sleep(10)
        assert [n for _, n, _ in case.seen] == [2000, 1500]
        assert [a.event.id for a in await letters(c)] == ["cut"]

    scenario(main)


def test_without_the_channel_nothing_is_done() -> None:
    async def whole() -> None:
        case = Case()
        async with case.world.running(case.train()) as c:
            await case.died(c, 2, 3)
        async with case.world.connect(case.train(ODD), redeclare=True) as c, c.running():
            await c.wait_switched(await c.request_switch())
            with pytest.raises(UsageError, match="has no channel even"):
                await c.dead.retry(await c.dead.preview(ALL))
            assert len(await letters(c)) == 2
            case.bad = False
            assert (await c.dead.retry(await c.dead.preview(DeadFilter(channel=ODD)))).count == 1
            await until(lambda: len(case.seen) == 1)

    run(whole())


def test_while_the_wagon_is_removed_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(case: Case, c: Connection) -> None:
        await case.died(c, 2)
        go_on = asyncio.Event()
        move = WagonRemover._move_dead_letters  # noqa: SLF001

        async def waits(self: Any, channel: Channel) -> Any:
            await go_on.wait()
            return await move(self, channel)

        monkeypatch.setattr(WagonRemover, "_move_dead_letters", waits)
        await c.wait_switched(await c.request_switch())
        await until(lambda: c.manifest.wagons[0].state is State.REMOVING, seconds=20)
        with pytest.raises(Unavailable, match="is being removed"):
            await c.dead.retry(await c.dead.preview(ALL))
        go_on.set()
        await c.wait_drained(1)
        assert (await c.dead.drop(await c.dead.preview(ALL))).count == 1

    scenario(main)


def test_a_removal_in_the_middle_leaves_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The letters are published, and moved before they are settled."""

    async def main(case: Case, c: Connection) -> None:
        await case.died(c, *range(1001, 1301))
        case.bad = False
        await c.pause(wagon=1)
        await c.publish(5000)
        await c.wait_switched(await c.request_switch())
        settle = MemorySubscription.settle

        async def late(self: MemorySubscription, deliveries: Any) -> None:
            if self.channel == Channel("train", 1, DEAD):
                await c.resume(wagon=1)
                await c.wait_drained(1)
            await settle(self, deliveries)

        monkeypatch.setattr(MemorySubscription, "settle", late)
        done = await c.dead.retry(await c.dead.preview(ALL))
        assert (done.count, done.left) == (300, 0)
        await asyncio.sleep(10)
        assert sorted(n for _, n, _ in case.seen) == [*range(1001, 1301), 5000]
        assert not await letters(c)
        await asyncio.sleep(100)

    scenario(main)


@pytest.mark.parametrize("where", ["receive", "settle"])
def test_cut_off_between_publishing_and_settling(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled there: nothing is lost; at most 500 come twice, with the same ids; the rest is done by another call,
    which waits for the claims of the first."""

    async def main(case: Case, c: Connection) -> None:
        numbers = [*range(1001, 2801)]
        dead = await case.died(c, *numbers, 2, 3)
        case.bad = False
        calls = 0
        before = getattr(MemorySubscription, where)

        async def cut(self: Any, *given: Any) -> Any:
            nonlocal calls
            calls += self.channel.name == DEAD
            if calls == 3 and self.channel.name == DEAD:
                raise asyncio.CancelledError
            return await before(self, *given)

        preview = await c.dead.preview(DeadFilter(channel=""))
        with monkeypatch.context() as patched:
            patched.setattr(MemorySubscription, where, cut)
            with pytest.raises(asyncio.CancelledError):
                await c.dead.retry(preview)
        await asyncio.sleep(1)
        done = await c.dead.retry(await c.dead.preview(DeadFilter(channel="")))
        assert (done.count, done.left) == (800, 0)
        await asyncio.sleep(10)
        times = Counter(event.id for _, _, event in case.seen)
        assert set(times) == {a.event.id for a in dead if not a.channel}
        assert sum(times.values()) - len(times) == (500 if where == "settle" else 0)
        assert len(await letters(c)) == 2
        await asyncio.sleep(100)

    scenario(main)


def test_interrupted_while_the_broker_hands_letters_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The letters that it has just claimed are given back at once, so that the next retry need not wait until their
    claims expire."""

    async def main(case: Case, c: Connection) -> None:
        await case.died(c, *range(1001, 1011))
        case.bad = False
        receive, claimed = MemorySubscription.receive, asyncio.Event()

        async def slow(self: Any, *given: Any) -> Any:
            got = await receive(self, *given)
            if self.channel.name == DEAD and got:
                claimed.set()
                await asyncio.sleep(0.2)  # the answer is on its way
            return got

        preview = await c.dead.preview(ALL)
        with monkeypatch.context() as patched:
            patched.setattr(MemorySubscription, "receive", slow)
            retrying = asyncio.create_task(c.dead.retry(preview))
            await claimed.wait()
            retrying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await retrying
        depths = await c.broker.depth([Channel("train", 1, DEAD)])
        assert (depths[0].waiting, depths[0].in_flight) == (10, 0)
        began = asyncio.get_running_loop().time()
        assert (await c.dead.retry(preview)).count == 10
        assert asyncio.get_running_loop().time() - began < 5

    scenario(main)


def test_what_the_broker_refuses_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(case: Case, c: Connection) -> None:
        await case.died(c, *range(1001, 1021))
        case.bad = False
        publish = MemoryBroker.publish

        async def choosy(self: MemoryBroker, channel: Channel, events: Sequence[Event]) -> None:
            if not channel.name and any(event.data in (b"1003", b"1020") for event in events):
                raise EventTooLarge("too large")
            await publish(self, channel, events)

        with monkeypatch.context() as patched:
            patched.setattr(MemoryBroker, "publish", choosy)
            done = await c.dead.retry(await c.dead.preview(ALL))
        assert (done.count, done.refused, done.left) == (18, 2, 0)
        assert sorted(a.event.data for a in await letters(c)) == [b"1003", b"1020"]
        assert (await c.dead.retry(await c.dead.preview(ALL))).count == 2  # they were given back
        await asyncio.sleep(10)
        assert sorted(n for _, n, _ in case.seen) == [*range(1001, 1021)]

    scenario(main)


def test_two_operators_at_once() -> None:
    async def main(case: Case, c: Connection) -> None:
        await case.died(c, *range(1001, 2201))
        case.bad = False
        preview = await c.dead.preview(ALL)
        one, two = await asyncio.gather(c.dead.retry(preview), c.dead.retry(preview))
        assert one.count + two.count == 1200
        await asyncio.sleep(10)
        assert sorted(n for _, n, _ in case.seen) == [*range(1001, 2201)]
        assert not await letters(c)

    scenario(main)


def test_two_operators_whose_letters_lie_among_each_others() -> None:
    """Each claims what the other one looks for. Neither waits for the other in vain."""

    async def main(case: Case, c: Connection) -> None:
        found = await case.died(c, *range(1001, 4001))
        case.bad = False
        ids = [letter.event.id for letter in found]
        one = await c.dead.preview(DeadFilter(ids=ids[0::2]))
        two = await c.dead.preview(DeadFilter(ids=ids[1::2]))
        began = asyncio.get_running_loop().time()
        done = await asyncio.gather(c.dead.retry(one), c.dead.drop(two))
        assert [(each.count, each.left) for each in done] == [(1500, 0), (1500, 0)]
        assert asyncio.get_running_loop().time() - began < 45
        await asyncio.sleep(10)
        assert len(case.seen) == 1500
        assert not await letters(c)

    scenario(main)
