"""The program of a wagon's process: it loads the train, and runs the wanted number of workers for the wagon."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, cast

from ....contracts.broker import Broker
from ....contracts.facts import ClaimsReturned, log
from ....contracts.metering import Meter
from ....contracts.orchestrator import Deployment, Orchestrator, WagonSpec
from ....errors import EventwagonError, UsageError
from ....loading import load
from ....metrics.children import handing_over
from ....runtime.probe import probe
from ....settings import Settings
from ....tracing.exporting import exporting
from .. import MARGIN, SENT_HOME, Follower, follow

URL = "EVENTWAGON_URL"
_NICENESS = 10
"""Of a process whose wagon is for a replay: where processors are short, those of new events run first (`nice(2)`)."""


class UnitTrain(Protocol):
    """The parts of a train that are used here."""

    name: str
    settings: Settings

    def working(
        self, url: str, *, owner: str = "", meter: Meter | None = None
    ) -> AbstractAsyncContextManager[tuple[Broker, Orchestrator]]: ...


def main(arguments: Sequence[str]) -> int:
    """Serve one wagon until it must leave, its parent has ended, or SIGTERM. Returns the exit code."""
    target, name, number, directory = arguments

    def begin(follower: Follower) -> Coroutine[object, object, int]:
        train = cast(UnitTrain, load(target, lambda found: hasattr(found, "working"), what="target"))
        if train.name != name:
            raise UsageError(f"{target} is train {train.name!r}, not {name!r}")
        return _traced(train.name, _Child(follower, train, os.environ.get(URL, "")))

    return follow(name, number, directory, begin)


async def _traced(name: str, child: _Child) -> int:
    with exporting(name, to_flush=MARGIN / 2):
        return await child.run()


class _Child:
    def __init__(self, follower: Follower, train: UnitTrain, url: str) -> None:
        self._follower = follower
        self._unit = follower.files.unit
        self._train = train
        self._url = url
        self._proven = 0
        """The wagon for which a round trip has succeeded."""
        self._trouble = ""
        self._probe_at = 0.0
        self._owner = f"{train.name}_v{self._unit}-{os.getpid()}-{os.urandom(4).hex()}"
        self._behind = False
        """True once it runs behind others."""
        self._inherited = False
        """True once the claims of the unit's previous process were given back."""

    async def run(self) -> int:
        """Bring the workers to what is wanted, and report the state. Returns the exit code."""
        follower, code = self._follower, 0
        async with (
            follower.attending(self._train.settings.grace),
            handing_over() as meter,
            self._train.working(self._url, owner=self._owner, meter=meter) as (broker, local),
        ):
            async for want in follower.looks():
                if want.spec.workers == 0:
                    code = SENT_HOME
                    break
                if want.spec.replay and not self._behind:
                    os.nice(_NICENESS)
                    self._behind = True
                if not await self._inherit(broker, want.spec):
                    follower.say(ready=False, trouble=self._trouble)
                    continue
                await local.ensure(want.spec)
                found = (await local.deployments(self._train.name)).get(self._unit)
                if found is not None:
                    await self._prove(broker, found)
                    ready = found.ready and self._proven == found.number
                    follower.say(ready=ready, trouble=found.trouble or self._trouble, found=found)
            follower.end_within(follower.grace + MARGIN)
            await local.remove(self._train.name, self._unit, grace=follower.grace)
        return code

    async def _inherit(self, broker: Broker, spec: WagonSpec) -> bool:
        """Before the first claim, give back what the unit's previous process had claimed. That process has certainly
        ended, because this one holds the unit's lock."""
        if self._inherited:
            return True
        files = self._follower.files
        try:
            if before := files.claims_as():
                counts = [await broker.reclaim(channel, before) for channel in spec.channels]
                why = f"the unit's next process has begun ({self._owner})"
                if sum(counts):
                    log(ClaimsReturned(train=self._train.name, owner=before, count=sum(counts), because=why))
            files.will_claim_as(self._owner)
        except (EventwagonError, OSError) as e:
            self._trouble = f"the claimed events of its previous process can't be given back: {e}"
            return False
        self._inherited, self._trouble = True, ""
        return True

    async def _prove(self, broker: Broker, found: Deployment) -> None:
        """Prove that the wagon is served, not only attached: see `probe`. Repeated each time the consumers were
        attached again."""
        if not found.ready:
            self._proven = 0
            return
        now = asyncio.get_running_loop().time()
        if self._proven == found.number or now < self._probe_at:
            return
        try:
            await probe(broker, self._train.name, found.number)
        except EventwagonError as e:
            self._trouble, self._probe_at = f"the probe failed: {e}", now + 0.5
        else:
            self._trouble, self._proven = "", found.number
