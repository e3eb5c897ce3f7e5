"""Each trouble is made in a real train on SQLite: a real Prometheus scrapes it, the alert fires, and resolves once the
trouble is over."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventwagon import Breaker, Reject, Train, TrainFull, Volume, Wait, Workers
from tests.prometheus.live import Live
from tests.servers.prometheus import PrometheusServer

pytestmark = pytest.mark.slow

Made = Callable[..., Live]


@pytest.fixture
def made(prometheus_server: PrometheusServer, tmp_path: Path) -> Made:
    """Makes a train of this name with this handler."""

    def make(name: str, handler: Callable[[int], Awaitable[None]], **settings: Any) -> Live:
        train = Train(name, **{"limit": Volume(1000), "workers": Workers(each=2), "backoff": 0.1, **settings})

        @train.on(name)
        async def handle(n: int) -> None:
            await handler(n)

        return Live(prometheus_server, train, tmp_path)

    return make


def test_a_burst_that_is_handled_in_time_alerts_nobody(made: Made) -> None:
    async def handle(n: int) -> None:
        await asyncio.sleep(0.002)

    async def main() -> None:
        live = made("healthy", handle, limit=Volume(100) | Wait(30.0))
        async with live.process() as train:
            await live.is_seen()
            seen = 'eventwagon_switches_total{eventwagon_train="healthy",eventwagon_cause="limit"} >= 3'
            while not await asyncio.to_thread(live.prometheus.query, seen):
                await train.publish_many(range(100))
                assert not await asyncio.to_thread(live.alerts)
            await live.has_settled(400)
            assert not live.alerted(60)

    asyncio.run(main())


def test_workers_that_are_too_slow_at_the_cap(made: Made) -> None:
    """New events wait longer than promised, no wagon is left for them, and publishers are refused."""
    ready = asyncio.Event()

    async def handle(n: int) -> None:
        await ready.wait()

    async def main() -> None:
        live = made(
            "slow", handle, limit=Volume(20) | Wait(0.5), wagons=2, at_cap="refuse", handler_timeout=600, spares=0
        )
        async with live.process() as train:
            await live.is_seen()
            assert not live.alerts()
            with pytest.raises(TrainFull):
                await train.publish_many(range(100))
            await live.fires("EventwagonWaitAbovePromise", "EventwagonCapReached", "EventwagonEventsRefused")
            ready.set()
            await live.resolves()

    asyncio.run(main())


def test_an_observer_that_has_gone(made: Made) -> None:
    async def handle(n: int) -> None: ...

    async def main() -> None:
        live = made("unobserved", handle)
        async with live.process("works", observe=False):
            async with live.process("observes", work=False):
                await live.is_seen()
                await live.resolves()
            await live.fires("EventwagonObserverSilent")
            async with live.process("another", work=False):
                await live.resolves()

    asyncio.run(main())


def test_a_train_whose_only_process_has_gone(made: Made) -> None:
    async def handle(n: int) -> None: ...

    async def main() -> None:
        live = made("deserted", handle)
        async with live.process() as train:
            await live.is_seen()
            await train.pause("so that events are left")
            await train.publish_many(range(5))
            left = 'sum(eventwagon_events_outstanding{eventwagon_train="deserted"}) == 5'
            await live.until("they are seen", lambda: bool(live.prometheus.query(left)))
            assert not live.alerts()
        await live.fires("EventwagonObserverSilent")
        async with live.process("again") as train:
            await train.resume()
            await live.resolves()

    asyncio.run(main())


def test_one_of_two_observers_is_enough(made: Made) -> None:
    """Whoever reports, and while another one takes over."""

    async def handle(n: int) -> None: ...

    async def main() -> None:
        live = made("relieved", handle)
        async with live.process("works", observe=False), live.process("second", work=False):
            async with live.process("first", work=False):
                await live.is_seen()
                await live.resolves()
            await live.goes_on(10)  # the alert would have come within its 3 s and two evaluations
            await live.is_seen()
            assert not live.alerted(15)

    asyncio.run(main())


def test_a_train_that_was_removed_alerts_nobody(made: Made) -> None:
    """Its processes have ended; a publisher is still connected."""

    async def handle(n: int) -> None: ...

    async def main() -> None:
        live = made("removed", handle)
        async with live.process("web", observe=False, work=False) as web:
            async with live.process():
                await live.is_seen()
                await web.publish_many(range(20))
                await live.has_settled(20)
            await web.remove()
            await live.goes_on(10)
            assert not live.alerted(15)

    asyncio.run(main())


def test_a_wagon_that_does_not_drain(made: Made) -> None:
    async def handle(n: int) -> None: ...

    async def main() -> None:
        live = made("stuck", handle, limit=Volume(10))
        async with live.process() as train:
            await live.is_seen()
            await train.pause("maintenance", wagon=1)
            await train.publish_many(range(15))
            await live.fires("EventwagonWagonStuckDraining")
            await train.resume(wagon=1)
            await live.resolves()

    asyncio.run(main())


def test_events_that_are_rejected(made: Made) -> None:
    async def handle(n: int) -> None:
        raise Reject("never")

    async def main() -> None:
        live = made("rejected", handle)
        async with live.process() as train:
            await live.is_seen()
            counted = 'eventwagon_dead_letters{eventwagon_train="rejected"}'
            await live.until("dead letters are counted", lambda: bool(live.prometheus.query(counted)))
            await train.publish_many(range(3))
            await live.fires("EventwagonDeadLettersRising")
            await live.resolves()  # they are kept, and become no more
            assert list(live.prometheus.query(counted).values()) == [3]

    asyncio.run(main())


def test_a_service_that_is_away(made: Made) -> None:
    away = True

    async def handle(n: int) -> None:
        if away:
            raise ConnectionError("no service")

    async def main() -> None:
        nonlocal away
        breaker = Breaker(last=5, least=3, sparse=0.0, pause=0.1, pause_most=0.5)
        live = made("broken", handle, breaker=breaker, attempts=1000)
        async with live.process() as train:
            await live.is_seen()
            await train.publish_many(range(10))
            await live.fires("EventwagonBreakerOpen")
            away = False
            await live.resolves()

    asyncio.run(main())


LOCKER = """
import sqlite3, sys
sqlite3.connect(sys.argv[1], isolation_level=None).execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """By another process, which writes to this file and does not end its transaction."""
    command = [sys.executable, "-c", LOCKER, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            other.communicate()


def test_publishers_that_have_to_wait(made: Made, tmp_path: Path) -> None:
    async def handle(n: int) -> None: ...

    async def main() -> None:
        live = made("held", handle)
        async with live.process("observes") as other, live.process("web", observe=False, work=False) as web:
            await live.is_seen()
            await web.publish(0)
            with locked(tmp_path / "trains" / "held" / "v1.db"):
                publishing = asyncio.create_task(web.publish(1, timeout=300))
                await live.until("it fires", lambda: "EventwagonPublishersHeld" in live.alerts())
            await publishing
            await live.resolves()
            assert other.manifest.active is not None

    asyncio.run(main())
