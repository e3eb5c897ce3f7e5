"""Every error that eventwagon raises, as one tree: what was wrong, where, what to do.

The docstring of each class says when it is raised and what the caller can do about it.
"""

from __future__ import annotations

from collections.abc import Mapping

from .display.redaction import redacted
from .display.text import said


class EventwagonError(Exception):
    """The root of all errors that eventwagon raises on purpose. Its text holds no secrets: passwords and tokens are
    replaced by `***`."""

    accepted: int = 0
    """How many of the leading events of a publishing call were stored."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(redacted(each) if isinstance(each, str) else each for each in args))


class UsageError(EventwagonError, ValueError):
    """The program used eventwagon incorrectly: a bad name, URL, setting or handler. Nothing was done."""


class DeclarationDiffers(UsageError):
    """Two programs declare the same train differently. Make them agree, or redeclare the train (`--redeclare`)."""


class EndedEarly(EventwagonError):
    """A connection, or `running`, ended before its `async with` block did, because its tasks were cancelled. The block
    is cancelled too, and claimed events are given back. Enter another one."""


class UnknownTrain(UsageError):
    """No train of that name has ever run at that URL. Check both, or start the train."""


# --- publishing ---------------------------------------------------------------------------


class PublishError(EventwagonError):
    """An event was not accepted, or possibly not. `accepted` counts the leading events that were."""

    def __init__(self, message: str, *, accepted: int = 0) -> None:
        super().__init__(message)
        self.accepted = accepted


class EventRefused(PublishError):
    """The broker will never store this event. Do not publish it again."""


class EventTooLarge(EventRefused):
    """The event is larger than `max_event_bytes`, or than the broker accepts."""


class TrainFull(PublishError):
    """The train is at its cap of wagons and `at_cap="refuse"`: slow down and try again later."""


class TrainPaused(PublishError):
    """The train is paused, and so is publishing (`eventwagon pause --publishing`): nothing was stored. Try again once
    it is resumed."""


class TrainRemoved(PublishError):
    """The train is being removed, or was removed: nothing was stored. A new connection founds it anew."""


class PublishTimeout(PublishError):
    """No wagon confirmed the events within the deadline. Publish again with the same ids."""


# --- raised by drivers of brokers ---------------------------------------------------------


class BrokerError(EventwagonError):
    """A broker's driver could not carry out a call."""


class Sealed(BrokerError):
    """The channel is sealed: it accepts no more events. The first `accepted` events of the call were stored; publish
    the rest to the active wagon."""

    def __init__(self, message: str, *, accepted: int = 0) -> None:
        super().__init__(message)
        self.accepted = accepted


class ChannelFull(BrokerError):
    """The channel has reached its `capacity`. The first `accepted` events of the call were stored."""

    def __init__(self, message: str, *, accepted: int = 0) -> None:
        super().__init__(message)
        self.accepted = accepted


class ChannelGone(BrokerError):
    """The channel does not exist, or no longer exists. Nothing was stored or created."""


class PublishUncertain(BrokerError):
    """The outcome is unknown: the events may have been stored. Try again with the same ids."""


class Unavailable(BrokerError):
    """The broker or registry can't be reached or is busy; nothing was stored. Try again later."""


class StorageBroken(BrokerError):
    """The storage is full, read-only, corrupt or of an unsuitable kind; the message says where and what to do."""


class Displaced(StorageBroken):
    """The place of a channel, or of a part of it, is taken by something that another program or a person wrote. It is
    never deleted."""


# --- raised by drivers of registries ------------------------------------------------------


class RegistryError(EventwagonError):
    """A registry's driver could not carry out a call."""


class Conflict(RegistryError):
    """The manifest has changed since it was read: read it again and decide again."""


class BrokenManifest(RegistryError):
    """A train's manifest can't be read: a newer eventwagon wrote it, or somebody edited it. The message says where it
    is kept and what to do. Running processes go on with the manifest that they know until it can be read again."""


# --- removing a train ---------------------------------------------------------------------


class RemovalRefused(EventwagonError):
    """The train can't be removed: events or dead letters are left, or processes are alive. The message says which."""


# --- dead letters -------------------------------------------------------------------------


class DeadLettersChanged(EventwagonError):
    """The dead letters have changed since they were counted. Nothing was done: look again."""


# --- bugs ---------------------------------------------------------------------------------


class Defect(Exception):
    """An internal rule of eventwagon is broken: a bug, please report it. Nothing was stored. It is not an
    EventwagonError, so that no handler of those treats it as a passing problem."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


# --- raised by handlers -------------------------------------------------------------------


AFTER_MOST = 43_200.0
"""The longest pause that a handler may ask for, in seconds: twelve hours, the most that every broker can delay an
event."""


class Reject(Exception):
    """Raised by a handler: this event can never be handled. It goes to the dead letters at once."""


class Retry(Exception):
    """Raised by a handler: this attempt failed; retry the event `after` seconds from now (None: the usual backoff). It
    counts as an attempt like any other failure. Raises UsageError if `after` is not a number from 0 to 43,200."""

    def __init__(self, after: float | None = None, because: str | BaseException = "") -> None:
        super().__init__(*([because] if because else []))
        self.after = None if after is None else check_pause("Retry", after)
        self.because = _reason(because)


class Snooze(Exception):
    """Raised by a handler: nothing failed, but it is too early; deliver the event again `after` seconds from now. This
    never counts as an attempt, however often. Raises UsageError if `after` is not a number from 0 to 43,200."""

    def __init__(self, after: float, because: str | BaseException = "") -> None:
        super().__init__(*([because] if because else []))
        self.after = check_pause("Snooze", after)
        self.because = _reason(because)


class Failed(Exception):
    """Raised by a handler of batches: these events failed, all others of the batch are handled. `errors` has an
    exception for the index of each payload that failed. Each is dealt with as if a handler of that event alone had
    raised it: `Reject`, `Retry` and `Snooze` keep their meaning, after any other the event is retried. Raises
    UsageError if `errors` is empty, or holds anything but exceptions by index."""

    def __init__(self, errors: Mapping[int, BaseException]) -> None:
        self.errors = _by_index(errors)
        first = [f"{index}: {said(error)}" for index, error in list(self.errors.items())[:3]]
        more = f" and {len(self.errors) - 3} more" if len(self.errors) > 3 else ""
        super().__init__(f"{'; '.join(first)}{more}")


def _by_index(errors: object) -> dict[int, BaseException]:
    example = 'Failed({3: ValueError("no such customer")})'
    if not issubclass(type(errors), Mapping) or not errors:
        raise UsageError(f"Failed: say which payloads failed, by their index in the list: {example}")
    found: dict[int, BaseException] = {}
    for index, error in errors.items():  # type: ignore[attr-defined]
        if type(index) is bool or not hasattr(type(index), "__index__") or index.__index__() < 0:
            raise UsageError(f"Failed: {index!r:.100} is no index of the list of payloads: {example}")
        if not issubclass(type(error), BaseException):
            raise UsageError(f"Failed: {error!r:.100} for payload {index!r:.20} is no exception: {example}")
        found[index.__index__()] = error
    return found


def _reason(because: object) -> str:
    """The reason as text; it may be given as an exception."""
    return said(because) if isinstance(because, BaseException) else str(because)


def check_pause(name: str, after: float) -> float:
    if type(after) is bool or not issubclass(type(after), int | float) or not 0 <= after <= AFTER_MOST:
        raise UsageError(f"{name}: after must be a number of seconds from 0 to {AFTER_MOST:,.0f}, not {after!r:.100}")
    return float(after)
