"""Bulkheads: what a long task meets in what it calls, and what a listener raises, ends there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from .errors import Defect, explained
from .facts import Fact, Listener

_EVERY = 60.0
"""Seconds between two lines about the same."""
_logger = logging.getLogger("eventwagon")


class Bulkhead:
    """Where one process's long tasks leave the exceptions that they should not have met: each is counted, and logged with its
    traceback at ERROR, those of one kind once a minute."""

    def __init__(self, train: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._train = train
        self._clock = clock
        self._logged: dict[tuple[str, str], tuple[float, int]] = {}
        self.caught = 0
        """How many there were."""
        self.trouble = ""
        """The last defect of ours among them; empty while there was none."""

    def caught_in(self, step: str, error: BaseException) -> None:
        """`step` met this. Raises nothing."""
        self.caught += 1
        if isinstance(error, Defect):
            self.trouble = f"a defect in eventwagon: {step}: {explained(error)}"
        now, key = self._clock(), (step, type(error).__name__)
        last, left_out = self._logged.get(key, (-_EVERY, 0))
        if now - last < _EVERY:
            self._logged[key] = last, left_out + 1
            return
        if len(self._logged) > 1000:
            self._logged.clear()
        self._logged[key] = now, 0
        more = f" ({left_out} more since the last line)" if left_out else ""
        _logger.error("%s: %s raised %s%s", self._train, step, explained(error), more, exc_info=error)

    def call(self, step: str, function: Callable[[], object]) -> None:
        """Call a listener. What it raises is caught here."""
        try:
            function()
        except BaseException as e:
            if _passes(e):
                raise
            self.caught_in(step, e)


def is_ours(error: BaseException) -> bool:
    """Whether a long task must not go on after this: it is itself cancelled, closed or interrupted."""
    if asyncio._get_running_loop() is None:
        return True  # the loop is closed: what is left of the task is being collected
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return _passes(error) or isinstance(error, GeneratorExit)


def _passes(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(_passes, error.exceptions))
    return isinstance(error, KeyboardInterrupt)


class Telling:
    """All listeners as one. What one of them raises is logged, and keeps neither the others nor the caller from anything."""

    def __init__(self, train: str, listeners: Sequence[Listener]) -> None:
        self._listeners = list(listeners)
        self._bulkhead = Bulkhead(train)

    def __call__(self, fact: Fact) -> None:
        for listener in self._listeners:
            self._bulkhead.call(f"a listener ({_named(listener)})", partial(listener, fact))


def _named(listener: object) -> str:
    try:
        return str(getattr(listener, "__qualname__", None) or type(listener).__qualname__)
    except Exception:  # noqa: BLE001 - somebody's object
        return "of an unknown name"
