"""Trains on SQLite that a real Prometheus scrapes, and waiting for what it says of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from eventwagon import Connection, Train
from eventwagon.metrics import Metrics, serving
from tests.servers.prometheus import PrometheusServer

PATIENCE = 60.0
"""Seconds for whatever should come, on a loaded machine."""


class Live:
    """One train, told from others by its name, with processes that Prometheus scrapes."""

    def __init__(self, prometheus: PrometheusServer, train: Train, directory: Path) -> None:
        self.prometheus = prometheus
        self.train = train
        self.name = train.name
        self.url = f"sqlite:///{directory}/trains"

    @asynccontextmanager
    async def process(
        self, name: str = "run", *, observe: bool = True, work: bool = True, url: str = ""
    ) -> AsyncIterator[Connection]:
        """What would be a process of its own: a connection, a meter, a port that is scraped. With neither role it only
        publishes."""
        metrics, job = Metrics(), f"{self.name}-{name}"
        async with (
            serving(metrics, 0) as port,
            self.train.connect(url or self.url, meter=metrics, listeners=()) as connection,
        ):
            self.prometheus.target(job, port)
            try:
                if observe or work:
                    async with connection.running(observe=observe, work=work):
                        yield connection
                else:
                    yield connection
            finally:
                self.prometheus.target(job, None)

    async def until(self, what: str, holds: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Return once it holds. It asks Prometheus, so it blocks: it is called in a thread."""
        try:
            async with asyncio.timeout(patience):
                while not await asyncio.to_thread(holds):
                    await asyncio.sleep(0.2)
        except TimeoutError:
            alerts = await asyncio.to_thread(self.prometheus.ask, "alerts")
            raise AssertionError(f"{self.name}: not within {patience:g} s: {what}\nalerts: {alerts}") from None

    def alerts(self) -> set[str]:
        """The names of those that fire for this train."""
        return {
            each["labels"]["alertname"]
            for each in self.prometheus.firing()
            if each["labels"]["eventwagon_train"] == self.name
        }

    async def fires(self, *alerts: str) -> None:
        """Return once exactly these fire for the train."""
        await self.until(f"{alerts} fire", lambda: self.alerts() == set(alerts))

    async def resolves(self) -> None:
        """Return once none fires for the train."""
        await self.until("none fires", lambda: not self.alerts())

    async def is_seen(self) -> None:
        """Return once Prometheus has the figures of an observer that reports on the train."""
        asked = f'eventwagon_wagons{{eventwagon_train="{self.name}",eventwagon_wagon_state="active"}} > 0'
        await self.until("an observer reports", lambda: bool(self.prometheus.query(asked)))

    async def has_settled(self, events: int) -> None:
        """Return once Prometheus has seen so many handlings of the train, and then that nothing is outstanding."""
        of = f'{{eventwagon_train="{self.name}"}}'
        handled = f"sum(messaging_process_duration_seconds_count{of}) >= {events}"
        await self.until(f"{events} are handled", lambda: bool(self.prometheus.query(handled)))
        outstanding = f"eventwagon_events_outstanding{of}"
        since = self.now() + 2  # of a look that saw that
        settled = f"sum({outstanding}) == 0 and on () max(timestamp({outstanding})) > {since:.3f}"
        await self.until("all is settled", lambda: bool(self.prometheus.query(settled)))

    async def goes_on(self, seconds: float) -> None:
        """Return once Prometheus has scraped the train for so many seconds more."""
        asked = f'max(timestamp(eventwagon_info{{eventwagon_train="{self.name}"}})) > {self.now() + seconds:.3f}'
        await self.until(f"it is scraped for {seconds:g} s", lambda: bool(self.prometheus.query(asked)))

    def alerted(self, seconds: int) -> set[str]:
        """The names of those that fired for this train at any time in the last seconds."""
        fired = f'ALERTS{{eventwagon_train="{self.name}",alertstate="firing"}}[{seconds}s]'
        return set(self.prometheus.query(f"count by (alertname) (count_over_time({fired}))"))

    def now(self) -> float:
        """The time by Prometheus's clock, in seconds since the epoch."""
        (now,) = self.prometheus.query("vector(time())").values()
        return now
