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
from ..display.text import TRACEBACK_MOST, innermost, parts_of, said, without_values
from ..errors import Defect

_logger = logging.getLogger("eventwagon")

_EVERY = 60.0
"""Seconds between two records of the same kind."""
_KINDS_MOST = 1000
_PACKAGE = __name__.partition(".")[0]
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ERRORS_MOST = 200
_FRAMES_MOST = 2000
"""The most errors and frames of a traceback that is logged whole."""
_FIRST, _LAST = 20, 40
"""The frames that are shown of a longer one."""


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

    def warn(self, kind: Hashable, what: str) -> None:
        """Other code has disturbed one of the tasks, which goes on. It is counted like an exception, and logged at
        WARNING once a minute for each kind."""
        self.caught += 1
        held_back = self._seldom.due(kind)
        if held_back is not None:
            more = f" ({held_back} more of this kind since the last line)" if held_back else ""
            log_safely(_logger, logging.WARNING, "%s: %s%s", self._where, what, more)

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
    return any(issubclass(type(one), KeyboardInterrupt) for one in _with_causes(error, lambda _: ()))


def kind_of(error: BaseException) -> Hashable:
    """What distinguishes one failure from another: its type, and the place where it was raised."""
    place = traceback_of(error)
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return type(error), None if place is None else (place.tb_frame.f_code, place.tb_lineno)


def is_long(error: BaseException, place: TracebackType | None = None) -> bool:
    """Whether the printed error would be too long, even endless: its causes, the parts of its groups, its frames. It is
    counted as printing does: parts that a group holds twice are printed twice. May raise."""
    met, left = set[int](), [error]
    errors = frames = 0
    while left:
        one = left.pop()
        parts = parts_of(one)
        if parts and getattr(type(one), "exceptions", None) is not vars(BaseExceptionGroup)["exceptions"]:
            return True  # its class says what is in it, perhaps itself
        at = place if one is error and place is not None else traceback_of(one)
        while at is not None and frames <= _FRAMES_MOST:
            frames += 1
            at = at.tb_next
        errors += 1
        if errors + len(left) + len(parts) > _ERRORS_MOST or frames > _FRAMES_MOST:
            return True
        left += parts
        if id(one) not in met:
            met.add(id(one))
            cause, context = one.__cause__, one.__context__
            left += [each for each in (cause, None if context is cause else context) if each is not None]
    return False


def _shortened(place: TracebackType | None) -> TracebackType | None:
    """The first and the last frames of a long traceback."""
    frames: list[TracebackType] = []
    while place is not None:
        frames.append(place)
        place = place.tb_next
    if len(frames) <= _FIRST + _LAST:
        return frames[0] if frames else None
    rest = frames[-_LAST]
    for at in reversed(frames[:_FIRST]):
        rest = TracebackType(rest, at.tb_frame, at.tb_lasti, at.tb_lineno)
    return rest


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

    A stand-in replaces an error whose text can't be printed, is too long, or contains control characters, secrets, or
    input that a check rejected: nobody may break, fill or forge a log by what they send, and no log may contain a
    password.
    """
    place = place or traceback_of(error)
    left_out = "what is not for a log is left out"
    try:
        if is_long(error, place):
            raise OverflowError
        text = "".join(traceback.format_exception(type(error), error, place))
        if len(text) > TRACEBACK_MOST:
            raise OverflowError
        text.encode()
        if not _CONTROLS.search(text) and redacted(text) == text and not _quotes(error):
            return type(error), error, place
    except OverflowError:
        left_out = "the rest is too long for a log"
        place = _shortened(place)
    except Exception:  # noqa: BLE001, S110 - a user's exception may do anything when it is printed
        pass
    return RuntimeError, RuntimeError(f"{said(error)}{_cause_of(error)} ({left_out})"), place


def _cause_of(error: BaseException) -> str:
    """The error that a stand-in's error came from, in words."""
    try:
        cause = error.__cause__
        if cause is None and not error.__suppress_context__:
            cause = error.__context__
        return "" if cause is None else f", from {said(cause)}"
    except Exception:  # noqa: BLE001 - the user's class may define the attribute
        return ""
