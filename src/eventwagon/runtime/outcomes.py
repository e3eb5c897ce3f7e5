"""What comes of one handling, and what a handler means by raising an exception."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ..display.text import parts_of, plain, said
from ..errors import Failed as SomeFailed
from ..errors import Reject, Retry, Snooze, check_pause
from ..event import Event
from .dead_letters import REJECTED
from .handler import Handler


class Emitting(Protocol):
    """What a handler emits by: the context of an event, or that of a batch."""

    @property
    def emitted(self) -> Sequence[tuple[str, Event]]:
        """What it has emitted, each with its channel's name."""
        ...

    def close(self) -> None:
        """The handler has ended: from now on nothing can be emitted."""
        ...


class Handled(NamedTuple):
    """The handler returned: store what it emitted, then settle its event. What was emitted includes the dead letters of
    events of a batch."""

    emitted: Sequence[tuple[str, Event]]


class Dead(NamedTuple):
    """No attempt can succeed: the event goes to the dead letters."""

    because: str
    unreadable: bool = False
    """Its data could not be decoded, so no handler saw it."""


class Failed(NamedTuple):
    """This attempt failed; another may succeed. `error` is what the handler raised, if it raised anything."""

    because: str
    error: BaseException | None = None
    after: float | None = None
    """The pause in seconds that the handler asked for."""


class Snoozed(NamedTuple):
    """The handler wants the event later; this does not count as an attempt."""

    after: float
    because: str


Outcome = Handled | Dead | Failed | Snoozed


HANDLED = Handled(())
"""The handler returned, and emitted nothing."""


MEANT = (Reject, Retry, Snooze, SomeFailed)
"""Exceptions by which handlers say something. One that is returned was meant to be raised."""


def meaning(error: BaseException) -> Outcome:
    """The outcome that a handler of batches means by this exception of one event."""
    return Failed(said(error), error) if issubclass(type(error), KeyboardInterrupt) else outcome_of(error, None)


def outcome_of(error: BaseException, context: Emitting | None) -> Outcome:
    """The outcome that a handler means by raising this."""
    if context is not None:
        context.close()
    if issubclass(type(error), KeyboardInterrupt):
        raise error
    try:
        match meant(error):
            case Reject() as reject:
                reason = said(reject).partition(": ")[2]
                return Dead(f"{REJECTED}: {reason}" if reason else f"{REJECTED} by its handler")
            case Snooze() as snooze:
                return Snoozed(check_pause("Snooze", snooze.after), plain(snooze.because) or "snoozed by its handler")
            case Retry() as retry:
                after = None if retry.after is None else check_pause("Retry", retry.after)
                return Failed(plain(retry.because) or "its handler asked for another attempt", after=after)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001, S110 - one that can't even be asked what it is, is a failure like any other
        pass
    return Failed(said(error), error)


def decided(handler: Handler, outcome: Outcome, *, expired: bool = False) -> Outcome:
    """The outcome of one event; a death if it failed with an error after which the handler's options exclude a retry.
    `expired`: it failed since it took longer than it may, which counts as a TimeoutError. Never raises, except
    KeyboardInterrupt."""
    if not isinstance(outcome, Failed):
        return outcome
    error = TimeoutError() if expired else outcome.error
    why = "" if error is None else _never_retried(handler, error)
    return Dead(f"{outcome.because} ({why})") if why else outcome


def _never_retried(handler: Handler, error: BaseException) -> str:
    options = handler.options
    if not options.dead_on and options.retry_on is None:
        return ""
    try:
        return options.never_retried(meant(error))
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - a user's class may do anything when it is asked about another
        return ""


def meant(error: BaseException) -> BaseException:
    """What a handler raised, without the groups that contain nothing else: a TaskGroup wraps what its tasks raise."""
    while len(parts := parts_of(error)) == 1:
        error = parts[0]
    return error
