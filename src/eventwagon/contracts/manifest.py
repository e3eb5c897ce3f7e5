"""The manifest: the one small document that all processes of a train share. Its edits are pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ..display.text import said
from ..errors import BrokenManifest, Defect
from ..event import DEAD, Channel
from .documents import as_read
from .lifecycle import LIVE, Move, State, after

FORMAT = 4
"""The newest form of the manifest that this code reads, and the one that it works with. Newer code fills in what an
older document lacks. Older code would drop a field that it does not know when it writes: one that must not be lost
needs a new form."""
_WITHOUT_PAUSES = 3
"""The form that is written while nothing is paused or being removed: older code can go on with that."""


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """No event is handed out, until somebody resumes."""

    why: str
    at: float
    by: str = ""
    """Who paused it."""
    publishing: bool = False
    """Publishers are refused too."""


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """The train is being removed: it takes no events, and its processes end."""

    why: str
    at: float
    by: str = ""


class Wagon(msgspec.Struct, frozen=True, kw_only=True):
    """One wagon in the manifest. Times are seconds since the Unix epoch, None while it has not happened."""

    number: int
    state: State = State.PROVISIONING
    channels: tuple[str, ...] = ()
    """Its inner channels, parents before children; the ingress and the dead letters are understood."""
    capacity: int | None = None
    """The bound on its ingress, where the broker holds it exactly; None: none, or lifted."""
    opened_because: str = ""
    opened_at: float
    created_at: float | None = None
    """Its channels take writes since."""
    attempts: int = 0
    """Failed attempts at getting it ready."""
    losses: int = 0
    """How many times it was READY and lost its workers: what was said of it before counts no more."""
    reuses: int | None = None
    """The unit of workers that serves it, where that is not its own: the warm workers of a drained wagon, as a rule."""
    revision: str = ""
    """The code that serves it; empty: whatever runs."""
    asleep_at: float | None = None
    """Its workers were sent home because nothing was to be done; what is published is stored, and wakes them."""
    trouble: str = ""
    """Why the last attempt failed."""
    ready_at: float | None = None
    active_at: float | None = None
    turn: int = 0
    """Which of the train's wagons it was, in the order in which they became active; 0: it never was. That order is not
    always the order of the numbers."""
    closed_because: str = ""
    closed_at: float | None = None
    """Cut off from ingestion: the switch."""
    sealed_at: float | None = None
    found_sealed: bool = False
    """A publisher found it sealed though it is the active one: it takes no more events, and nothing but the next wagon
    helps."""
    drained_at: float | None = None
    published: int | None = None
    """Events it took at its ingress: known once it is drained."""
    settled: int | None = None
    lost: int = 0
    """Events that went from the broker without being settled, as far as that was told."""
    letters_lost: int = 0
    """Dead letters of it that went from the broker, as far as that was told. Older code drops it: then it is told
    twice."""
    paused: Pause | None = None
    """This wagon alone is paused; the train may be, too."""

    @property
    def name(self) -> str:
        """What it is called in messages: `wagon 1`. Channels have their own names."""
        return f"wagon {self.number}"

    @property
    def unit(self) -> int:
        """The number that its workers go by."""
        return self.number if self.reuses is None else self.reuses


class Request(msgspec.Struct, frozen=True):
    """A switch that was asked for, until it is done or given up."""

    why: str
    at: float
    revision: str | None = None
    """The code that the next wagon is to run; None: the same as now."""
    watch: float | None = None
    """Go back when more than this share of the new wagon's handlings fail; None: don't look."""
    by: str = ""
    """Who asked for it; empty: not told (older code, or the train itself)."""


class Watch(msgspec.Struct, frozen=True):
    """A wagon with new code whose failures are looked at for as long as it lives."""

    number: int
    back: str
    """The revision to go back to."""
    share: float
    """More failed handlings than this share of all are too many."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One train: its live wagons in the order of their numbers, and what all its processes agreed on."""

    train: str
    format: int = FORMAT
    """The version of this document's form."""
    wagons: tuple[Wagon, ...] = ()
    next_number: int = 1
    """The number of the next wagon: numbers are never used twice."""
    turns: int = 0
    """How many wagons have become active."""
    declared: Mapping[str, str] = {}
    """The settings that the train was declared with, in words."""
    channels: tuple[str, ...] = ()
    """The inner channels that it was declared with."""
    revision: str = ""
    """The code that new wagons run; ingestion is redirected to no other."""
    request: Request | None = None
    watch: Watch | None = None
    refusing: str = ""
    """Why publishers are refused (at the cap); empty when they are not."""
    failed_opens: int = 0
    """Wagons in a row that never got ready."""
    stops: int = 0
    """Goes up by one when the train's processes are asked to end: each ends that started before."""
    epoch: int = 0
    """How many times the registry was found to have stepped back to an older manifest (restored from a copy, a
    promoted replica). Older code drops it, and the fields that follow: then something is told twice."""
    lost_wagons: tuple[int, ...] = ()
    """Of the wagons that the registry forgot, those whose lost events were told."""
    letters_lost: int = 0
    """Dead letters of removed wagons that went from the broker, as far as that was told."""
    stepped_back_at: float | None = None
    """When that was found the last time."""
    stepped_back_to: int = 0
    """The revision that it was found at then; 0: it held no manifest."""
    paused: Pause | None = None
    """All wagons are paused, those to come too."""
    removal: Removal | None = None

    @property
    def active(self) -> Wagon | None:
        """The wagon that takes what is published; None only before the first is ready."""
        return next((w for w in self.wagons if w.state is State.ACTIVE), None)

    def wagon(self, number: int) -> Wagon | None:
        """The live wagon of that number."""
        return next((w for w in self.wagons if w.number == number), None)

    @property
    def ready(self) -> list[Wagon]:
        """The wagons that ingestion may be redirected to, the first to come first: READY, with the code that is
        wanted."""
        return [w for w in self.wagons if w.state is State.READY and w.revision == self.revision]

    def pause_of(self, wagon: Wagon) -> Pause | None:
        """Why none of its events is handed out: the train's pause, or its own; None while they are."""
        return self.paused or wagon.paused

    def own_pause(self, number: int | None) -> Pause | None:
        """The pause that was asked for of the whole train (None), or of that wagon alone; None where there is none."""
        if number is None:
            return self.paused
        wagon = self.wagon(number)
        return None if wagon is None else wagon.paused

    def in_state(self, *states: State) -> list[Wagon]:
        """The wagons in any of these states, in the order of their numbers."""
        return [w for w in self.wagons if w.state in states]

    def revision_before(self, revision: str) -> str | None:
        """The code to go back to from `revision`: what the active wagon runs, or where that is the same, what a watched
        wagon with that code goes back to. None: there is no other."""
        active, watch = self.active, self.watch
        if active is None or active.revision != revision:
            return None if active is None else active.revision
        watched = None if watch is None else self.wagon(watch.number)
        return watch.back if watch is not None and watched is not None and watched.revision == revision else None

    def ingress(self, wagon: Wagon) -> Channel:
        """The channel that takes what is published to the train while `wagon` is active."""
        return Channel(self.train, wagon.number)

    def working_channels(self, wagon: Wagon) -> list[Channel]:
        """The channels that its workers serve: the ingress first, then the inner ones."""
        return [Channel(self.train, wagon.number, name) for name in ("", *wagon.channels)]

    def dead_letters(self, wagon: Wagon) -> Channel:
        """Where its dead letters wait to be moved out."""
        return Channel(self.train, wagon.number, DEAD)


def opened(manifest: Manifest, *, now: float, because: str, capacity: int | None, unit: int | None = None) -> Manifest:
    """The manifest with one more wagon, PROVISIONING, under a number never used before; served by `unit`, or by
    one of its own."""
    wagon = Wagon(
        number=manifest.next_number,
        channels=manifest.channels,
        capacity=capacity,
        reuses=unit,
        revision=manifest.revision,
        opened_because=because,
        opened_at=now,
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


def switched(manifest: Manifest, *, to: int, now: float, because: str) -> Manifest:
    """The switch: wagon `to` becomes ACTIVE and the active one, if there is one, DRAINING, in one edit."""
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
    """Raise Defect unless it is one that the steps can lead to (I2 among others)."""
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
            raise Defect(f"train {manifest.train}: {wagon.name} is {wagon.state} but was never sealed")
        if wagon.state in (State.READY, State.ACTIVE) and wagon.created_at is None:
            raise Defect(f"train {manifest.train}: {wagon.name} is {wagon.state} without channels")


def _standing(manifest: Manifest, number: int) -> Wagon:
    wagon = manifest.wagon(number)
    if wagon is None:
        raise Defect(f"train {manifest.train} has no wagon {number}")
    return wagon


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Manifest)


class _Format(msgspec.Struct):
    format: int = 1


_format_decoder = msgspec.json.Decoder(_Format)


def encode(manifest: Manifest) -> bytes:
    """The manifest as JSON, as registries keep it."""
    if not (manifest.removal or manifest.paused or any(w.paused for w in manifest.wagons)):
        manifest = msgspec.structs.replace(manifest, format=_WITHOUT_PAUSES)
    return _encoder.encode(manifest)


def sound(manifest: Manifest) -> Manifest:
    """The manifest as every process will read it. Raises Defect where none could, or where no sequence of steps leads
    to it: it must not be stored."""
    read = as_read(manifest, _decoder)
    check(read)
    return read


def decode(data: bytes | str, *, train: str = "", kept: str = "its registry") -> Manifest:
    """The manifest of `encode`. Raises BrokenManifest, also for one in a newer form than this code knows; `kept` says
    where it is, and how to look at it there."""
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
            "processes that run go on with what they know, and take it up by themselves. If a newer eventwagon wrote it, "
            "upgrade this program too (pip install --upgrade eventwagon)"
        ) from e
    raise BrokenManifest(
        f"{name} was written by a newer eventwagon (form {form}, this one knows {FORMAT}): upgrade this program too "
        f"(pip install --upgrade eventwagon). It is kept in {kept}"
    )


def _lifted(manifest: Manifest, form: int) -> Manifest:
    """A manifest read in form `form` in ours. In form 1 wagons became active in the order of their numbers; before form
    3 the channels of a drained wagon might be going already."""
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
    """Says of a later manifest whether wagon `number` is gone, and all that took events before it. Numbers are not
    always the order in which wagons took events, and which one it was is no longer known of a wagon that is gone
    already."""
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
