"""Forms batches: holds the events of a channel whose handler takes many, until enough of them are there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from ..contracts.broker import Delivery

WITHIN = 0.5
"""Seconds that the first event of a batch waits for others, unless the handler says otherwise."""


def is_alone(delivery: Delivery) -> bool:
    """Whether the event is a batch of its own: it was tried before, and may be what made that batch fail, or the
    process die."""
    return delivery.attempt > 1


class Forming:
    """The next batch of one channel in one process. Its events wait until there are `most` of them, or until the first
    has waited for `within` s; then `on_ready` gets them. An event that is handled alone does not wait."""

    __slots__ = ("_on_ready", "_timer", "_waiting", "_within", "most")

    def __init__(self, most: int, within: float, on_ready: Callable[[Sequence[Delivery]], None]) -> None:
        self.most = most
        self._within = within
        self._on_ready = on_ready
        self._waiting: list[Delivery] = []
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, deliveries: Iterable[Delivery], *, at_least: float = 0.0) -> None:
        """These were received. The first of a batch waits for `at_least` s."""
        for delivery in deliveries:
            if is_alone(delivery):
                self._on_ready((delivery,))
                continue
            self._waiting.append(delivery)
            if len(self._waiting) >= self.most:
                self.end()
        if self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(max(self._within, at_least), self.end)

    def end(self) -> None:
        """Wait for no more events: what is there is ready. Idempotent."""
        if waiting := self.take(self.most):
            self._on_ready(waiting)

    def take(self, most: int) -> list[Delivery]:
        """Take at most `most` of the waiting events, the first ones. The others wait no longer for that."""
        taken, self._waiting = self._waiting[:most], self._waiting[most:]
        if not self._waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return taken
