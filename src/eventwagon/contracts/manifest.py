"""The manifest: the one small document that all processes of a train share. Its edits are pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from ..display.text import said
from ..errors import BrokenManifest, Defect
from ..event import ARCHIVE, DEAD, Channel, wagon_name
from .documents import as_read
from .lifecycle import LIVE, Move, State, after
from .replay import Replay

FORMAT = 5
"""The newest form of the manifest that this code reads, and the one that it works with. Newer code fills in fields that
an older document lacks. Older code drops unknown fields when it writes, so a field that must not be lost needs a new
form."""
_WITHOUT_ARCHIVE = 4
"""The form that is written while no wagon has an archive, nothing is replayed, and the train has no `once=`: older code
can read it."""
_WITHOUT_PAUSES = 3
"""The form that is written while, besides, no delivery is paused and no train is being removed."""


RULE = "rule"
"""Who pauses a wagon by `pause_on`."""


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """No event is handed out until somebody resumes."""

    why: str
    at: float
    by: str = ""
    """Who paused it; `rule`: an observer, by `pause_on`."""
    publishing: bool = False
    """Publishers are refused too."""


class TrainRemoval(msgspec.Struct, frozen=True, kw_only=True):
    """The train is being removed: it takes no events, and its processes end."""

    why: str
    at: float
    by: str = ""


class Wagon(msgspec.Struct, frozen=True, kw_only=True):
    """One wagon in the manifest. Times are in seconds since the Unix epoch; None: it has not happened yet."""

    number: int
    state: State = State.PROVISIONING
    channels: tuple[str, ...] = ()
    """Its inner channels, parents before children, without the ingress and the dead letters."""
    capacity: int | None = None
    """The bound on its ingress, if the broker enforces it exactly; None: none, or lifted."""
    opened_because: str = ""
    opened_at: float
    created_at: float | None = None
    """Since when its channels accept writes."""
    attempts: int = 0
    """Failed attempts to make it ready."""
    losses: int = 0
    """How many times it was READY and lost its workers; earlier reports about it no longer count."""
    reuses: int | None = None
    """The unit of workers that serves it, if it is not its own: usually the warm workers of a drained wagon."""
    revision: str = ""
    """The code that serves it; empty: any."""
    workers: int | None = None
    """How many workers it should have, if their number follows the traffic; None: as many as it begins with. Older code
    drops it."""
    grown_at: float | None = None
    """When it last got more workers."""
    asleep_at: float | None = None
    """When its workers were stopped because it was idle; a published event is stored and wakes it."""
    trouble: str = ""
    """Why the last attempt failed."""
    ready_at: float | None = None
    active_at: float | None = None
    turn: int = 0
    """Its place in the order in which the train's wagons became active; 0: it never was active. That order is not
    always the order of the numbers."""
    closed_because: str = ""
    closed_at: float | None = None
    """When it was cut off from ingestion: the switch."""
    sealed_at: float | None = None
    found_sealed: bool = False
    """A publisher found the active wagon sealed: it accepts no more events, and only the next wagon helps."""
    drained_at: float | None = None
    published: int | None = None
    """Events published to its ingress: known once it is drained."""
    settled: int | None = None
    lost: int = 0
    """Events that disappeared from the broker without being settled, as far as reported."""
    letters_lost: int = 0
    """Its dead letters that disappeared from the broker, as far as reported. Older code drops this field; then they are
    reported twice."""
    archive: str = ""
    """The URL of the archive to which its events go; empty: to none."""
    archive_digest: str = ""
    """Once it is archived: the digest of the ids of all rows, see docs/archive.md."""
    archived: int | None = None
    """How many rows its removal has written there; None: not yet."""
    letters_taken: int = 0
    """Its dead letters that somebody had retried or dropped. Older code drops this field; then they are reported as
    lost."""
    paused: Pause | None = None
    """The pause of this wagon alone; the train may be paused too."""
    paused_seconds: float = 0.0
    """How long its own pauses that are over lasted, in all. Older code drops it."""
    resumed_at: float | None = None
    """When somebody ended a pause by the rule `pause_on`, which does not pause it any more. Older code drops it; then
    the rule may pause it again."""
    remover: str = ""
    """The process that removes it. Another goes on only when that one is gone, or has made no progress for long. Older
    code drops it; then some of its dead letters may be stored twice."""
    letters_kept: int | None = 0
    """How many dead letters its removal has moved out. None: it has moved them, and their number is not known: the
    channel was gone, or it could take no more and others went to the train's own. Older code drops it; then the wagon's
    record may lack them."""
    replay: int = 0
    """The number of the replay that it is for; 0: it is for new events. A wagon for a replay never becomes active."""

    undoes: int = 0
    """The number of the wagon whose events are undone in it; 0: it undoes none. Only its ingress is used."""
    undo_channel: str = ""
    """The channel in which those events were handled; empty: the ingress."""

    @property
    def unit(self) -> int:
        """The number of the unit that serves it."""
        return self.number if self.reuses is None else self.reuses


class Request(msgspec.Struct, frozen=True):
    """A requested switch, until it is done or given up."""

    why: str
    at: float
    revision: str | None = None
    """The code that the next wagon should run; None: no change."""
    watch: float | None = None
    """Go back if more than this share of the new wagon's handlings fail; None: don't watch."""
    by: str = ""
    """Who requested it; empty: not known (older code, or the train itself)."""


class Watch(msgspec.Struct, frozen=True):
    """A wagon with new code whose failures are watched for as long as it lives."""

    number: int
    back: str
    """The revision to go back to."""
    share: float
    """More failed handlings than this share of all are too many."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One train: its live wagons in the order of their numbers, and everything on which its processes agree."""

    train: str
    format: int = FORMAT
    """The version of this document's form."""
    wagons: tuple[Wagon, ...] = ()
    next_number: int = 1
    """The number of the next wagon: numbers are never used twice."""
    turns: int = 0
    """How many wagons have become active."""
    declared: Mapping[str, str] = {}
    """The settings with which the train was declared, in words."""
    channels: tuple[str, ...] = ()
    """The inner channels with which it was declared."""
    revision: str = ""
    """The code that new wagons run; events are redirected only to wagons with it."""
    request: Request | None = None
    watch: Watch | None = None
    refusing: str = ""
    """Why publishers are refused (at the cap); empty when they are not."""
    at_risk: str = ""
    """Why new events wait longer than promised, and what would be needed; empty when they don't. Older code drops
    it."""
    failed_opens: int = 0
    """How many wagons in a row never became ready."""
    stops: int = 0
    """Goes up by one when the train's processes are asked to stop: each process that started earlier stops."""
    epoch: int = 0
    """How many times the registry was found to have stepped back to an older manifest (restored from a copy, a promoted
    replica). Older code drops this field and the following ones; then something is reported twice."""
    lost_wagons: tuple[int, ...] = ()
    """The wagons that the registry forgot and whose lost events were reported."""
    letters_lost: int = 0
    """Dead letters of removed wagons that disappeared from the broker, as far as reported."""
    letters_gone: int = 0
    """Dead letters that disappeared before their wagon was removed or forgotten, as far as reported."""
    letters_taken: int = 0
    """Dead letters of removed wagons that somebody had retried or dropped. Older code drops this field; then they are
    reported as lost."""
    stepped_back_at: float | None = None
    """When a step back was last found."""
    stepped_back_to: int = 0
    """The version that the registry then had; 0: it held no manifest."""
    paused: Pause | None = None
    """The pause of all wagons, later ones included."""
    removal: TrainRemoval | None = None
    replays: tuple[Replay, ...] = ()
    """What is to be handled once more: the first of them now, the others after it."""
    replays_over: float = 0.0
    """When the last replay that is over was requested: they end in that order."""
    once_since: float = 0.0
    """When the train was declared with `once=`: part of the keys in its record of handled events. 0: never."""
    archived_in: str = ""
    """The URL of the archive that has the last wagon that was archived. Older code drops it; then a directory without
    its mark is taken for a new archive once."""
    recorded: bool = False
    """Its wagons are recorded in a ledger. Older code drops it; then an observer without a ledger removes wagons
    without a record, until the next program with one runs."""

    @property
    def active(self) -> Wagon | None:
        """The wagon that receives published events; None only before the first is ready."""
        return next((w for w in self.wagons if w.state is State.ACTIVE), None)

    def wagon(self, number: int) -> Wagon | None:
        """The live wagon of that number."""
        return next((w for w in self.wagons if w.number == number), None)

    def replay(self, number: int) -> Replay | None:
        """The replay of that number, if it is not over yet."""
        return next((r for r in self.replays if r.number == number), None)

    def state_of(self, replay: Replay) -> Literal["running", "waiting", "stopped"]:
        """Whether this replay or undo of the train runs: the first does, unless it is stopped."""
        if replay.undo is not None and replay.undo.stopped:
            return "stopped"
        return "running" if replay == self.replays[0] else "waiting"

    @property
    def ready(self) -> list[Wagon]:
        """The wagons to which ingestion may be redirected, the next one first: READY, with the wanted code."""
        return [w for w in self.spares if w.state is State.READY and w.revision == self.revision]

    @property
    def spares(self) -> list[Wagon]:
        """The wagons that may become active, ready or not."""
        return [w for w in self.in_state(State.PROVISIONING, State.READY) if not w.replay]

    @property
    def for_new_events(self) -> list[Wagon]:
        """All wagons but those for replays: what counts towards the cap."""
        return [w for w in self.wagons if not w.replay]

    def feeds(self, wagon: Wagon) -> bool:
        """Whether a replay still publishes to the wagon, so that it must not be sealed. The feeder of a cancelled one
        may have a publish under way until it lets go."""
        return any(
            r.number == wagon.replay and r.wagon == wagon.number and not r.torn and (r.feeder or not r.is_over)
            for r in self.replays
        )

    def pause_of(self, wagon: Wagon) -> Pause | None:
        """The pause that keeps the wagon's events from being handed out: the train's, or its own; None if there is
        none."""
        return self.paused or wagon.paused

    def own_pause(self, number: int | None) -> Pause | None:
        """The pause of the whole train (None), or of that wagon alone; None if there is none."""
        if number is None:
            return self.paused
        wagon = self.wagon(number)
        return None if wagon is None else wagon.paused

    def in_state(self, *states: State) -> list[Wagon]:
        """The wagons in any of these states, in the order of their numbers."""
        return [w for w in self.wagons if w.state in states]

    def revision_before(self, revision: str) -> str | None:
        """The code to go back to from `revision`. It is that of the active wagon. If that wagon runs `revision` itself,
        it is the code to which a watched wagon with `revision` goes back. None: there is no other code."""
        active, watch = self.active, self.watch
        if active is None or active.revision != revision:
            return None if active is None else active.revision
        watched = None if watch is None else self.wagon(watch.number)
        return watch.back if watch is not None and watched is not None and watched.revision == revision else None

    def ingress(self, wagon: Wagon) -> Channel:
        """The channel that receives events published to the train while `wagon` is active."""
        return Channel(self.train, wagon.number)

    def working_channels(self, wagon: Wagon) -> list[Channel]:
        """The channels that its workers serve: the ingress first, then the inner ones."""
        return [Channel(self.train, wagon.number, name) for name in ("", *wagon.channels)]

    def rows(self, wagon: Wagon) -> Channel:
        """The channel in which what came of its events waits to be archived. A wagon without an archive has none."""
        return Channel(self.train, wagon.number, ARCHIVE)

    def dead_letters(self, wagon: Wagon) -> Channel:
        """The channel in which its dead letters wait to be moved out."""
        return Channel(self.train, wagon.number, DEAD)


def opened(
    manifest: Manifest,
    *,
    now: float,
    because: str,
    capacity: int | None,
    unit: int | None = None,
    revision: str | None = None,
    archive: str = "",
    replay: int = 0,
    undoes: int = 0,
    undo_channel: str = "",
) -> Manifest:
    """The manifest with one more wagon, PROVISIONING, under a number never used before; served by `unit`, or by a unit
    of its own. `revision`: its code; None: that of new wagons. `archive`: where its events go in the end. `replay`: the
    replay that it is for. `undoes`, `undo_channel`: what is undone in it."""
    wagon = Wagon(
        number=manifest.next_number,
        channels=() if undoes else manifest.channels,
        capacity=capacity,
        reuses=unit,
        revision=manifest.revision if revision is None else revision,
        opened_because=because,
        opened_at=now,
        replay=replay,
        archive=archive,
        undoes=undoes,
        undo_channel=undo_channel,
    )
    return msgspec.structs.replace(manifest, wagons=(*manifest.wagons, wagon), next_number=manifest.next_number + 1)


def moved(manifest: Manifest, number: int, move: Move, **changes: Any) -> Manifest:
    """The manifest after wagon `number` made `move`, with `changes` to its fields. Raises IllegalMove."""
    wagon = _standing(manifest, number)
    state = after(wagon.state, move)
    if state is None:
        left = tuple(w for w in manifest.wagons if w.number != number)
        return msgspec.structs.replace(manifest, wagons=left)
    return changed(manifest, number, state=state, **changes)


def changed(manifest: Manifest, number: int, **changes: Any) -> Manifest:
    """The manifest with `changes` to the fields of wagon `number`."""
    wagon = _standing(manifest, number)
    new = msgspec.structs.replace(wagon, **changes)
    return msgspec.structs.replace(manifest, wagons=tuple(new if w is wagon else w for w in manifest.wagons))


def replay_changed(manifest: Manifest, number: int, **changes: Any) -> Manifest:
    """The manifest with `changes` to the fields of replay `number`; the same if it is over."""
    replays = tuple(msgspec.structs.replace(r, **changes) if r.number == number else r for r in manifest.replays)
    return msgspec.structs.replace(manifest, replays=replays)


def switched(manifest: Manifest, *, to: int, now: float, because: str) -> Manifest:
    """The switch: in one edit, wagon `to` becomes ACTIVE and the active one, if there is one, DRAINING."""
    active, asked, watch = manifest.active, manifest.request, manifest.watch
    if active is not None:
        back = manifest.revision_before(asked.revision or "") if asked is not None else None
        manifest = moved(manifest, active.number, Move.CUT_OFF, closed_at=now, closed_because=because, asleep_at=None)
        if asked is not None and asked.revision is not None:
            watch = Watch(to, back, asked.watch) if asked.watch is not None and back is not None else None
    turn = manifest.turns + 1
    manifest = moved(manifest, to, Move.ACTIVATED, active_at=now, turn=turn)
    return msgspec.structs.replace(manifest, turns=turn, request=None, watch=watch, refusing="", failed_opens=0)


def check(manifest: Manifest) -> None:
    """Raise Defect unless a sequence of edits can lead to this manifest (I2 among other rules)."""
    if manifest.format != FORMAT:
        raise Defect(f"train {manifest.train}: the manifest is in form {manifest.format}, not {FORMAT}")
    numbers = [w.number for w in manifest.wagons]
    active = manifest.in_state(State.ACTIVE)
    if numbers != sorted(set(numbers)) or (numbers and numbers[-1] >= manifest.next_number):
        raise Defect(f"train {manifest.train}: wagon numbers {numbers}, next {manifest.next_number}")
    if len(active) > 1:
        raise Defect(f"train {manifest.train}: wagons {[w.number for w in active]} are all active")
    units = [w.unit for w in manifest.wagons if w.state in LIVE]
    if len(units) != len(set(units)):
        raise Defect(f"train {manifest.train}: wagons share workers: units {units}")
    for wagon in manifest.wagons:
        if wagon.state in (State.DRAINED, State.REMOVING) and wagon.sealed_at is None:
            raise Defect(f"{wagon_name(manifest.train, wagon.number)} is {wagon.state} but was never sealed")
        if wagon.state in (State.READY, State.ACTIVE) and wagon.created_at is None:
            raise Defect(f"{wagon_name(manifest.train, wagon.number)} is {wagon.state} without channels")


def _standing(manifest: Manifest, number: int) -> Wagon:
    wagon = manifest.wagon(number)
    if wagon is None:
        raise Defect(f"there is no wagon {wagon_name(manifest.train, number)}")
    return wagon


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Manifest)


class _Format(msgspec.Struct):
    format: int = 1


_format_decoder = msgspec.json.Decoder(_Format)


def encode(manifest: Manifest) -> bytes:
    """The manifest as JSON, as registries store it."""
    if not (manifest.replays or manifest.once_since or any(w.replay or w.archive for w in manifest.wagons)):
        paused = manifest.removal or manifest.paused or any(w.paused for w in manifest.wagons)
        manifest = msgspec.structs.replace(manifest, format=_WITHOUT_ARCHIVE if paused else _WITHOUT_PAUSES)
    return _encoder.encode(manifest)


def sound(manifest: Manifest) -> Manifest:
    """The manifest as every process will read it. Raises Defect if no process could, or if no sequence of edits leads
    to it: it must not be stored."""
    read = as_read(manifest, _decoder)
    check(read)
    return read


def decode(data: bytes | str, *, train: str = "", kept: str = "its registry") -> Manifest:
    """The manifest that `encode` wrote. Raises BrokenManifest, also if its form is newer than this code knows; `kept`
    says where it is stored, and how to look at it there."""
    name = f"the manifest of train {train}" if train else "the manifest"
    try:
        form = _format_decoder.decode(data).format
        if form <= FORMAT:
            manifest = _lifted(_decoder.decode(data), form)
            check(manifest)
            return manifest
    except (ValueError, RecursionError, Defect) as e:
        raise BrokenManifest(
            f"{name} can't be read: {said(e)}. It is kept in {kept}. Put a good copy back there, or mend it by hand; "
            "processes that run go on with what they know, and take it up by themselves. If a newer eventwagon wrote "
            "it, upgrade this program too (pip install --upgrade eventwagon)"
        ) from e
    raise BrokenManifest(
        f"{name} was written by a newer eventwagon (form {form}, this one knows {FORMAT}): upgrade this program too "
        f"(pip install --upgrade eventwagon). It is kept in {kept}"
    )


def _lifted(manifest: Manifest, form: int) -> Manifest:
    """A manifest read in form `form`, converted to our form. In form 1 wagons became active in the order of their
    numbers; before form 3 the channels of a drained wagon might already be in deletion."""
    if form < 2:
        turns = {w.number: w.number if w.active_at is not None else 0 for w in manifest.wagons}
        wagons = tuple(msgspec.structs.replace(w, turn=turns[w.number]) for w in manifest.wagons)
        manifest = msgspec.structs.replace(manifest, wagons=wagons, turns=manifest.next_number - 1)
    if form < 3:
        going = {w.number for w in manifest.in_state(State.DRAINED)}
        wagons = tuple(
            msgspec.structs.replace(w, state=State.REMOVING) if w.number in going else w for w in manifest.wagons
        )
        manifest = msgspec.structs.replace(manifest, wagons=wagons)
    return manifest if form == FORMAT else msgspec.structs.replace(manifest, format=FORMAT)


def gone_by(manifest: Manifest, number: int) -> Callable[[Manifest], bool]:
    """A test for later manifests: whether wagon `number` is gone, and so are all that took events before it. Wagons do
    not always take events in the order of their numbers, and the turn of a wagon that is already gone is no longer
    known."""
    spares = {w.number for w in manifest.wagons if not w.turn}
    turn = 0

    def is_gone(later: Manifest) -> bool:
        nonlocal turn
        wagon = later.wagon(number)
        turn = wagon.turn if wagon is not None and wagon.turn else turn
        if turn:
            return all(not 0 < w.turn <= turn for w in later.wagons)
        if wagon is None and number < later.next_number:
            return all(w.number > number or not w.turn or w.state is State.ACTIVE for w in later.wagons)
        return all(w.number > number or w.number in spares for w in later.wagons)

    return is_gone
