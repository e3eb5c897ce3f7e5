"""The past events of a run: what was settled in the ingress of wagons that are gone, in that order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from eventwagon.contracts.manifest import Manifest
from eventwagon.contracts.replay import PastEvent
from eventwagon.errors import UsageError

from .gate import Gate
from .truth import TruthBroker

_BATCH = 3


def removed(truth: TruthBroker, manifest: Manifest) -> list[int]:
    """The wagons that are gone, and had events."""
    return sorted(n for n in truth.past if n < manifest.next_number and manifest.wagon(n) is None)


class GatedPast:
    """The past as one process reads it: a few events at a time."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._truth = gate.process.world.broker

    async def events(self, wagon: int, channel: str) -> AsyncIterator[Sequence[PastEvent]]:
        kept = list(self._truth.past.get(wagon, {}).values()) if not channel else []
        if not kept:
            raise UsageError(f"nothing is kept of wagon {wagon}")
        for start in range(0, len(kept), _BATCH):

            async def read(start: int = start) -> Sequence[PastEvent]:
                return [PastEvent(event, "", "handled", 1) for event in kept[start : start + _BATCH]]

            yield await self._gate.call("past", read)
