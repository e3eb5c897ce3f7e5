"""Replays with real workers, on memory and SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from eventwagon import Context, Train, Volume, Workers
from eventwagon.connection import Connection
from eventwagon.contracts.facts import ReplayEnded
from eventwagon.contracts.replay import PastEvent, PastEvents
from eventwagon.drivers.opening import open_drivers
from eventwagon.errors import UsageError
from eventwagon.event import Event


class Kept:
    """The events of one removed wagon."""

    def __init__(self, count: int, wagon: int = 1) -> None:
        self._wagon = wagon
        self.past = [
            PastEvent(
                Event(f"old-{n}", "t.old", "shop", 1e9 + n, b"%d" % n), "", "dead" if n % 10 == 0 else "handled", 1
            )
            for n in range(count)
        ]

    async def events(self, wagon: int, channel: str) -> AsyncIterator[Sequence[PastEvent]]:
        if wagon != self._wagon:
            raise UsageError(f"nothing is kept of wagon {wagon}")
        for start in range(0, len(self.past), 70):
            yield [p for p in self.past[start : start + 70] if p.channel == channel]


def made(handled: list[tuple[int, str, int]], **settings: Any) -> Train:
    train = Train("t", limit=Volume(100_000), workers=Workers(each=4), observe_every=0.02, member_ttl=1.0, **settings)

    @train.on("t")
    async def handle(number: int, ctx: Context) -> None:
        handled.append((number, ctx.event.id, ctx.wagon))

    return train


def connected(train: Train, url: str, past: Kept, listeners: Sequence[Any] = ()) -> Connection:
    drivers = open_drivers(url)
    return Connection(
        train, drivers.broker, drivers.registry, None, listeners, __import__("time").time, False, past=past
    )


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    return "memory:" if request.param == "memory" else f"sqlite:///{tmp_path}"


def test_past_events_are_handled_once_more_in_a_wagon_of_their_own(url: str) -> None:
    async def main() -> None:
        handled: list[tuple[int, str, int]] = []
        facts: list[Any] = []
        train, past = made(handled), Kept(1234)
        async with connected(train, url, past, [facts.append]) as connection, connection.running():
            first = connection.manifest.active
            async with asyncio.timeout(30):
                replay = await connection.replays.request(PastEvents(wagon=1, outcome="handled"), "a test")
                await connection.publish(-1)
                await connection.replays.wait(replay.number)
            assert connection.manifest.active is not None
            assert first is None or connection.manifest.active.number == first.number
        wanted = sorted(int(p.event.data) for p in past.past if p.outcome == "handled")
        old = [h for h in handled if h[0] >= 0]
        assert sorted(n for n, _, _ in old) == wanted
        assert {(n, i) for n, i, _ in old} == {(n, f"old-{n}") for n in wanted}
        assert len({w for _, _, w in old}) == 1
        assert {w for _, _, w in old}.isdisjoint({w for n, _, w in handled if n == -1})
        (ended,) = [f for f in facts if isinstance(f, ReplayEnded)]
        assert (ended.fed, ended.count, ended.dead, ended.because) == (len(wanted), len(wanted), 0, "")

    asyncio.run(main())
