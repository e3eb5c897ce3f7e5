"""The circuits of one process, one for each channel name: the timers of their probes, and the facts about them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from ..breaker import Again, Circuit, Retries
from ..contracts.facts import BreakerClosed, BreakerOpened, Listener
from ..settings import Settings


class Circuits:
    """One circuit for each channel name: all wagons of the process share it, since their handlers call the same
    services.

    Wagons whose code is on trial or was replaced have circuits without a breaker (`guarded=False`): failures there
    count as the code's. Call `end` after use."""

    def __init__(self, train: str, settings: Settings, tell: Listener, rng: random.Random) -> None:
        self._train = train
        self._settings = settings
        self._tell = tell
        self._rng = rng
        self._circuits: dict[tuple[str, bool], Circuit] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.on_change: Callable[[Circuit], None] = lambda _: None
        """Called when a circuit opened or closed, a probe is due, or one failed."""

    def of(self, name: str, retries: Retries, *, guarded: bool) -> Circuit:
        """The circuit of the channels of this name, whose failed events are retried like this."""
        key = name, guarded
        if key not in self._circuits:
            breaker = self._settings.breaker if guarded else None
            self._circuits[key] = Circuit(name, breaker, retries)
        return self._circuits[key]

    def failed(
        self,
        circuit: Circuit,
        event_id: str,
        attempt: int,
        *,
        because: str,
        after: float | None = None,
        own: bool = False,
        tells: bool = True,
    ) -> Again | None:
        """A handling failed. Returns how its event is tried again; None: give it up."""
        was_open, probes = circuit.opened_at is not None, circuit.probes
        now = asyncio.get_running_loop().time()
        again = circuit.failed(
            event_id, attempt, now, self._rng.random(), because=because, after=after, own=own, tells=tells
        )
        if circuit.opened_at is None:
            return again
        if not was_open:
            self._tell(BreakerOpened(train=self._train, channel=circuit.name, because=circuit.because))
        if not was_open or circuit.probes != probes:
            self._arm(circuit)
            self.on_change(circuit)
        return again

    def succeeded(self, circuit: Circuit, event_id: str, began: float, now: float) -> None:
        """A handling ended well. An open circuit closes."""
        opened_at, probes = circuit.opened_at, circuit.probes
        if circuit.succeeded(event_id, began, now) and opened_at is not None:
            if timer := self._timers.pop(circuit.name, None):
                timer.cancel()
            self._tell(
                BreakerClosed(train=self._train, channel=circuit.name, seconds=now - opened_at, failed_probes=probes)
            )
            self.on_change(circuit)

    def passed(self, circuit: Circuit, event_id: str, *, gone: bool) -> None:
        """A handling ended in a way that says nothing about the channel."""
        if circuit.passed(event_id, gone=gone):
            self.on_change(circuit)

    def end(self) -> None:
        """Stop the timers of probes. Idempotent."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _arm(self, circuit: Circuit) -> None:
        if timer := self._timers.pop(circuit.name, None):
            timer.cancel()
        self._timers[circuit.name] = asyncio.get_running_loop().call_at(circuit.due, self._look, circuit)

    def _look(self, circuit: Circuit) -> None:
        if circuit.look(asyncio.get_running_loop().time()):
            self.on_change(circuit)
