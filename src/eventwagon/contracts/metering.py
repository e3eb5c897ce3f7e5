"""The seam to metrics: what a meter is told. Contracts only; `eventwagon.metrics` has the one that comes with
eventwagon."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from ..event import Channel
from .facts import Fact


class ProcessFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What one connection of a process does at this moment."""

    workers: int = 0
    busy: int = 0
    """Workers whose handler is under way."""
    publishers_held: int = 0
    """Publish calls that wait because the train or the broker takes no events now."""
    look_age: float | None = None
    """Seconds since its observer's last complete look; since it started if there was none. None: it observes
    nothing."""
    budgets: Mapping[str, tuple[float, float]] = {}
    """By the budget's name: what is used, and what may be used. Handlings at a time, or events a second."""


class TrainFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A whole train at one look. Figures that are not known are missing or None, never guessed. Events are `new` in the
    active wagon, and of the `backlog` in draining ones."""

    train: str
    at: float
    """In seconds since the epoch."""
    lasts: float
    """Seconds after which these figures are too old to be exported."""
    wagons: Mapping[str, int] = {}
    """By state; all states."""
    cap: int = 0
    outstanding: Mapping[tuple[str, str], int] = {}
    """By `new` or `backlog`, and `waiting`, `in_flight` or `inside` (inner channels)."""
    oldest: Mapping[str, float] = {}
    """Seconds for which the oldest waiting event has waited, by `new` or `backlog`; 0: none waits."""
    predicted: Mapping[str, float] = {}
    """Seconds that an event published now will wait (`new`), and that the last event of the `backlog` will still."""
    promise: float | None = None
    pressures: Mapping[str, float] = {}
    """By limit, as it is written; each part of a joined one by itself."""
    drain_age: float = 0.0
    """Seconds since the cut-off of the wagon that has been draining longest; 0: none drains."""
    breakers: Mapping[str, bool] = {}
    """Whether a process has the channel's circuit breaker open, by the inner channel's name."""
    dead_letters: int | None = None
    later: int | None = None
    """Events that wait for their time."""
    replays: Mapping[tuple[str, str], int] = {}
    """Those that are not over, by `replay` or `undo`, and `running`, `waiting` or `stopped`; all of these."""
    replay_left: Mapping[str, int] = {}
    """Events that they have still to publish, by `replay` or `undo`; both."""
    paused: bool = False
    """The train, or one of its wagons, is paused."""
    wagons_paused: int = 0
    """Live wagons that are paused, by themselves or with the train."""
    pause_age: float = 0.0
    """Seconds since the pause began that has lasted longest; 0: nothing is paused."""
    refusing: bool = False
    """Publishers are refused."""
    processes: Mapping[str, int] = {}
    """Those that are alive, by role."""


@runtime_checkable
class Meter(Protocol):
    """Measures what one process does for its trains. The same meter may serve several connections of one event loop.

    Its methods are called on the event loop, between events: they must be fast, and must not block. What one raises is
    logged and ends nothing. No call names a wagon by anything but its channel: a meter must not keep figures by wagon,
    since their number grows without end.
    """

    def called(self, operation: str, channel: Channel, events: int, seconds: float, error: str) -> None:
        """A call to the broker has ended: one method of `Broker` or `Subscription`, by its name (`publish`, `receive`,
        `settle` …).

        `channel` is the first one of several. `events`: how many were stored by `publish`, also by one that raised
        ChannelFull or Sealed, or were received, settled or released; channels for `depth`. `error` is the class of what
        it raised; empty: nothing. The seconds of `receive` include the time for which it waited for an event.
        """
        ...

    def handled(
        self, channel: Channel, seconds: Sequence[float], waits: Sequence[float], error: str, late: bool
    ) -> None:
        """Handlings have ended: one item of `seconds` for each call of a handler, whether it took one event or a batch.

        `waits`: how long each event that was handled for the first time had waited since its own time; less than 0 if
        its publisher's clock is ahead. `error` is the class of what the handlers raised, `timeout` if they took too
        long, `dead` if no attempt can succeed; empty if they returned or want the event later. `late`: the wagon is cut
        off from new events by now, so these belong to the backlog. Both sequences are the meter's to keep.
        """
        ...

    def heard(self, fact: Fact) -> None:
        """Something happened. The same facts as listeners get."""
        ...

    def joined(
        self, train: str, system: str, revision: str, figures: Callable[[], ProcessFigures]
    ) -> Callable[[], None]:
        """A connection to a train has opened; call the returned function when it closes.

        `system` names the broker's kind, `revision` the program's code. `figures` returns what the connection does at
        the moment it is called; it may be called from any thread.
        """
        ...

    def looked(self, train: str, figures: TrainFigures | None) -> None:
        """The observer of this process has looked at the train. None: another observer reports on the train, or this
        one has ended."""
        ...
