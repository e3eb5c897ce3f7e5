"""What the suite for orchestrators holds and watches on AWS: a train whose handlers note what they do in files."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path
from secrets import token_hex
from typing import Self

from eventwagon.brokers.sqs import SQSBroker
from eventwagon.event import DEAD, Channel, Event, new_ids
from eventwagon.orchestrator import WagonSpec
from tests.servers.moto import MotoServer

TRAIN, PROGRAM = "signups", "tests.programs.held:signups"


class Held:
    """The part of a harness that all of them have: the queues, and the handlers of `tests.programs.held`."""

    outlives = True
    warm = False
    idles = False
    revision = ""

    def __init__(self, server: MotoServer, directory: Path) -> None:
        self.url = server.url.replace("/ew?", f"/p{token_hex(4)}?") + "&poll=0.2"
        self.broker = SQSBroker.from_url(self.url)
        self.environment = {"EVENTWAGON_URL": self.url, "HELD": str(directory / "held")}
        self._held = directory / "held"
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._held.mkdir()
        await self._stack.enter_async_context(self.broker)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.let_go()
        await self._stack.aclose()

    async def spec(self, number: int, *, workers: int) -> WagonSpec:
        ingress, dead = Channel(TRAIN, number), Channel(TRAIN, number, DEAD)
        for channel in (ingress, dead):
            await self.broker.create(channel)
        return WagonSpec(
            train=TRAIN, number=number, unit=number, channels=(ingress,), dead_letters=dead, workers=workers
        )

    async def give(self, spec: WagonSpec, count: int) -> None:
        now = time.time()
        await self.broker.publish(spec.channels[0], [Event(new, "t", "s", now, b"{}") for new in new_ids(count, now)])

    def _count(self, name: str, number: int) -> int:
        try:
            return len((self._held / f"{name}-{number}").read_text().splitlines())
        except FileNotFoundError:
            return 0

    async def at_work(self, number: int) -> int:
        return self._count("began", number) - self._count("finished", number) - self._count("ended", number)

    async def finished(self, number: int) -> int:
        return self._count("finished", number)

    async def ended(self, number: int) -> int:
        return self._count("ended", number)

    async def incarnation(self, unit: int) -> object:
        raise NotImplementedError  # not warm: nobody asks

    async def let_go(self) -> None:
        (self._held / "free").touch()
