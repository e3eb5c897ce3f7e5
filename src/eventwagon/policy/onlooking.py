"""Looks at a train from outside, as its observer would: readings with a past, for figures that need one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..contracts.broker import Capabilities, Depth
from ..contracts.lifecycle import State
from ..contracts.manifest import Manifest
from ..contracts.orchestrator import Deployment
from ..contracts.reading import History
from ..contracts.registry import Member
from ..settings import Settings
from .pausing import resting
from .seen import ActiveAges, Seen, checked_in, take_readings


class Onlooking:
    """Remembers the looks at one train for about a minute."""

    def __init__(self) -> None:
        self.history = History()
        self._active_ages = ActiveAges()

    def see(
        self,
        settings: Settings,
        capabilities: Capabilities,
        manifest: Manifest,
        depths: Mapping[int, Sequence[Depth]],
        members: Sequence[Member],
        *,
        now: float,
        steady: float,
    ) -> Seen:
        """Take in one look. `depths`: of the channels of each active or draining wagon, the ingress first. `now` is in
        seconds since the epoch, `steady` in seconds of a clock that only goes forward."""
        ages, paused = self._active_ages.look(manifest, now=now, steady=steady), resting(manifest)
        readings = take_readings(
            manifest.in_state(State.ACTIVE, State.DRAINING),
            depths,
            self.history,
            settings=settings,
            manifest=manifest,
            ages=ages,
            paused=paused,
            now=now,
            steady=steady,
        )
        return Seen(
            now=now,
            settings=settings,
            capabilities=capabilities,
            manifest=manifest,
            readings=readings,
            deployments=deployments_of(members, manifest),
            members=members,
        )


def deployments_of(members: Sequence[Member], manifest: Manifest) -> Mapping[int, Deployment]:
    """What runs, by unit: as processes check in, and as observers say that an orchestrator reports it."""
    found = checked_in(members, manifest)
    for each in (d for m in members for d in m.deployed):
        wagon = manifest.wagon(each.number)
        if wagon is not None:
            found.setdefault(wagon.unit, each)
    return found
