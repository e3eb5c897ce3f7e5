"""What an observer saw at one look: the whole input of `plan`. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from ..contracts.broker import Capabilities, Depth, outstanding
from ..contracts.lifecycle import LIVE
from ..contracts.manifest import Manifest, Wagon
from ..contracts.orchestrator import Deployment, together
from ..contracts.reading import History, Reading, Sample, busy_rate
from ..contracts.registry import Member
from ..event import Channel
from ..settings import Settings
from .demand import Demand
from .latest_outcomes import Outcomes


class Ages(msgspec.Struct, frozen=True, kw_only=True):
    """How long, in seconds of its steady clock, one observer has seen things unchanged. 0: since this look."""

    wagons: Mapping[int, float] = {}
    """By number: how long the wagon has been in its state and at its attempt, since it last lost its workers."""
    failed_opens: float = 0.0
    """How long the number of wagons in a row that never got ready has been the same."""
    unwanted: float = 0.0
    """How long no next wagon has been wanted."""
    idle: float = 0.0
    """How long nothing has arrived or been settled in the active wagon."""
    safe: float = 0.0
    """How long no events have had to wait that are promised something; known if the workers follow the traffic."""


class ActiveAges:
    """How long each wagon has been active: one observer's memory. Pure, no clock.

    The clocks of two machines may be an hour apart, and a clock may be set while its process runs. So the wall clock is
    used once per wagon, when this observer first sees it active, to tell how long it has been active already. That age
    is kept between 0 and the time since the previous look by the steady clock; from then on only the steady clock
    counts. At an observer's first look there is no upper bound: a process that starts with its clock ahead takes the
    wagon for too old, once.
    """

    def __init__(self) -> None:
        self._since: dict[int, tuple[float, float]] = {}
        """By number: the wagon's `active_at`, and when it became active by the steady clock."""
        self._looked = float("-inf")
        """Time of the last look, by the steady clock."""

    def look(self, manifest: Manifest, *, now: float, steady: float) -> Mapping[int, float]:
        """Take in one look; returns the ages in seconds, by number: 0 for a wagon that was never active. `now` is in
        seconds since the epoch, `steady` in seconds of a clock that only goes forward."""
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

    The manifest must be read before the readings and `members`: a wagon counts as proven empty only if it was already
    known to be sealed, and if the broker can't refuse writes, a wagon is sealed only if it was already known to be cut
    off.
    """

    now: float
    """Time of the look, in seconds since the epoch."""
    settings: Settings
    capabilities: Capabilities
    """The broker's: whether it enforces bounds exactly, and whether it refuses writes to sealed channels."""
    manifest: Manifest
    readings: Mapping[int, Reading] = {}
    """The readings that could be taken, by wagon number."""
    deployments: Mapping[int, Deployment] = {}
    """The running workers, by unit."""
    members: Sequence[Member] = ()
    """The processes that are alive."""
    ages: Ages = Ages()
    leftovers: Sequence[Channel] = ()
    """Existing channels, as far as this look has searched for them: some may belong to no wagon."""
    demand: Demand = Demand()
    """The demand for workers, if their number follows the traffic."""
    outcomes: Mapping[int, Outcomes] = {}
    """How the latest handlings ended, by wagon number, if there is a rule (`pause_on`) that needs them."""
    step: int = 1
    """Workers are started and stopped in multiples of this."""
    orchestrated: bool = False
    """True: an orchestrator starts and stops the workers. False: they come and go by themselves."""


def take_readings(
    wagons: Sequence[Wagon],
    depths: Mapping[int, Sequence[Depth]],
    history: History,
    *,
    settings: Settings,
    manifest: Manifest,
    ages: Mapping[int, float],
    paused: Collection[int],
    now: float,
    steady: float,
) -> dict[int, Reading]:
    """The readings of those of the wagons whose depths are known, the ingress first, by number. Their samples are added
    to the history, and those of other wagons forgotten. `now` is the wall clock's time, `steady` that of a steady
    clock."""
    arriving = {w.number for w in wagons if not w.replay}  # what a replay publishes is no traffic
    taken = {n: _sample_of(of[0], steady, paused=n in paused) for n, of in depths.items() if n in arriving}
    history.add_all({number: sample for number, sample in taken.items() if sample is not None}, steady)
    history.keep({w.number for w in wagons})
    crowding = len(manifest.for_new_events) / settings.wagons
    shared = settings.workers.total is not None
    shared_rate = busy_rate(history.of(0)) if shared else None
    return {
        w.number: _reading_of(
            w,
            depths[w.number],
            samples := history.of(w.number),
            now=now,
            age=ages[w.number],
            crowding=crowding,
            settle_rate=shared_rate if shared else busy_rate(samples),
        )
        for w in wagons
        if w.number in depths
    }


def _sample_of(ingress: Depth, at: float, *, paused: bool) -> Sample | None:
    """The figures of a wagon's ingress for its history; None if they are not known. `at` is in seconds of a steady
    clock. Events of a paused wagon are no backlog: they don't show how fast its workers are."""
    if ingress.published is None or ingress.settled is None:
        return None
    return Sample(at, ingress.published, ingress.settled, 0 if paused else ingress.waiting or 0)


def _reading_of(
    wagon: Wagon,
    depths: Sequence[Depth],
    samples: Sequence[Sample],
    *,
    now: float,
    age: float,
    crowding: float,
    settle_rate: float | None,
) -> Reading:
    """The reading of a wagon by the depths of its channels, the ingress first, and its samples. `settle_rate`: that of
    the workers that serve it, see `busy_rate`."""
    ingress = depths[0]
    return Reading(
        number=wagon.number,
        at=now,
        age=age,
        published=ingress.published,
        settled=ingress.settled,
        waiting=ingress.waiting,
        in_flight=ingress.in_flight,
        oldest_age=age_in(wagon, ingress.oldest_at, now),
        newest_age=age_in(wagon, ingress.newest_at, now),
        settle_rate=settle_rate,
        inner={name: outstanding([depth]) for name, depth in zip(wagon.channels, depths[1:], strict=True)},
        emitted=sum(depth.published or 0 for depth in depths[1:]),
        samples=samples,
        crowding=crowding,
    )


def age_in(wagon: Wagon, at: float | None, now: float) -> float | None:
    """For how long an event of this time has waited in the wagon. One that is replayed may be years old, and has waited
    since its wagon was opened at most."""
    if at is None:
        return None
    return max(0.0, now - (max(at, wagon.opened_at) if wagon.replay else at))


def checked_in(members: Sequence[Member], manifest: Manifest) -> dict[int, Deployment]:
    """What the check-ins of processes report of the live wagons that they serve, by unit."""
    found: dict[int, list[Deployment]] = {}
    live = {wagon.number: wagon for wagon in manifest.wagons if wagon.state in LIVE}
    for member in members:
        for each in member.attachments:
            wagon = live.get(each.number)
            if wagon is None:
                continue  # the process detaches by itself
            found.setdefault(wagon.unit, []).append(since_losses(each, wagon))
    return {unit: together(each) for unit, each in found.items()}


def since_losses(found: Deployment, wagon: Wagon) -> Deployment:
    """The report on a wagon's workers; not ready if it is older than the wagon's last loss of its workers."""
    if not found.ready or found.losses is None or found.losses >= wagon.losses:
        return found
    return msgspec.structs.replace(found, ready=False, trouble="they were attached before it lost its workers")
