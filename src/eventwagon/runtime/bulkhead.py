"""Bulkheads: a long task goes on when something that it calls fails in an unexpected way."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import traceback
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from types import TracebackType

from ..display.redaction import redacted
from ..display.text import innermost, parts_of, said, without_values
from ..errors import Defect

_logger = logging.getLogger("eventwagon")

_EVERY = 60.0
"""Seconds between two records of the same kind."""
_KINDS_MOST = 1000
_PACKAGE = __name__.partition(".")[0]
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def traceback_of(error: BaseException) -> TracebackType | None:
    """The error's traceback, whatever its class makes of that attribute."""
    found: object = vars(BaseException)["__traceback__"].__get__(error)
    return found if isinstance(found, TracebackType) else None


ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


class Seldom:
    """Decides for each kind of repeated event whether to record it now: at first, then once in `every` seconds.

    `clock` gives seconds that only grow.
    """

    def __init__(self, every: float = _EVERY, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every
        self._clock = clock
        self._known: dict[Hashable, tuple[float, int]] = {}
        """By kind: when it was last recorded, and how often it was held back since."""

    def due(self, kind: Hashable) -> int | None:
        """How many of this kind were held back since the last one that was recorded; None: hold back this one, too."""
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
    """Takes the unexpected exceptions of one process's long tasks, so that the tasks go on.

    Each is counted, and logged at ERROR with its traceback: once a minute for each kind (a step, a class, and the place
    where it was raised). `where` begins each line, for example with the train.
    """

    def __init__(self, where: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._where = where
        self._seldom = Seldom(clock=clock)
        self.caught = 0
        """How many there were."""
        self.interrupted = False
        """A handler was interrupted (KeyboardInterrupt): workers end at once, without waiting for the events they
        handle."""
        self.trouble = ""
        """The last defect of eventwagon among them; empty if there was none."""

    def report(self, step: str, error: BaseException) -> None:
        """`step` raised this. Raises nothing itself."""
        self.caught += 1
        if isinstance(error, Defect):
            self.trouble = f"a defect in eventwagon: {step}: {said(error)}"
        held_back = self._seldom.due((step, kind_of(error)))
        if held_back is not None:
            more = f" ({held_back} more of this kind since the last line)" if held_back else ""
            log_safely(
                _logger,
                logging.ERROR,
                "%s: %s raised %s%s",
                self._where,
                step,
                said(error),
                more,
                exc_info=shown(error),
            )

    def call(self, step: str, function: Callable[[], object]) -> None:
        """Call a function of the user's. Whatever it raises is reported, except KeyboardInterrupt."""
        try:
            function()
        except BaseException as e:
            if passes(e):
                raise
            self.report(step, e)


def log_safely(
    logger: logging.Logger, level: int, message: str, *arguments: object, exc_info: ExcInfo | None = None
) -> None:
    """Log a line. If a logging handler or filter of the user's raises, that is ignored."""
    with suppress(Exception):
        logger.log(level, message, *arguments, exc_info=exc_info)


def is_closed() -> bool:
    """Whether no event loop runs here any more because the coroutine is being closed: nothing can be repaired or
    reported."""
    return asyncio._get_running_loop() is None


def is_cancelled() -> bool:
    """Whether somebody has cancelled the current task. If not, a CancelledError that it gets is a stray one: something
    that it waited for was cancelled, which is a failure like any other."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def is_ours(error: BaseException) -> bool:
    """Whether a long task must end after this error: the task itself is cancelled, closed or interrupted."""
    if is_closed():
        return True
    if issubclass(type(error), asyncio.CancelledError):
        return is_cancelled()
    return passes(error) or (issubclass(type(error), GeneratorExit) and _closes(error))


def _closes(error: BaseException) -> bool:
    """Whether this GeneratorExit closes our own coroutine: then it is raised where that waits. If a function that we
    called raised it, it comes from other code."""
    frame = innermost(traceback_of(error))
    return frame is None or str(frame.f_globals.get("__name__", "")).partition(".")[0] == _PACKAGE


def passes(error: BaseException) -> bool:
    """Whether no bulkhead may stop this error: somebody interrupts the program."""
    parts = parts_of(error)
    return any(map(passes, parts)) if parts else issubclass(type(error), KeyboardInterrupt)


def kind_of(error: BaseException) -> Hashable:
    """What distinguishes one failure from another: its type, and the place where it was raised."""
    place = traceback_of(error)
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return type(error), None if place is None else (place.tb_frame.f_code, place.tb_lineno)


def _is_endless(error: BaseException) -> bool:
    """Whether an exception group in it may contain itself, because its class defines `exceptions`."""

    def may(one: BaseException) -> bool:
        own = getattr(type(one), "exceptions", None) is not vars(BaseExceptionGroup)["exceptions"]
        return own and bool(parts_of(one))

    return any(map(may, _with_causes(error, lambda one: (one.__cause__, one.__context__))))


def _quotes(error: BaseException) -> bool:
    """Whether one of the errors that would be printed quotes the input that it rejected. May raise."""

    def printed(one: BaseException) -> tuple[BaseException | None]:
        return (one.__cause__ if one.__suppress_context__ else one.__cause__ or one.__context__,)

    return any(without_values(one) is not None for one in _with_causes(error, printed))


def _with_causes(
    error: BaseException, causes: Callable[[BaseException], tuple[BaseException | None, ...]]
) -> Iterator[BaseException]:
    """The error, the parts of groups, and what `causes` returns for each; every one once."""
    met, left = set[int](), [error]
    while left:
        one = left.pop()
        if id(one) not in met:
            met.add(id(one))
            yield one
            left += parts_of(one)
            left += [each for each in causes(one) if each is not None]


def shown(error: BaseException, place: TracebackType | None = None) -> ExcInfo:
    """The error as logging takes it (`exc_info`), with the traceback from `place` on.

    A stand-in replaces an error whose text can't be printed, or contains control characters, secrets, or input that a
    check rejected: nobody may break or forge a log by what they send, and no log may contain a password.
    """
    place = place or traceback_of(error)
    try:
        if _is_endless(error):
            raise RecursionError
        text = "".join(traceback.format_exception(type(error), error, place))
        text.encode()
        is_plain = not _CONTROLS.search(text) and redacted(text) == text and not _quotes(error)
    except Exception:  # noqa: BLE001 - a user's exception may do anything when it is printed
        is_plain = False
    if is_plain:
        return type(error), error, place
    return RuntimeError, RuntimeError(f"{said(error)} (what is not for a log is left out)"), place
