"""What all processes of a run share: the truth, and the time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextvars import Context
from typing import Any

from eventwagon.contracts.facts import Fact
from eventwagon.contracts.manifest import Manifest
from eventwagon.contracts.once import OnceRecord
from eventwagon.contracts.orchestrator import Orchestrator
from eventwagon.contracts.timetable import Timetable

from .flow import flow_of
from .guests import guest
from .history import History
from .loop import PROCESS, SimulationLoop
from .scenario import Fault, Role, Scenario
from .truth import Recorder, TruthBroker, TruthLedger, TruthRegistry

Ambush = Callable[[str, Role, str, Manifest], Fault | None]
"""At each call of a process (its name, its first role, the call, the manifest as it is): a fault of its own."""


class World:
    """Broker and registry as they really are, the history, and what was decided about the run. `orchestrator` gives the
    control plane as a process reaches it through its gate, where there is one, `timetable` the timetable, `once` the
    record of handled events; `kept` says how many events the timetable keeps."""

    def __init__(
        self,
        scenario: Scenario,
        loop: SimulationLoop,
        ambush: Ambush | None,
        *,
        orchestrator: Callable[[Any], Orchestrator | None],
        timetable: Callable[[Any], Timetable],
        kept: Callable[[], int],
        once: Callable[[Any], OnceRecord],
    ) -> None:
        self.scenario = scenario
        self.loop = loop
        self.history = History()
        self.record = Recorder(self.history)
        self.broker = TruthBroker(self.record, fences=scenario.fences, guest=lambda key: guest(scenario, key))
        self.registry = TruthRegistry(self.record)
        self.ledger = TruthLedger(self.record) if scenario.recorded else None
        self.flow = flow_of(self.record, scenario)
        self.ambush = ambush
        self.orchestrator = orchestrator
        self._reach_timetable = timetable
        self.kept = kept
        self._reach_once = once
        self.healed = False
        self.ending = False
        self.arriving: dict[asyncio.Task[Any], None] = {}
        self.snoozed: Counter[str] = Counter()
        """How often the handling of each event has put it off."""

    def timetable_for(self, gate: Any) -> Timetable | None:
        """The timetable as a process reaches it through its gate; None where no event is for later: then nothing of it
        runs."""
        return self._reach_timetable(gate) if self.scenario.later else None

    def once_for(self, gate: Any) -> OnceRecord | None:
        """The record of handled events as a process reaches it; None where the train keeps none."""
        return self._reach_once(gate) if self.scenario.once else None

    def on_its_way(self, arriving: asyncio.Task[Any]) -> None:
        """A call that takes effect later, without its process."""
        self.arriving[arriving] = None

        def arrived(task: asyncio.Task[Any]) -> None:
            del self.arriving[task]
            if not task.cancelled():
                task.exception()  # told to the caller, if there still is one

        arriving.add_done_callback(arrived, context=Context())  # nobody's: its process may be dead by then

    def heard(self, fact: Fact) -> None:
        """What listeners are told; the history has the journal."""

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """In the simulation's own name: no process can hold it up."""
        token = PROCESS.set(None)
        try:
            self.loop.call_later(seconds, call)
        finally:
            PROCESS.reset(token)
