"""What an observer saw at one look: all that `plan` decides on. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ..contracts.broker import Capabilities
from ..contracts.manifest import Manifest
from ..contracts.orchestrator import Deployment
from ..contracts.reading import Reading
from ..contracts.registry import Member
from ..event import Channel
from ..settings import Settings


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
    orchestrated: bool = False
    """An orchestrator starts and ends workers as it is told; else they come and go by themselves."""
