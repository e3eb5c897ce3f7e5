"""By which settings a process publishes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..settings import Settings


class PublishSettings:
    """The settings by which this process publishes to a train: its program's, and what the train's own declaration says
    instead, as far as that is known. Written by TrainState."""

    def __init__(self, own: Settings) -> None:
        self.now = own
        self.on_change: list[Callable[[], None]] = []
        """Called when `now` has changed, on the event loop. They may not raise."""
        self._own = own
        self._declared: Mapping[str, str] = {}

    def see(self, declared: Mapping[str, str]) -> None:
        """The train is declared so now; empty: it is not declared."""
        if declared == self._declared:
            return
        self._declared, before = declared, self.now
        self.now = self._own.publishing(declared)
        if self.now != before:
            for listener in list(self.on_change):
                listener()
