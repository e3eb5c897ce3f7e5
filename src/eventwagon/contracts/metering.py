"""The seam to metrics: what a meter is told. Contracts only; `eventwagon.metrics` has the one that comes with
eventwagon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ..event import Channel
from .broker import Delivery
from .facts import Fact


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

        `channel` is the first one of several. `events`: how many were published, received, settled or released;
        channels for `depth`. `error` is the class of what it raised; empty: nothing. The seconds of `receive` include
        the time for which it waited for an event.
        """
        ...

    def handled(
        self, channel: Channel, deliveries: Sequence[Delivery], began_at: float, seconds: float, error: str, late: bool
    ) -> None:
        """A handler has ended: one call, for one event or for a batch.

        `began_at` is in seconds since the epoch. `error` is the class of what it raised, `timeout` if it took too long,
        `dead` if no attempt can succeed; empty if it returned or wants the event later. `late`: the wagon is cut off
        from new events, so this one belongs to the backlog.
        """
        ...

    def heard(self, fact: Fact) -> None:
        """Something happened. The same facts as listeners get."""
        ...
