"""By which settings a process publishes."""

from __future__ import annotations

from collections.abc import Mapping

from ..settings import Settings


class PublishSettings:
    """The settings by which this process publishes to a train: its program's, and what the train's own declaration says
    instead, as far as that is known. Written by TrainState."""

    def __init__(self, own: Settings) -> None:
        self.now = own
        self._own = own
        self._declared: Mapping[str, str] = {}

    def see(self, declared: Mapping[str, str]) -> None:
        """The train is declared so now; empty: it is not declared."""
        if declared == self._declared:
            return
        self._declared = declared
        self.now = self._own.publishing(declared)
