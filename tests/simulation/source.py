"""The flow that others write, as one process reads it: a reader that keeps the contract of a bridge's source."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Self

from eventwagon.bridge import Lag
from eventwagon.bridge import Record as Foreign
from eventwagon.errors import EventwagonError

from .flow import Place
from .gate import Gate
from .guests import DriversDefect

_FINISH = 3.0
"""Seconds for which it waits for the commit of what it has of a partition that it is to give up."""


class GatedSource:
    """Joins the group at its first read. A task of its own says from time to time that it lives, as clients do."""

    name = "sim://flow"

    def __init__(self, gate: Gate) -> None:
        flow = gate.process.world.flow
        assert flow is not None
        self._gate = gate
        self._flow = flow
        self._me = gate.process.name
        self._held: dict[str, Foreign] = {}
        """What was read and not committed, by position."""
        self._mine: set[Place] = set()
        self._leaving: dict[Place, float] = {}
        """What it is to give up, and since when."""
        self._beating: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._beating is None:
            return
        self._beating.cancel()
        await asyncio.wait([self._beating])
        with suppress(EventwagonError, DriversDefect):
            await self._gate.call("beat", partial(self._flow.leave, self._me))

    async def read(self, limit: int, wait: float) -> Sequence[Foreign] | None:
        """See Source."""
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat())
        held = list(self._held.values())
        given = await self._gate.call("take", partial(self._flow.take, self._me, held, limit))
        given = [each for each in given if (place := _place(each)) in self._mine and place not in self._leaving]
        self._held.update((each.position, each) for each in given)
        if not given:
            await asyncio.sleep(wait)
        return given

    async def commit(self, records: Sequence[Foreign]) -> None:
        """See Source."""
        await self._gate.call("commit", partial(self._flow.commit, self._me, records))
        for each in records:
            self._held.pop(each.position, None)

    async def peek(self, limit: int) -> Sequence[Foreign]:
        """Nobody asks."""
        raise NotImplementedError

    async def lag(self) -> Lag:
        """See Source."""
        return await self._gate.call("lag", self._flow.lag)

    async def _beat(self) -> None:
        while True:
            with suppress(EventwagonError, DriversDefect):  # it lives on, and says so the next time
                await self._say_alive()
            await asyncio.sleep(self._flow.idle / 4)

    async def _say_alive(self) -> None:
        held = list(self._held.values())
        mine, leaving, lost = await self._gate.call("beat", partial(self._flow.beat, self._me, held))
        self._mine = mine
        for each in held:
            if each.position in lost and self._held.get(each.position) is each:  # else it came again meanwhile
                del self._held[each.position]
        now = asyncio.get_running_loop().time()
        self._leaving = {place: self._leaving.get(place, now) for place in leaving}
        busy = {_place(each) for each in self._held.values()}
        over = [place for place, since in self._leaving.items() if place not in busy or now >= since + _FINISH]
        if over:
            await self._gate.call("beat", partial(self._flow.give_up, self._me, over))


def _place(record: Foreign) -> Place:
    partition, _, turn = record.token
    return partition, turn
