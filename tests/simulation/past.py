"""The past events of a run: what was settled in the ingress of wagons that are gone, in that order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

from eventwagon import connection as connection_module
from eventwagon.contracts.manifest import Manifest
from eventwagon.contracts.replay import NothingKeptError, PastEvent
from eventwagon.event import ARCHIVE, DEAD, Channel

from .gate import Gate
from .truth import TruthBroker

_BATCH = 3
TRAIN = "t"


def removed(truth: TruthBroker, manifest: Manifest) -> list[int]:
    """The wagons that are gone, and had events."""
    return sorted(n for n in truth.past if n < manifest.next_number and manifest.wagon(n) is None)


class GatedPast:
    """The past as one process reads it: a few events at a time."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._truth = gate.process.world.broker

    async def channels(self, wagon: int) -> tuple[str, ...]:
        kept = [c.name for c in self._truth.kept if c.wagon == wagon and c.name not in (DEAD, ARCHIVE)]
        if not kept:
            raise NothingKeptError(f"nothing is kept of wagon {wagon}")
        return tuple(sorted(kept))

    async def parts(self, wagon: int, channel: str) -> tuple[str, ...]:
        return ("all",) if channel in await self.channels(wagon) else ()

    async def events(self, wagon: int, channel: str, parts: Sequence[str]) -> AsyncIterator[Sequence[PastEvent]]:
        kept = list(self._truth.kept.get(Channel(TRAIN, wagon, channel), {}).values())
        for start in range(0, len(kept), _BATCH):

            async def read(start: int = start) -> Sequence[PastEvent]:
                return kept[start : start + _BATCH]

            yield await self._gate.call("past", read)


@contextmanager
def reading_past(gate: Gate) -> Iterator[None]:
    """Connections that are made here read the past of the run."""
    with mock.patch.object(connection_module, "past_events", return_value=GatedPast(gate)):
        yield
