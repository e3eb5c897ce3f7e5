"""Agrees with the other processes on how much of each budget this one holds.

Each process checks in under a name of its own with what it holds (`Member.budgets`), and reads what the others say.
`policy.budgets` says why they never use too much together. A check-in is a lease: a process that can't renew it in time
begins nothing more under its budgets, and cuts short what runs under a concurrency budget, before others may count it
as gone.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from ..contracts.registry import BudgetPart, Member, Registry
from ..errors import Unavailable
from ..policy.budgets import Claim, due, granted
from .budgets import ChannelBudget, Part, Slots, Tokens
from .bulkhead import is_ours
from .runtime import Runtime, Steps, report_failure, why_failed
from .tasks import kept_up

SHARED = "0budgets"
"""No train can have this name, since it begins with a digit. It has members and nothing else: those that hold budgets
which several trains may share."""
_LEASE = 0.9
"""The part of `member_ttl` for which a process uses what it has said that it holds: it stops before others may count it
as gone."""
_TO_LEAVE = 2.0
"""Seconds that giving everything up may take when the process leaves."""
_SOON = 0.02
"""The part of `member_ttl` after which a process looks again that has just changed something."""
_HUNGRY = 0.1
"""The same for one that wants more than it holds."""
_STEADY = 0.2
"""The same for the others: how soon they give up what others are due."""
_UNTAKEN = 0.15
"""The part of `member_ttl` for which units that others are due must be left before this process takes them: longer than
those that want them pause between two looks."""
_STEP = "sharing budgets"
_OF_BUDGETS = "/budgets/"
_MANY = 1e9
"""More units than any budget has."""


def budget_member(name: str) -> str:
    """A name under which a process says what it holds of budgets. Another one at each call, so that two processes with
    the same name (`working(owner=…)`) do not take what both hold for what one of them holds."""
    return f"{name}{_OF_BUDGETS}{os.urandom(4).hex()}"


def holds_for(member: str, name: str) -> bool:
    """Whether this is a check-in of what that process holds of budgets."""
    return member.rpartition("/")[0] + "/" == f"{name}{_OF_BUDGETS}"


@asynccontextmanager
async def agreed_budgets(runtime: Runtime, registry: Registry) -> AsyncIterator[Mapping[str, ChannelBudget]]:
    """The budgets of the program's handlers, by the channel's name, on which this process agrees with others while
    entered. `registry` is open. Leave it when the last handler has ended."""
    own: dict[str, Part] = {}
    shared: dict[str, Part] = {}
    budgets: dict[str, ChannelBudget] = {}
    for channel, handler in runtime.handlers.items():
        options, name = handler.options, channel or runtime.train
        parts: list[Part] = [*_parts(own, name, options.concurrency, options.rate, "of ")]
        for budget in options.budget:
            parts += _parts(shared, budget.name, budget.concurrency, budget.rate, "")
        if handler.elsewhere is not None:
            parts.append(handler.elsewhere.room(channel))
        if parts:
            budgets[channel] = ChannelBudget(parts)
    async with AsyncExitStack() as stack:
        for scope, held in ((runtime.train, own), (SHARED, shared)):
            if held:
                await stack.enter_async_context(BudgetShares(runtime, registry, scope, held))
        yield budgets


def _parts(known: dict[str, Part], name: str, concurrency: int | None, rate: float | None, of: str) -> Iterable[Part]:
    if concurrency is not None:
        key = f"{name}/concurrency"
        yield known.setdefault(key, Slots(f"concurrency={concurrency} {of}{name}", concurrency))
    if rate is not None:
        key = f"{name}/rate"
        yield known.setdefault(key, Tokens(f"rate={rate:g}/s {of}{name}", rate))


class BudgetShares:
    """Keeps one process's parts, by key, in step with the other processes that say something of them in `scope`, a
    train's name or `SHARED`. Enter it for as long as they are used."""

    def __init__(self, runtime: Runtime, registry: Registry, scope: str, parts: Mapping[str, Part]) -> None:
        self._runtime = runtime
        self._registry = registry
        self._scope = scope
        self._parts = parts
        self._name = budget_member(runtime.name or f"{runtime.train}-{os.getpid()}")
        self._ttl = runtime.settings.member_ttl
        self._time = asyncio.get_running_loop().time
        self._woken = asyncio.Event()
        self._said: dict[str, BudgetPart] = {}
        """What the registry has of this process, as far as it knows."""
        self._renew_at = -math.inf
        self._until = -math.inf
        """When the lease ends."""
        self._doubtful_until = -math.inf
        """Until then an earlier check-in, of which nothing is known, may still take effect: nothing is asked for."""
        self._wants: dict[str, float] = {}
        self._left_since: dict[str, float] = {}
        """Since when, at each look, there were units that nobody held."""
        self._timer: asyncio.TimerHandle | None = None
        self._steps = Steps(runtime)
        self._again = False
        """Something was asked for in vain, or changed: look again soon."""
        for part in parts.values():
            part.on_need = self._woken.set

    async def __aenter__(self) -> BudgetShares:
        self._task = asyncio.create_task(kept_up(self._run, _STEP, self._runtime.bulkhead))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        for part in self._parts.values():
            part.grant(0.0)
        if self._said and not any(part.in_use for part in self._parts.values()):  # else it expires by itself
            try:
                async with asyncio.timeout(_TO_LEAVE):
                    await self._registry.check_in(self._scope, Member(name=self._name), ttl=0)
            except BaseException as e:
                if is_ours(e):
                    raise
                report_failure(self._runtime, _STEP, why_failed(self._runtime, _STEP, e))

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            with self._steps.going_on(_STEP):
                await self._round()
            await self._pause()

    async def _pause(self) -> None:
        """Wait until something is to be done: at least a moment, so that many changes cost one look."""
        luck = 0.75 + 0.5 * self._runtime.rng.random()
        if self._steps.has_failed(_STEP):
            await asyncio.sleep(self._ttl * _HUNGRY * luck)
            return
        if self._again:
            await asyncio.sleep(self._ttl * _SOON * luck)
            return
        is_idle = not self._said and not self._is_needed()
        hungry = any(part.is_short and part.held < part.of for part in self._parts.values())
        pause = None if is_idle else self._ttl * (_HUNGRY if hungry else _STEADY) * luck
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._woken.wait()
                await asyncio.sleep(0)

    # --- one round ------------------------------------------------------------------------------

    async def _round(self) -> None:
        """Look, say what is held and asked for, and look again before using more."""
        self._again = False
        if self._time() >= self._until:
            self._lose()
        if not self._is_needed():
            await self._let_go()
            return
        others = await self._look()
        asked = {key: self._ask(key, part, others.get(key, {})) for key, part in self._parts.items()}
        said = {
            key: BudgetPart(max(asked[key], part.held, part.in_use), self._wants[key], part.of)
            for key, part in self._parts.items()
        }
        if said != self._said or self._time() >= self._renew_at:
            await self._check_in(said)
        if any(asked[key] > part.held for key, part in self._parts.items()):
            others = await self._look()
            if self._time() >= self._until:  # what was left then, others may have taken since
                return
            for key, part in self._parts.items():
                self._grant(part, asked[key], others.get(key, {}))

    def _is_needed(self) -> bool:
        """Something is used, owed or wanted, or was a short time ago."""
        now = self._time()
        return any(
            part.in_use or part.owes or part.is_short or now - max(part.used_at, part.refused_at) < self._ttl
            for part in self._parts.values()
        )

    async def _let_go(self) -> None:
        """Hold nothing, and say so; from then on nothing is called until an event waits."""
        self._left_since.clear()
        for part in self._parts.values():
            part.grant(0.0)
        if self._said:
            await self._check_in({})

    async def _look(self) -> dict[str, dict[str, BudgetPart]]:
        """What the others say, by key and name."""
        async with self._in_time():
            members = await self._registry.members(self._scope)
        found: dict[str, dict[str, BudgetPart]] = {}
        for member in members:
            for key, part in member.budgets.items() if member.name != self._name else ():
                if part.of > 0 and min(part.held, part.wants) >= 0 and math.isfinite(part.of + part.held + part.wants):
                    found.setdefault(key, {})[member.name] = part
        return found

    def _ask(self, key: str, part: Part, others: Mapping[str, BudgetPart]) -> float:
        """How much to say that is held. What others are due is given up at once."""
        of, unit = _size(part, others)
        wants = _up(part.wants() / unit)
        self._wants[key] = wants * unit
        claims = {name: Claim(_up(other.held / unit), _up(other.wants / unit)) for name, other in others.items()}
        held = _down(part.held / unit)
        mine = Claim(max(held, _up(part.in_use / unit)), wants)
        claims[self._name] = mine
        total, turn = _down(of / unit), int(self._runtime.clock() / part.turn(of))
        left = total - sum(claim.held for claim in claims.values())
        now = self._time()
        since = self._left_since[key] = min(now, self._left_since.get(key, now)) if left > 0 else math.inf
        patient = now - since >= self._ttl * _UNTAKEN
        asked = due(total, self._name, claims, turn=turn, patient=patient)
        if asked < held:
            part.grant(asked * unit)
        elif held < asked >= mine.held and self._time() >= self._doubtful_until:
            return asked * unit
        return part.held

    def _grant(self, part: Part, asked: float, others: Mapping[str, BudgetPart]) -> None:
        """Use what is left of what was asked for, as the second look has it."""
        if asked <= part.held:
            return
        of, unit = _size(part, others)
        taken = sum(_up(other.held / unit) for other in others.values())
        wanted, held = _down(asked / unit), _down(part.held / unit)
        units = granted(_down(of / unit), wanted, held, taken)
        self._again = self._again or units < wanted
        if units > held:
            part.grant(units * unit)

    async def _check_in(self, said: dict[str, BudgetPart]) -> None:
        began, ttl = self._time(), self._ttl if said else 0.0
        try:
            async with self._in_time():
                await self._registry.check_in(self._scope, Member(name=self._name, budgets=said), ttl=ttl)
        except BaseException:
            self._doubtful_until = self._time() + self._ttl
            raise
        if self._time() >= self._until:  # the former lease has ended, and its timer may be late
            self._lose()
        self._said, self._renew_at = said, began + ttl / 3
        self._until = began + ttl * _LEASE if said else -math.inf
        for part in self._parts.values():
            part.until = self._until
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if said:
            self._timer = asyncio.get_running_loop().call_at(self._until, self._lose)

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Limit a call of the registry. Raises Unavailable."""
        try:
            async with asyncio.timeout(self._ttl):
                yield
        except TimeoutError:
            raise Unavailable(f"no answer from the registry within member_ttl={self._ttl:g} s") from None

    def _lose(self) -> None:
        """The lease has ended, or there is none: use nothing until others have been looked for again. Idempotent."""
        for part in self._parts.values():
            part.lose()


def _size(part: Part, others: Mapping[str, BudgetPart]) -> tuple[float, float]:
    """The size of the whole, the smallest that a program declares, and what of it is not divided any further."""
    of = min([part.of, *(other.of for other in others.values())])
    return of, part.unit(of)


def _up(units: float) -> int:
    return math.ceil(min(units, _MANY) - 1e-6)


def _down(units: float) -> int:
    return math.floor(min(units, _MANY) + 1e-6)
