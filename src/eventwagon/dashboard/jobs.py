"""What somebody at the dashboard has asked for, and what became of it. It does what the commands `switch`, `drain`,
`pause`, `resume` and `dead` do."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from ..connection import Connection
from ..display.text import said
from ..errors import EventwagonError
from ..runtime.bulkhead import Bulkhead
from ..views.steering import (
    NotConfirmed,
    Outcome,
    drained,
    given_up,
    heeded,
    in_the_way,
    in_wagons,
    resumed,
    switched,
)
from .dead_orders import DeadOrder, Incomplete, carry_out
from .places import Place

_KEPT = 50
"""The jobs that are remembered, the newest."""
AT_ONCE = 10
"""The most jobs of one verb that are under way."""
_SWITCH, _PAUSE, _DRAIN = 30.0, 5.0, 3600.0
"""Seconds after which a job waits no longer; what was asked for goes on by itself."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for."""

    train: str
    verb: str
    wagon: int | None
    publishing: bool
    reason: str
    by: str
    dead: DeadOrder | None = None
    """Which dead letters are meant, with `retry` and `drop`."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """An order, and what became of it. `state`: `running`, `done`, `failed`, or `waiting`: it was not done in time, and
    goes on by itself."""

    id: str
    train: str
    verb: str
    wagon: int | None
    by: str
    reason: str
    state: str
    text: str
    began_at: float
    ended_at: float | None


class _Waiting(Exception):
    """It was not done in time, and goes on by itself."""


class _Failed(Exception):
    """It was not done."""


Tell = Callable[[str], None]


class Jobs:
    """The newest jobs of all trains."""

    def __init__(self, place: Place) -> None:
        self.version = 0
        """Goes up with each change."""
        self._place = place
        self._bulkhead = Bulkhead("dashboard")
        self._jobs: dict[str, Job] = {}

    def running(self, verb: str) -> int:
        """How many of this verb are under way."""
        return sum(job.state == "running" and job.verb == verb for job in self._jobs.values())

    def newest_first(self) -> list[Job]:
        """All that are remembered."""
        return list(reversed(self._jobs.values()))

    def new(self, order: Order) -> Job:
        """A job for this order; `run` carries it out."""
        job = Job(
            id=secrets.token_hex(8),
            train=order.train,
            verb=order.verb,
            wagon=order.wagon,
            by=order.by,
            reason=order.reason,
            state="running",
            text="asked for",
            began_at=time.time(),
            ended_at=None,
        )
        self._jobs[job.id] = job
        ended = [each.id for each in self._jobs.values() if each.state != "running"]
        for old in ended[: max(0, len(self._jobs) - _KEPT)]:
            del self._jobs[old]
        self.version += 1
        return job

    async def run(self, job: Job, order: Order) -> None:
        """Carry it out. What goes wrong is told by the job."""

        def tell(text: str) -> None:
            self._change(job.id, text=text)

        state, text = "failed", "the dashboard was ended meanwhile"
        try:
            async with self._place.connection(order.train) as c:
                outcome = await _VERBS[order.verb](c, order, tell)
            state, text = "done", "; ".join((outcome.text, *outcome.notes))
        except _Waiting as e:
            state, text = "waiting", str(e)
        except (_Failed, EventwagonError) as e:
            text = str(e)
        except Exception as e:  # noqa: BLE001 - a driver of another package may raise anything
            self._bulkhead.report(f"{order.verb} of train {order.train}", e)
            text = said(e)
        finally:
            self._change(job.id, state=state, text=text, ended_at=time.time())

    def _change(self, job_id: str, **changes: object) -> None:
        if (job := self._jobs.get(job_id)) is not None:
            self._jobs[job_id] = msgspec.structs.replace(job, **changes)
            self.version += 1


async def _switch(c: Connection, order: Order, tell: Tell) -> Outcome:
    old, new = await _switched(c, order, tell)
    return Outcome(switched(c, old, new))


async def _switched(c: Connection, order: Order, tell: Tell) -> tuple[int, int]:
    old = await c.request_switch(order.reason, by=order.by)
    tell("the switch is requested")
    try:
        async with asyncio.timeout(_SWITCH):
            new = await c.wait_answered()
    except TimeoutError:
        raise _Waiting(f"not switched within {_SWITCH:g} s; the request stays. {await in_the_way(c)}") from None
    if new == old:
        raise _Failed(await given_up(c))
    return old, new


async def _drain(c: Connection, order: Order, tell: Tell) -> Outcome:
    old, _ = await _switched(c, order, tell)
    waiting = asyncio.create_task(c.wait_drained(old))
    try:
        async with asyncio.timeout(_DRAIN):
            while not waiting.done():
                tell(await in_wagons(c, old))
                await asyncio.wait([waiting], timeout=1.0)
        await waiting
    except TimeoutError:
        raise _Waiting(f"not drained within {_DRAIN / 60:g} min: {await in_wagons(c, old)}") from None
    finally:
        waiting.cancel()
    return Outcome(drained(c, old))


async def _pause(c: Connection, order: Order, tell: Tell) -> Outcome:
    await c.pause(order.reason, wagon=order.wagon, publishing=order.publishing, by=order.by)
    tell("paused; waits until every process has stopped handing out")
    try:
        return await heeded(c, order.wagon, _PAUSE)
    except NotConfirmed as e:
        raise _Waiting(str(e)) from None


async def _resume(c: Connection, order: Order, tell: Tell) -> Outcome:
    return resumed(c, order.wagon, await c.resume(order.reason, wagon=order.wagon, by=order.by))


async def _dead(c: Connection, order: Order, tell: Tell) -> Outcome:
    assert order.dead is not None  # noqa: S101 - for the type checker
    tell("counts them again, then begins")
    try:
        return Outcome(await carry_out(c, order.verb, order.dead, order.reason, order.by))
    except Incomplete as e:
        raise _Failed(str(e)) from None


_VERBS: Mapping[str, Callable[[Connection, Order, Tell], Awaitable[Outcome]]] = {
    "switch": _switch,
    "pause": _pause,
    "resume": _resume,
    "drain": _drain,
    "retry": _dead,
    "drop": _dead,
}
VERBS = frozenset({"switch", "pause", "resume", "drain"})
"""What can be done to a train."""
OF_WAGONS = frozenset({"pause", "resume"})
"""What can be done to one wagon, too."""
