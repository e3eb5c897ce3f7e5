"""A user's own limit states a bound and a promise, and whatever it does the train goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from eventwagon import Age, Lag, Pressure, Reading, Settings, Train, Volume, Wait
from eventwagon.contracts.facts import DefectFound, StepFailed, WagonDrained
from eventwagon.errors import UsageError
from eventwagon.limits import Limit, capacity, slo
from eventwagon.testing.virtual_time import run
from tests.support import SignUp, World, signups, until


@dataclass(frozen=True)
class Money:
    bound: Any = None
    slo: Any = None

    def measure(self, reading: Reading) -> Pressure:
        taken = reading.published or 0
        return Pressure(taken / self.bound if self.bound else 0.0, f"{taken} taken")


def test_what_it_states_counts_as_that_of_ours_does() -> None:
    money = Money(bound=1e2, slo=3)
    assert (capacity(money), slo(money)) == (100, 3.0)
    assert (capacity(money | Volume(50)), slo(Wait(2.0) | money)) == (50, 2.0)
    assert (capacity(Volume(50) & money), slo(money & Wait(5.0))) == (100, 3.0)
    silent = Age(3)
    assert (capacity(silent), slo(silent)) == (None, None)
    assert (capacity(silent & money), capacity(silent | money)) == (None, 100)


def test_its_cut_is_exact() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        async with world.running(signups(handled, limit=Money(bound=40), observe_every=5.0)) as c:
            await asyncio.sleep(11)  # the spare is ready
            await asyncio.gather(*(c.publish(SignUp(str(n))) for n in range(70)))
            await until(lambda: len(handled) == 70)
            await c.wait_drained(1)
        assert world.of(WagonDrained)[0].published == 40

    run(main())


@pytest.mark.parametrize(
    "joined", [lambda limit: limit, lambda limit: limit | Volume(5), lambda limit: Wait(1) & limit]
)
@pytest.mark.parametrize(
    "stated", [{"bound": "many"}, {"bound": 0}, {"bound": 1.5}, {"bound": True}, {"slo": 0}, {"slo": float("nan")}]
)
def test_what_is_no_number_is_refused_when_the_train_is_made(
    stated: dict[str, Any], joined: Callable[[Limit], Limit]
) -> None:
    (name,) = stated
    with pytest.raises(UsageError, match=f"limit of class Money: {name} must be a"):
        Train("t", limit=joined(Money(**stated)))


class Moody:
    """States a number first, and raises when it is asked again."""

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException | None = None
        self.later = error

    def __repr__(self) -> str:
        return "Moody()"

    @property
    def bound(self) -> int:
        if self.error is not None:
            raise self.error
        return 100

    slo = bound

    def measure(self, reading: Reading) -> Pressure:
        return Pressure((reading.published or 0) / 10, "moody")


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), asyncio.CancelledError()])
def test_one_that_fails_later_states_nothing_and_stops_nobody(error: BaseException) -> None:
    async def main() -> None:
        limit = Moody(error)
        world, handled = World(), list[str]()
        async with world.running(signups(handled, limit=limit)) as c:
            await until(lambda: c.manifest.ready)
            limit.error = limit.later
            for n in range(30):
                await c.publish(SignUp(str(n)))
                await asyncio.sleep(0.3)
            await until(lambda: len(handled) == 30)
            assert c.manifest.turns >= 3
        assert not world.of(DefectFound)

    run(main())
    broken = Moody(error)
    broken.error = error
    with pytest.raises(UsageError, match="its bound fails"):
        Settings(limit=broken)


@dataclass(frozen=True)
class Bad:
    name: str
    measures: Callable[[], Pressure]

    def __repr__(self) -> str:
        return f"Bad({self.name!r})"

    def measure(self, reading: Reading) -> Pressure:
        return self.measures()


def _raise() -> Pressure:
    raise ZeroDivisionError("no budget")


BAD: list[Callable[[], Any]] = [
    _raise,
    lambda: Pressure(float("nan"), "?"),
    lambda: Pressure(float("inf"), "?"),
    lambda: 0.5,
]


@pytest.mark.parametrize("measures", BAD)
def test_a_bad_part_of_a_limit_is_blamed_itself_and_silences_no_other(measures: Callable[[], Any]) -> None:
    """Whichever side it stands on, and however deep."""

    async def main(limit: Limit, *, cuts: bool) -> None:
        world, handled = World(), list[str]()
        async with world.running(signups(handled, limit=limit)) as c:
            await until(lambda: c.manifest.ready)
            for n in range(30):
                await c.publish(SignUp(str(n)))
                await asyncio.sleep(0.3)
            await until(lambda: len(handled) == 30)
            assert (c.manifest.turns >= 3) is cuts
        steps = {f.step for f in world.of(StepFailed)}
        assert steps == {"measuring the limit Bad('money')"}
        assert len(world.of(StepFailed)) == 1

    bad = Bad("money", measures)
    for limit in (bad | Volume(10), Volume(10) | bad, (Lag(10_000) | bad) | Volume(10), (Age(1801) & bad) | Volume(10)):
        run(main(limit, cuts=True))
    run(main(bad & Volume(10), cuts=False))


def test_a_part_that_is_written_in_other_words_each_time_is_blamed_itself() -> None:
    class Changing(Money):
        count = 0

        def __repr__(self) -> str:
            Changing.count += 1
            return f"Changing({Changing.count})"

    with pytest.raises(UsageError, match="limit of class Changing: its repr changes"):
        Train("t", limit=Volume(5) | Changing())
