"""Every error that eventwagon raises, as one tree: what was wrong, where, what to do.

The docstring of each class says when it is raised and what the caller can do about it.
"""

from __future__ import annotations

from .display.redaction import redacted
from .display.text import said


class EventwagonError(Exception):
    """The root: catch it to catch everything that eventwagon raises on purpose. Its text holds no secrets: passwords
    and tokens in it are replaced by `***`."""

    accepted: int = 0
    """How many of the leading events of a publishing call were stored."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(redacted(each) if isinstance(each, str) else each for each in args))


class UsageError(EventwagonError, ValueError):
    """Something was asked for that can't be: a bad name, URL, setting or handler. Nothing was done."""


class DeclarationDiffers(UsageError):
    """Two programs declare one train differently. Make them equal, or declare again on purpose."""


class EndedEarly(EventwagonError):
    """A connection, or `running`, ended before it was left: somebody has cancelled its tasks. What its body was doing
    is cancelled, and events in hand are given back. Enter another one."""


class UnknownTrain(UsageError):
    """No train of that name has ever run at that URL. Check both, or start it."""


# --- publishing ---------------------------------------------------------------------------


class PublishError(EventwagonError):
    """An event was not, or not surely, accepted. `accepted` counts the leading events that were."""

    def __init__(self, message: str, *, accepted: int = 0) -> None:
        super().__init__(message)
        self.accepted = accepted


class EventRefused(PublishError):
    """The broker will never store this event, however often it is published. Publishing it again is of no use."""


class EventTooLarge(EventRefused):
    """The event is larger than `max_event_bytes`, or than the broker takes."""


class TrainFull(PublishError):
    """The train is at its cap of wagons and `at_cap="refuse"`: slow down and try again later."""


class TrainPaused(PublishError):
    """The train is paused, and so is publishing (`eventwagon pause --publishing`): nothing was stored. Try again once it
    is resumed."""


class TrainRemoved(PublishError):
    """The train is being removed, or was: nothing was stored. A new connection founds it anew."""


class PublishTimeout(PublishError):
    """No wagon surely took the events within the deadline. Publish again with the same ids."""


# --- what a broker's driver says ----------------------------------------------------------


class BrokerError(EventwagonError):
    """A broker's driver could not do what it was asked to."""


class Sealed(BrokerError):
    """The channel is sealed: it takes nothing more, from anybody. The first `accepted` events of the call were stored;
    publish the rest to the active wagon."""

    def __init__(self, message: str, *, accepted: int = 0) -> None:
        super().__init__(message)
        self.accepted = accepted


class ChannelFull(BrokerError):
    """The channel holds its `capacity`. The first `accepted` events of the call were stored."""

    def __init__(self, message: str, *, accepted: int = 0) -> None:
        super().__init__(message)
        self.accepted = accepted


class ChannelGone(BrokerError):
    """The channel does not exist (any more). Nothing was stored, and nothing was created."""


class PublishUncertain(BrokerError):
    """The outcome is unknown: the events may have been stored. Try again with the same ids."""


class Unavailable(BrokerError):
    """The broker or registry can't be reached or is busy; nothing was stored. Try again later."""


class StorageBroken(BrokerError):
    """The storage is full, read-only, corrupt or of an unsuitable kind; the message says where and what to do."""


# --- what a registry's driver says --------------------------------------------------------


class RegistryError(EventwagonError):
    """A registry's driver could not do what it was asked to."""


class Conflict(RegistryError):
    """The manifest has moved on since it was read: read again and decide again."""


class BrokenManifest(RegistryError):
    """A train's manifest can't be read: a newer eventwagon wrote it, or somebody edited it. The message says where it
    is kept and what to do. Processes that run go on with what they know, and take it up again once it can be read."""


# --- removing a train ---------------------------------------------------------------------


class RemovalRefused(EventwagonError):
    """The train can't be removed: events or dead letters are left, or processes are alive. The message says which."""


# --- what is no weather -------------------------------------------------------------------


class Defect(Exception):
    """A rule of eventwagon's own is broken: a bug, please report it. Nothing was stored. It stands outside the tree of
    EventwagonError, so that nothing takes it for trouble that passes."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


# --- what a handler may say ---------------------------------------------------------------


AFTER_MOST = 43_200.0
"""The longest pause that a handler may ask for, in seconds: twelve hours, as long as every broker can keep an event
back."""


class Reject(Exception):
    """Raised by a handler: this event can never be handled. It goes to the dead letters at once."""


class Retry(Exception):
    """Raised by a handler: this attempt failed; try the event again `after` seconds from now (None: the usual backoff).
    It counts as an attempt like any other failure. Raises UsageError for a pause that is no number from 0 to 43,200."""

    def __init__(self, after: float | None = None, because: str | BaseException = "") -> None:
        super().__init__(*([because] if because else []))
        self.after = None if after is None else check_pause("Retry", after)
        self.because = _reason(because)


class Snooze(Exception):
    """Raised by a handler: nothing failed, but it is too early; give the event again `after` seconds from now. No
    attempt is counted, however often. Raises UsageError for a pause that is no number from 0 to 43,200."""

    def __init__(self, after: float, because: str | BaseException = "") -> None:
        super().__init__(*([because] if because else []))
        self.after = check_pause("Snooze", after)
        self.because = _reason(because)


def _reason(because: object) -> str:
    """A reason in words; an exception will do."""
    return said(because) if isinstance(because, BaseException) else str(because)


def check_pause(name: str, after: float) -> float:
    if type(after) is bool or not issubclass(type(after), int | float) or not 0 <= after <= AFTER_MOST:
        raise UsageError(f"{name}: after must be a number of seconds from 0 to {AFTER_MOST:,.0f}, not {after!r:.100}")
    return float(after)
