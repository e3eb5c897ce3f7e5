"""Every point between two steps at which a process may die: what stands then, and who finishes it.

The table in the docs is written from this list, and a test kills at each of its points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from eventwagon.contracts.lifecycle import LIVE, State
from eventwagon.contracts.manifest import Manifest, Wagon
from eventwagon.contracts.undo import Undo
from eventwagon.event import Channel
from eventwagon.runtime.probe import PROBE

from .scenario import Arrival, ByHand, Fault, Flow, Program, Role, Scenario, Written

LEFT_OVER = Channel("t", 1, PROBE)
"""A channel that is none of wagon 1's own: it stays when that is removed."""


class CrashPoint(NamedTuple):
    """Where to kill, as the simulation's gate sees it: at a call of `op` by a process of the role, while `when`
    holds."""

    name: str
    after: str
    """What the dying process had just done."""
    stands: str
    finishes: str
    role: Role | None
    """None: any."""
    op: str
    when: Callable[[Manifest], object] = lambda manifest: True
    nth: int = 1
    """Of the calls that fit."""
    answered: bool = False
    """Killed when the call has taken effect, before the process knows."""
    left_over: tuple[Channel, ...] = ()
    """What rises again once its wagon is removed."""
    settings: Mapping[str, float] = {}
    """Those that bring a train to that point, where the usual ones don't."""
    faults: tuple[Fault, ...] = ()
    """What else goes wrong, or a train never comes to that point."""
    later: float = 0.0
    """The share of events that are for later."""
    recorded: bool = False
    """The train has a ledger."""
    archived: bool = False
    """The train has an archive."""
    bridged: bool = False
    """Two processes bridge a flow that others write."""
    undone: bool = False
    """Somebody has the first wagon that is gone undone."""
    grows: bool = False
    """A new version of the programs, with one inner channel more, is rolled out meanwhile."""


def _in(state: State) -> Callable[[Manifest], list[Wagon]]:
    return lambda manifest: manifest.in_state(state)


def _undo(manifest: Manifest) -> Undo | None:
    return manifest.replays[0].undo if manifest.replays else None


def _fed(manifest: Manifest) -> bool:
    """An undo's first wagon takes events."""
    return _undo(manifest) is not None and any(w.undoes and w.state is State.DRAINING for w in manifest.wagons)


def _between(manifest: Manifest) -> bool:
    """The wagons of an undo's first slice are gone, and the next slice has none yet."""
    undo = _undo(manifest)
    return undo is not None and bool(undo.wagons or undo.step > 1) and not any(w.undoes for w in manifest.wagons)


def _lacks_channels(manifest: Manifest) -> bool:
    return any(w.created_at and set(manifest.channels) - set(w.channels) for w in manifest.in_state(*LIVE))


def _passed_on(manifest: Manifest) -> bool:
    return any(w.reuses is not None for w in manifest.in_state(State.PROVISIONING))


def _later(manifest: Manifest) -> bool:
    return manifest.active is not None and bool(manifest.in_state(State.PROVISIONING))


_NEVER_READY = {"provision_timeout": 0.5, "provision_attempts": 1}
_SLOW = tuple(Fault(f"work{i}", "attach", 3, "delay", 3.0) for i in (1, 2))
"""A channel of wagon 1 that rises again when that is removed."""

POINTS = (
    CrashPoint(
        "founded",
        "the founder wrote wagon 1, before it created the channels",
        "a train without an active wagon; publishers wait until their deadline",
        "the next publisher or observer",
        None,
        "create",
        lambda m: m.active is None,
    ),
    CrashPoint(
        "opened",
        "the manifest has the new wagon",
        "a PROVISIONING wagon without channels",
        "an observer creates them",
        "observe",
        "create",
        _later,
    ),
    CrashPoint(
        "half_created",
        "some channels were created",
        "a PROVISIONING wagon with some channels; creating them again changes nothing",
        "an observer",
        "observe",
        "create",
        _later,
        nth=2,
    ),
    CrashPoint(
        "created",
        "all channels were created, before the manifest recorded it",
        "a PROVISIONING wagon with channels; creating them again changes nothing",
        "an observer",
        "observe",
        "create",
        _later,
        nth=4,
        answered=True,
    ),
    CrashPoint(
        "lifted",
        "a publisher that waited for `hold` lifted the bound of the full wagon, before the manifest recorded it",
        "the channel accepts more than the manifest says",
        "the next publisher; until then the observers' figures count",
        "publish",
        "create",
        lambda m: m.active is not None and m.active.capacity is not None and m.active.number > 1,
        answered=True,
        settings={"hold": 0.0, "spares": 0, "prepare": 1.0},
    ),
    CrashPoint(
        "added",
        "a new inner channel was created in a live wagon, before the manifest recorded it",
        "a channel that the manifest does not name: nothing is emitted to it yet",
        "an observer creates it again and records it, or removes it as a leftover and creates it later",
        "observe",
        "create",
        _lacks_channels,
        answered=True,
        grows=True,
    ),
    CrashPoint(
        "switched",
        "the switch",
        "new events go to the new wagon; the old ingress still accepts those of stale publishers, which are handled",
        "an observer seals it",
        "observe",
        "seal",
    ),
    CrashPoint(
        "sealed",
        "the seal, before the manifest recorded it",
        "a sealed ingress; sealing again changes nothing",
        "an observer",
        "observe",
        "seal",
        answered=True,
    ),
    CrashPoint(
        "drained",
        "DRAINED was stored",
        "an empty wagon",
        "an observer removes it",
        "observe",
        "channels",
        _in(State.DRAINED),
    ),
    CrashPoint(
        "passed_on",
        "DRAINED was stored, and with it the new wagon of the workers (`reuse`)",
        "a new wagon without channels; the workers are still at the drained one, and nobody ends them",
        "an observer creates the channels, and the workers attach to them",
        "observe",
        "create",
        _passed_on,
        settings={"reuse": True, "keep_warm": 1.0},
    ),
    CrashPoint(
        "going_on",
        "the workers were about to go on to the new wagon (`reuse`)",
        "the new wagon is not ready; the observer asks for its unit again",
        "other workers, or newly started ones",
        "work",
        "attach",
        _passed_on,
        settings={"reuse": True, "keep_warm": 1.0},
    ),
    CrashPoint(
        "removing",
        "the last check, stored as REMOVING: from here on the removal is final",
        "an empty wagon, with its channels",
        "an observer continues",
        "observe",
        "browse",
        _in(State.REMOVING),
    ),
    CrashPoint(
        "archiving",
        "REMOVING was stored, and the workers have ended; the train has an archive",
        "a wagon whose rows are all at the broker; no file that is only in part there",
        "an observer writes the files",
        "observe",
        "archive",
        _in(State.REMOVING),
        archived=True,
    ),
    CrashPoint(
        "archived",
        "the files are in the archive, before they were compared and the manifest recorded them",
        "the rows, at the broker too",
        "an observer writes the same files again",
        "observe",
        "archive",
        _in(State.REMOVING),
        answered=True,
        archived=True,
    ),
    CrashPoint(
        "archive_noted",
        "the manifest noted that the wagon is archived",
        "the rows, which nobody needs any more, and all channels",
        "an observer goes on, without writing the files again",
        "observe",
        "browse",
        lambda m: any(w.archived is not None for w in m.in_state(State.REMOVING)),
        archived=True,
    ),
    CrashPoint(
        "half_moved",
        "some dead letters were moved",
        "these exist twice, with the same ids; the command `dead` shows each once",
        "an observer moves them again, once the dead one's check-in has run out",
        "observe",
        "publish",
        _in(State.REMOVING),
        answered=True,
    ),
    CrashPoint(
        "moved",
        "all dead letters were moved and counted",
        "these exist twice, with the same ids; the command `dead` shows each once",
        "an observer moves them again",
        "observe",
        "delete",
        _in(State.REMOVING),
    ),
    CrashPoint(
        "half_deleted",
        "some channels were deleted",
        "the other channels; deleting again changes nothing",
        "an observer",
        "observe",
        "delete",
        _in(State.REMOVING),
        nth=2,
    ),
    CrashPoint(
        "deleted",
        "all channels were deleted, before the wagon left the manifest",
        "a REMOVING wagon without channels",
        "an observer removes it from the manifest",
        "observe",
        "delete",
        _in(State.REMOVING),
        nth=4,
        answered=True,
    ),
    CrashPoint(
        "failed",
        "FAILED was stored: the workers never became ready",
        "a wagon that never received an event, with channels and perhaps workers",
        "an observer removes it",
        "observe",
        "browse",
        _in(State.FAILED),
        settings=_NEVER_READY,
        faults=_SLOW,
    ),
    CrashPoint(
        "half_failed",
        "some channels of a FAILED wagon were deleted",
        "the other channels; deleting again changes nothing",
        "an observer",
        "observe",
        "delete",
        _in(State.FAILED),
        nth=2,
        settings=_NEVER_READY,
        faults=_SLOW,
    ),
    CrashPoint(
        "left_over",
        "channels of a wagon that the manifest does not name were left, or came back",
        "leftovers",
        "an observer publishes the events in their ingress again, moves dead letters, and deletes the channels",
        "observe",
        "delete",
        lambda m: m.next_number > 2 and m.wagon(1) is None and not m.in_state(State.REMOVING, State.FAILED),
        left_over=(LEFT_OVER,),
    ),
    CrashPoint(
        "sent",
        "a publisher had sent an event, before it had the answer",
        "the event may be stored",
        "nobody: publish again with the same id",
        "publish",
        "publish",
        answered=True,
    ),
    CrashPoint(
        "claimed",
        "a worker had claimed events",
        "the events, claimed until `visibility` ends",
        "another worker, which handles them as suspects",
        "work",
        "receive",
        lambda m: m.next_number > 2,
        nth=3,
        answered=True,
    ),
    CrashPoint(
        "handled",
        "a handler had returned, before its emitted events were stored",
        "the event, claimed",
        "another worker handles it again",
        "work",
        "publish",
    ),
    CrashPoint(
        "emitted",
        "a worker had stored the emitted events, before it settled the event",
        "the event, claimed; handled again, it emits its children again, with the same ids",
        "another worker",
        "work",
        "settle",
    ),
    CrashPoint(
        "row_kept",
        "a worker had kept what came of an event for the archive, before it settled the event",
        "the event, claimed, and its row; handled again, it has two rows, and the archive gets one",
        "another worker",
        "work",
        "settle",
        archived=True,
    ),
    CrashPoint(
        "settled",
        "a worker had settled an event, before it had the answer",
        "the event is done; settling counts once",
        "nobody: nothing is left to do",
        "work",
        "settle",
        answered=True,
    ),
    CrashPoint(
        "kept",
        "a publisher had an event kept for later, before it had the answer",
        "the event may be kept",
        "nobody: publish again with the same id",
        "publish",
        "keep",
        answered=True,
        later=0.5,
    ),
    CrashPoint(
        "due",
        "an observer had claimed events that were due, before it published them",
        "the events, claimed in the timetable for ten seconds",
        "another observer publishes them",
        "observe",
        "publish",
        later=0.5,
    ),
    CrashPoint(
        "departed",
        "an observer had published events that were due, before it removed them from the timetable",
        "the events, in the active wagon and claimed in the timetable; they are published again, with the same ids",
        "another observer",
        "observe",
        "forget",
        later=0.5,
    ),
    CrashPoint(
        "unrecorded",
        "an observer had moved the dead letters of a drained wagon, before it wrote its record into the ledger",
        "the wagon with its channels, and no record",
        "another observer: it makes the record anew",
        "observe",
        "ledger",
        recorded=True,
    ),
    CrashPoint(
        "recorded",
        "an observer had written the record, before it deleted the wagon's channels",
        "the record, and the wagon with its channels",
        "another observer: it finds the record, which stays as it is",
        "observe",
        "ledger",
        answered=True,
        recorded=True,
    ),
    CrashPoint(
        "undo_claimed",
        "an observer was to feed an undo's wagon, before it published anything",
        "the wagon, which drains and is not sealed; the manifest names the dead one as its feeder",
        "another observer: it seals the wagon, and opens one for all of the slice",
        "observe",
        "publish",
        _fed,
        undone=True,
    ),
    CrashPoint(
        "undo_fed",
        "an observer had published events to an undo's wagon, before it counted them",
        "the events in the wagon, which is not sealed",
        "another observer: it seals the wagon, which says how many it got; the rest goes to another",
        "observe",
        "publish",
        _fed,
        answered=True,
        undone=True,
    ),
    CrashPoint(
        "undone",
        "a worker had undone an event, before it settled it",
        "the event, claimed; it is undone again",
        "another worker",
        "work",
        "settle",
        _fed,
        undone=True,
    ),
    CrashPoint(
        "slice_undone",
        "an observer had removed the last wagon of an undo's slice, before it said that the slice is over",
        "the undo in the manifest, with a slice that has no wagon",
        "another observer: it begins the next slice, or stops the undo",
        "observe",
        "replace",
        _between,
        undone=True,
    ),
    CrashPoint(
        "slice_begun",
        "an observer had written that the next slice of an undo begins, before it opened a wagon for it",
        "the undo in the manifest, at the next slice, without a wagon",
        "another observer opens it",
        "observe",
        "replace",
        _between,
        answered=True,
        undone=True,
    ),
    CrashPoint(
        "unbridged",
        "a bridge had read a batch of records, before it published it",
        "the batch at its source, not committed",
        "another bridge of the group, or the next one, reads it again",
        "bridge",
        "publish",
        bridged=True,
    ),
    CrashPoint(
        "uncommitted",
        "a bridge had published a batch of records, before it committed it at their source",
        "its events in the train, and the batch at its source, not committed",
        "another bridge of the group, or the next one, publishes it again, with the same ids",
        "bridge",
        "commit",
        bridged=True,
    ),
)


def scenario(point: CrashPoint, *, dead_for: float) -> Scenario:
    """Three wagons' worth of events, some poison among them, on two processes of each role. Nothing fails but what is
    hit, and what the point needs."""
    settings: dict[str, float | int | str] = {
        "spares": 1,
        "wagons": 6,
        "at_cap": "fill",
        "attempts": 2,
        "backoff": 0.2,
        "visibility": 2.0,
        "handler_timeout": 1.5,
        "cooldown": 0.1,
        "publish_timeout": 5.0,
        "grace": 2.0,
        "member_ttl": 2.0,
        "observe_every": 0.1,
        "keep": 1000,
        **point.settings,
    }
    programs = tuple(Program(f"{role}{i}", (role,)) for role in ("publish", "observe", "work") for i in (1, 2))
    if point.bridged:
        programs += tuple(Program(f"bridge{i}", ("bridge",)) for i in (1, 2))
    arrivals = tuple(Arrival(0.5 + 0.2 * i, f"publish{1 + i % 2}", 3) for i in range(10))
    return Scenario(
        seed=1,
        limit="Volume(8)",
        workers="each=2",
        settings=settings,
        programs=programs,
        arrivals=arrivals,
        faults=point.faults,
        depth=2,
        poison=0.2,
        work=0.05,
        calm_after=max(8.0, dead_for) + (40.0 if point.left_over else 0.0),  # leftovers are looked for every 30 s
        grows_at=1.0 if point.grows else None,
        later=point.later,
        recorded=point.recorded,
        archived=point.archived,
        replays=point.undone,
        undoes=point.undone,
        by_hand=(ByHand(2.0, "publish1", "undo"),) if point.undone else (),
        flow=Flow(partitions=2, idle=2.0) if point.bridged else None,
        writes=tuple(Written(0.5 + 0.4 * i, 5) for i in range(4)) if point.bridged else (),
    )


class Ambush:
    """Waits for the point, and kills there, once."""

    def __init__(self, point: CrashPoint, *, dead_for: float) -> None:
        self.struck = ""
        """The process that was hit."""
        self._point = point
        self._dead_for = dead_for
        self._seen = 0

    def __call__(self, process: str, role: Role, op: str, manifest: Manifest) -> Fault | None:
        """The fault of this call, if this is the point."""
        point = self._point
        if self.struck or point.role not in (None, role) or op != point.op or not point.when(manifest):
            return None
        self._seen += 1
        if self._seen < point.nth:
            return None
        self.struck = process
        return Fault(process, op, self._seen, "crash-after" if point.answered else "crash", self._dead_for)
