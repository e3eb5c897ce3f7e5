"""The simulation's event loop: virtual time, and callbacks that know whose they are.

Each callback runs in a context, and each context belongs to one simulated process (or to nobody: the simulation's own).
So a process can be stopped between any two of its steps as SIGSTOP would (its callbacks are parked), and killed there.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Coroutine
from contextvars import Context, ContextVar
from typing import Any, Never

from eventwagon.display.text import said
from eventwagon.testing.virtual_time import Deadlock, VirtualLoop

from .guests import is_thrown

_STILL = 200_000
"""Steps at one instant after which time counts as standing still: some loop of the program does not wait."""


class StandsStill(RuntimeError):
    """The program is busy without end at one instant of virtual time."""


class Actor:
    """Whatever can be stopped and killed: a simulated process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.frozen = False
        self.parked: list[asyncio.Handle] = []
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.steps = 0
        self.next_step = -1
        """Before this step `at_step` is called."""

    def at_step(self) -> None:
        """A step that was waited for is about to be made."""

    def freeze(self) -> None:
        """None of its callbacks runs until `thaw`."""
        self.frozen = True

    def thaw(self, loop: SimulationLoop) -> None:
        """Go on, in the order in which things became due."""
        self.frozen = False
        parked, self.parked = self.parked, []
        loop.again(parked)

    def kill(self) -> None:
        """None of its callbacks ever runs again: no clean-up either."""
        self.dead = True
        self.parked.clear()

    def exit(self, error: SystemExit) -> None:
        """A task of it has ended the process: an event loop lets that through."""
        self.kill()

    def bury(self) -> None:
        """Close what a killed one was at, once nothing can come of it any more."""
        for task in list(self.tasks):
            close(task)
        self.tasks.clear()


def whereabouts(task: asyncio.Task[Any]) -> str:
    """What a task is at."""
    coroutine: Any = task.get_coro()
    return str(coroutine.__qualname__)


def close(task: asyncio.Task[Any]) -> None:
    """Leave a task where it stands, once its loop is closed."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine: Any = task.get_coro()
    for _ in range(100):  # each clean-up that awaits is left at its next await
        try:
            coroutine.close()
            break
        except BaseException:  # noqa: BLE001, S112 - nobody is there to hear it
            continue


async def for_ever() -> Never:
    """Where a killed process stays."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError


PROCESS: ContextVar[Actor | None] = ContextVar("PROCESS", default=None)


class _Task(asyncio.Task[Any]):
    """A task whose hash is its number, not its address: sets of tasks keep one order in every run."""

    def __init__(self, coro: Coroutine[Any, Any, Any], number: int, **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class SimulationLoop(VirtualLoop):
    """A virtual loop that looks whose callback it runs. It knows no sockets, threads or signals."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self) -> None:
        super().__init__()
        self.unexpected: list[str] = []
        """Errors that nobody caught, or that a bulkhead held up though nothing in the scenario threw them."""
        self.foreign: list[str] = []
        """Those among them, and among what ended a process, that nothing in the scenario threw."""
        self._number = 0
        self._since_jump = 0
        self.set_task_factory(self._make)  # type: ignore[arg-type]
        self.set_exception_handler(self._note)

    def again(self, handles: list[asyncio.Handle]) -> None:
        self._ready.extend(handles)

    def _make(self, _: object, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        context: Context | None = options.get("context")
        actor = PROCESS.get() if context is None else context.get(PROCESS)
        self._number += 1
        task = _Task(coro, self._number, loop=self, **options)
        if actor is not None:
            actor.tasks[task] = None
            task.add_done_callback(actor.tasks.pop)
        return task

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        actor = PROCESS.get()
        if actor is None or not actor.dead:
            self.note(f"{context.get('message')}", error)

    def note(self, where: str, error: BaseException | None) -> None:
        """Something that should not have come as far as here."""
        text = f"{where}: {said(error)}" if error is not None else where
        self.unexpected.append(text)
        if error is None or not is_thrown(error):
            self.foreign.append(text)

    def _run_once(self) -> None:
        """As BaseEventLoop does, without a selector, and with an eye on whose callback it is."""
        ready, scheduled = self._ready, self._scheduled
        while scheduled and scheduled[0].cancelled():
            heapq.heappop(scheduled)._scheduled = False  # type: ignore[attr-defined]
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            if not scheduled:
                self._jump(None)
                raise Deadlock("nothing is due")  # unreachable: _jump raises, with the whereabouts of all tasks
            when = scheduled[0].when()
            if when > self._now:
                self._now = when
                self._since_jump = 0
        end = self._now + 1e-9
        while scheduled and scheduled[0].when() < end:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False  # type: ignore[attr-defined]
            ready.append(timer)
        self._since_jump += len(ready)
        if self._since_jump > _STILL:
            raise StandsStill(f"{self._since_jump} steps at {self._now:g} s and no end")
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle.cancelled():
                continue
            actor = handle._context.get(PROCESS)  # type: ignore[attr-defined]
            if actor is not None:
                if actor.dead:
                    continue
                if actor.frozen:
                    actor.parked.append(handle)
                    continue
                actor.steps += 1
                if actor.steps == actor.next_step:
                    actor.at_step()
                    if actor.dead:
                        continue
                    if actor.frozen:
                        actor.parked.append(handle)
                        continue
            try:
                handle._run()
            except SystemExit as e:
                if actor is None:
                    raise
                actor.exit(e)
