"""How often an observer looks at a train at which nothing happens. Pure."""

from __future__ import annotations

import msgspec

from ..contracts.lifecycle import State
from ..contracts.manifest import Manifest
from ..contracts.reading import Reading
from ..limits import measured
from ..settings import Settings
from .leading import LONGEST, are_many, spread
from .seen import Seen

CALM = 3.0
"""Seconds for which nothing has happened, after which a process looks less often."""
_SHARE = 0.2
"""A pause is at most this share of the time for which nothing has happened."""
_TAKES = {"work", "serve"}
"""Roles of those that receive events."""


def pause(seen: Seen, name: str, quiet: float) -> float:
    """Seconds until the next look of the process `name`, if no sign of life comes before: `observe_every`, or more
    where nothing waits, nothing is under way, and some observer hears of the first event at once. `quiet`: the seconds
    since the last sign of life here. Call it only if the look changed and refused nothing."""
    every = seen.settings.observe_every
    calm = min(quiet, seen.ages.idle)
    if calm < CALM or not _is_heard(seen, name) or not _is_steady(seen.settings, seen.manifest):
        return every
    active = seen.manifest.active
    reading = None if active is None else seen.readings.get(active.number)
    if active is None or reading is None or not _has_nothing(seen, reading):
        return every
    longest = spread(name, LONGEST) if are_many(seen.members) else LONGEST
    longer = max(every, min(longest, calm * _SHARE))
    return longer if _stays(seen.settings, reading, longer) else every


def _is_heard(seen: Seen, name: str) -> bool:
    """An observer hears of the next event at once, since it comes to its process: this one, if it is alone, or one of
    many that all observe. Those do not hear of it, and find it within the pause. Two or three go on looking."""
    if seen.orchestrated or not seen.capabilities.fences:
        return False
    processes = [member for member in seen.members if member.is_process and "bridge" not in member.roles]
    if not are_many(processes):
        return [member.name for member in processes] == [name] and {"observe", "work"} <= {*processes[0].roles}
    takers = [member for member in processes if _TAKES & {*member.roles}]
    return bool(takers) and all("observe" in member.roles for member in takers)


def _is_steady(settings: Settings, manifest: Manifest) -> bool:
    """The active wagon and its spares are there, and nothing is asked for."""
    spares = 1 if settings.spares == "auto" else settings.spares
    return (
        settings.workers.elastic is None
        and not (manifest.removal or manifest.request or manifest.watch or manifest.paused)
        and not (manifest.replays or manifest.refusing)
        and all(wagon.paused is None for wagon in manifest.wagons)
        and len(manifest.in_state(State.READY)) == spares == len(manifest.wagons) - 1
    )


def _has_nothing(seen: Seen, reading: Reading) -> bool:
    """Nothing waits in the active wagon, and workers stand ready for what comes."""
    wagon = seen.manifest.active
    found = None if wagon is None else seen.deployments.get(wagon.unit)
    return (
        reading.outstanding_in_all == 0
        and not (reading.missing or reading.vanished or reading.exhausted or reading.irreplaceable)
        and found is not None
        and found.ready
        and not (found.trouble or found.missing or found.open or found.at_budget or found.paused)
    )


def _stays(settings: Settings, reading: Reading, seconds: float) -> bool:
    """Time alone brings the wagon to none of its marks meanwhile."""
    later = msgspec.structs.replace(reading, at=reading.at + seconds, age=reading.age + seconds)
    now, then = (measured(settings.limit, each)[0].value for each in (reading, later))
    return not any(now < mark <= then for mark in (settings.prepare, 1.0))
