"""A train of real processes on SQLite, whose handlers note what they handled, where and with which code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from eventwagon import Connection, Train, Volume, Workers
from eventwagon.orchestrators.processes.subprocess import Subprocess

PATIENCE = 150.0


class Line(NamedTuple):
    """One event handled: by which process, in which wagon, by which revision of the code."""

    pid: str
    wagon: str
    revision: str
    number: str


class Place:
    """Where a train of real processes runs."""

    def __init__(self, directory: Path) -> None:
        self.url = f"sqlite:///{directory}/trains"
        self.processes = directory / "processes"
        self.handled = directory / "handled"
        self.handled.mkdir()

    def lines(self) -> list[Line]:
        found = sorted(self.handled.iterdir())
        return [Line(*line.split()) for file in found for line in file.read_text().splitlines()]

    @asynccontextmanager
    async def running(self, target: str, train: Train) -> AsyncIterator[tuple[Connection, Subprocess]]:
        orchestrator = Subprocess(target, url=self.url, directory=self.processes, grace=5.0)
        connection = train.connect(self.url, orchestrator=orchestrator, listeners=())
        async with asyncio.timeout(PATIENCE), connection as c, c.running():
            yield c, orchestrator


def orders(**settings: Any) -> Train:
    """The train of `tests.programs.versions` as its own processes declare it, with other settings of the observer's."""
    defaults: dict[str, Any] = {
        "limit": Volume(20),
        "workers": Workers(each=2),
        "observe_every": 0.05,
        "member_ttl": 2.0,
    }
    train = Train("orders", **{**defaults, "keep_warm": 1.0, "idle_after": 0.0, "grace": 5.0, **settings})

    @train.on("orders")
    async def handle(number: str) -> None:
        raise AssertionError("handled in the observer's process")

    return train


async def settled(true: Callable[[], object]) -> None:
    while not true():
        await asyncio.sleep(0.02)
