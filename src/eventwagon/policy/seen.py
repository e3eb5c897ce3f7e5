"""What an observer saw at one look: all that `plan` decides on. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ..contracts.broker import Capabilities
from ..contracts.lifecycle import LIVE
from ..contracts.manifest import Manifest, Wagon
from ..contracts.orchestrator import Deployment, together
from ..contracts.reading import Reading
from ..contracts.registry import Member
from ..event import Channel
from ..settings import Settings
from .demand import Demand


class Ages(msgspec.Struct, frozen=True, kw_only=True):
    """For how many seconds one observer has seen things as they are, by its own steady clock. 0: since this look."""

    wagons: Mapping[int, float] = {}
    """By number: the wagon has been in its state, and at its attempt, for so long."""
    failed_opens: float = 0.0
    """As many wagons in a row as now never got ready."""
    unwanted: float = 0.0
    """The next wagon has not been wanted."""
    idle: float = 0.0
    """Nothing came to the active wagon, and nothing was settled there."""


class ActiveAges:
    """For how long each wagon has been active: one observer's memory. Pure, no clock.

    Clocks of two machines may be an hour apart, and one may be set while its process runs. So the wall clock is asked
    once for each wagon, when this observer first sees it active: how long was it so before? The answer counts only
    within what the steady clock leaves open: not less than 0, and not more than the time since the look before. From
    then on the steady clock counts. At the first look the steady clock leaves everything open: a process that starts
    with its clock ahead takes the wagon for too old, once.
    """

    def __init__(self) -> None:
        self._since: dict[int, tuple[float, float]] = {}
        """By number: the wagon's `active_at`, and since when it has been active by the steady clock."""
        self._looked = float("-inf")
        """The last look, by the steady clock."""

    def look(self, manifest: Manifest, *, now: float, steady: float) -> Mapping[int, float]:
        """The ages by number, in seconds: 0 for a wagon that never was active. `now` since the epoch, `steady` by a
        clock that only goes forward."""
        since: dict[int, tuple[float, float]] = {}
        for wagon in manifest.wagons:
            if wagon.active_at is None:
                continue
            known = self._since.get(wagon.number)
            if known is None or known[0] != wagon.active_at:
                before = min(max(0.0, now - wagon.active_at), steady - self._looked)
                known = wagon.active_at, steady - before
            since[wagon.number] = known
        self._since, self._looked = since, steady
        return {w.number: steady - since[w.number][1] if w.number in since else 0.0 for w in manifest.wagons}


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a train.

    The manifest must have been read before the readings and `members` were taken. A wagon counts as proven empty only
    if it was already known to be sealed; and where the broker can't refuse writes a wagon is sealed only if it was
    already known to be cut off.
    """

    now: float
    """When it was, in seconds since the epoch."""
    settings: Settings
    capabilities: Capabilities
    """The broker's: whether it holds bounds exactly, and refuses writes to sealed channels."""
    manifest: Manifest
    readings: Mapping[int, Reading] = {}
    """By wagon number, those that could be taken."""
    deployments: Mapping[int, Deployment] = {}
    """What runs, by unit."""
    members: Sequence[Member] = ()
    """The processes that are alive."""
    ages: Ages = Ages()
    leftovers: Sequence[Channel] = ()
    """Channels that exist, as far as they were looked for at this look: some may belong to no wagon."""
    demand: Demand = Demand()
    """What the traffic asks of workers, if they follow it."""
    step: int = 1
    """Workers come and go by so many."""
    orchestrated: bool = False
    """An orchestrator starts and ends workers as it is told; else they come and go by themselves."""


def checked_in(members: Sequence[Member], manifest: Manifest) -> dict[int, Deployment]:
    """What processes say in their check-ins of the live wagons that they serve, by unit."""
    found: dict[int, list[Deployment]] = {}
    for member in members:
        for each in member.attachments:
            wagon = manifest.wagon(each.number)
            if wagon is None or wagon.state not in LIVE:
                continue  # it leaves by itself
            found.setdefault(wagon.unit, []).append(since_losses(each, wagon))
    return {unit: together(each) for unit, each in found.items()}


def since_losses(found: Deployment, wagon: Wagon) -> Deployment:
    """What is reported of a wagon's workers; not ready where the report is older than the wagon's last loss of them."""
    if not found.ready or found.losses is None or found.losses >= wagon.losses:
        return found
    return msgspec.structs.replace(found, ready=False, trouble="they were attached before it lost its workers")
