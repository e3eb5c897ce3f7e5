"""Bulkheads: a long task goes on when something that it calls fails in a way that nobody foresaw."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import traceback
from collections.abc import Callable, Hashable
from types import TracebackType

from .text import said

_EVERY = 60.0
"""Seconds between two records of the same kind."""
_KINDS_MOST = 1000
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Seldom:
    """Says of each thing that happens again and again whether it is time to record it: at first, then once in `every` s.

    `clock` gives seconds that only grow.
    """

    def __init__(self, every: float = _EVERY, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every
        self._clock = clock
        self._known: dict[Hashable, tuple[float, int]] = {}
        """By kind: when it was last recorded, and how often it was held back since."""

    def due(self, kind: Hashable) -> int | None:
        """How many of this kind were held back since the last that was due; None: hold back this one too."""
        now = self._clock()
        at, held_back = self._known.get(kind, (float("-inf"), 0))
        if now - at < self._every:
            self._known[kind] = at, held_back + 1
            return None
        if len(self._known) >= _KINDS_MOST:
            self._known.clear()
        self._known[kind] = now, 0
        return held_back


class Bulkhead:
    """Records failures that nobody foresaw, so that the task which met one can go on.

    The traceback is logged at ERROR, for one kind (the step and the place where it was raised) at most once a minute.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self.failures = 0
        """How many there were."""
        self._logger = logger
        self._seldom = Seldom()

    def report(self, step: str, error: BaseException) -> None:
        """`step` failed with `error`. Never raises."""
        self.failures += 1
        held_back = self._seldom.due((step, kind_of(error)))
        if held_back is not None:
            more = f" ({held_back} more of this kind in the last minutes)" if held_back else ""
            self._logger.error("%s failed in a way that should not happen%s", step, more, exc_info=shown(error))


def kind_of(error: BaseException) -> Hashable:
    """What tells one failure from another: its type, and the place where it was raised."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return type(error), None if place is None else (place.tb_frame.f_code, place.tb_lineno)


ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def shown(error: BaseException, place: TracebackType | None = None) -> ExcInfo:
    """The error as logging takes it (`exc_info`), with the traceback from `place` on. One whose text can't be printed, or
    holds control characters, is shown by a stand-in: no log is to be broken or forged by what somebody sent."""
    place = place or error.__traceback__
    try:
        text = "".join(traceback.format_exception(type(error), error, place))
        text.encode()
        is_plain = not _CONTROLS.search(text)
    except Exception:  # noqa: BLE001 - a user's exception may do anything when it is printed
        is_plain = False
    if is_plain:
        return type(error), error, place
    return RuntimeError, RuntimeError(f"{said(error)} (what can't be printed is left out)"), place


def cancelled() -> bool:
    """Whether somebody has cancelled the current task. If not, a CancelledError that it meets is a stray one: something
    that it waited for was cancelled, which is a failure like any other."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
