"""Whatever handlers do, the test kit accounts for every event: handled or dead, after as many attempts as it took."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from eventwagon import Context, Event, Reject, Retry, Snooze, Train, Volume, Workers, testing
from tests.fuzz import examples

_OUTCOMES = st.sampled_from(["fail", "retry", "snooze", "reject", "hang", "afterwards"])
_LIMIT = 4


def _expected(outcomes: list[str]) -> tuple[bool, int]:
    """Whether an event whose handlings go like this, and then well, is handled; and how many attempts it takes."""
    attempts = 0
    for outcome in outcomes:
        attempts += outcome != "snooze"
        if outcome == "reject" or attempts == _LIMIT:
            return False, attempts
    return True, attempts + 1


@examples(60)
@given(
    st.lists(st.lists(_OUTCOMES, max_size=5), max_size=12),
    st.booleans(),
    st.integers(1, 5),
    st.sets(st.integers(0, 11), max_size=3),
)
def test_every_event_is_accounted_for(scripts: list[list[str]], is_async: bool, size: int, twice: set[int]) -> None:
    train = Train("t", limit=Volume(size), workers=Workers(each=3), handler_timeout=3.0, attempts=_LIMIT)
    handlings = Counter[int]()

    def act(number: int) -> str:
        handlings[number] += 1
        script = scripts[number] if number < len(scripts) else []
        outcome = script[handlings[number] - 1] if handlings[number] <= len(script) else "well"
        match outcome:
            case "fail" | "afterwards":
                raise ValueError(number)
            case "retry":
                raise Retry(after=2)
            case "snooze":
                raise Snooze(4)
            case "reject":
                raise Reject("no")
        return outcome

    async def waits(number: int, ctx: Context) -> None:
        await ctx.emit("next", number)
        if act(number) == "hang":
            await asyncio.Event().wait()

    def returns(number: int, ctx: Context) -> None:
        ctx.emit("next", number)
        if act(number) == "hang":
            raise TimeoutError

    train.on("t")(waits if is_async else returns)

    @train.on("next")
    async def after(number: int) -> None: ...

    async def story() -> None:
        async with testing.running(train, dead="keep") as t:
            ids = [await t.publish(number) for number in range(len(scripts))]
            await t.idle()
            while len(t.handled()) + len(t.dead) < len(ids):
                await t.advance(5)
                await t.idle()
            expected = list(map(_expected, scripts))
            well = [number for number, (handled, _) in enumerate(expected) if handled]
            assert sorted(t.handled()) == sorted(t.handled("next")) == sorted(t.emitted("next")) == well
            assert sorted(letter.payload for letter in t.dead) == [n for n, (ok, _) in enumerate(expected) if not ok]
            assert {letter.payload: letter.attempts for letter in t.dead} == {
                number: attempts for number, (ok, attempts) in enumerate(expected) if not ok
            }
            assert [t.attempts(each) for each in ids] == [attempts for _, attempts in expected]
            again = [number for number in sorted(twice) if number in well]
            for number in again:
                await t.redeliver(ids[number])
            await t.idle()
            assert sorted(t.handled()) == sorted(well + again)
            assert sorted(t.published()) == list(range(len(scripts)))
            first: list[Event] = t.events("next")
            assert len({event.id for event in first}) == len(well)

    testing.run(story())
