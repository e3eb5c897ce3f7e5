"""The invariants about events: none lost (I1), seals hold (I4), removed only when empty (I5), emits before settling
(I6)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set

from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest
from eventwagon.event import DEAD, Channel

from .history import (
    Accepted,
    Asked,
    Committed,
    Crashed,
    Created,
    Deleted,
    Faulted,
    Handled,
    Kept,
    Paused,
    Produced,
    Record,
    Revised,
    SealedChannel,
    Settled,
    Stored,
)
from .violation import Violation


class Books:
    """A history, indexed."""

    def __init__(self, history: Iterable[Record]) -> None:
        self.history = list(history)
        self.stored: dict[str, list[Stored]] = {}
        """By key, dead letters too."""
        self.handled: dict[str, list[Handled]] = {}
        self.accepted: dict[str, Accepted] = {}
        self.kept: dict[str, list[Kept]] = {}
        """By key: events for later."""
        self.produced: dict[str, Produced] = {}
        """By position: records of the flow that others write."""
        self.committed: dict[str, Committed] = {}
        """By key: the first time."""
        for record in self.history:
            match record:
                case Stored():
                    self.stored.setdefault(record.key, []).append(record)
                case Handled():
                    self.handled.setdefault(record.key, []).append(record)
                case Accepted():
                    self.accepted.setdefault(record.key, record)
                case Kept():
                    self.kept.setdefault(record.key, []).append(record)
                case Produced():
                    self.produced[record.position] = record
                case Committed():
                    for position in record.positions:
                        self.committed.setdefault(self.produced[position].key, record)

    def was_dead(self, key: str, before: int) -> bool:
        """It stood in dead letters before that moment."""
        return any(s.seq < before and s.channel.name == DEAD for s in self.stored.get(key, ()))

    def was_done(self, key: str, before: int) -> bool:
        """It had been handled, or it or what it came from stood in dead letters, before that moment."""
        if any(h.seq < before for h in self.handled.get(key, ())):
            return True
        return self.was_dead_above(key, before)

    def was_handled_before_its_letter(self, key: str, channel: Channel) -> bool:
        """A process that had lost its claim gave the event up when another had handled it: nothing goes with that
        letter."""
        letter = min((s.seq for s in self.stored.get(key, ()) if s.channel == channel), default=0)
        return any(h.seq < letter for h in self.handled.get(key, ()))

    def was_dead_above(self, key: str, before: int) -> bool:
        """It or what it came from stood in dead letters before that moment."""
        parts = key.split("/")  # a key is its parent's and what was emitted
        return any(self.was_dead("/".join(parts[:n]), before) for n in range(len(parts), 0, -1))


def events_kept(books: Books, dead: frozenset[str]) -> Iterator[Violation]:
    """I1: what was accepted, or committed in the flow of others, is handled or dead; so is all that its handling
    emitted. One key, one id."""
    for key, accepted in books.accepted.items():
        stored = [s for s in books.stored.get(key, ()) if s.channel.name == "" and s.seq < accepted.seq]
        if not stored and not any(k.seq < accepted.seq for k in books.kept.get(key, ())):
            yield Violation(
                invariant="I1", says=f"{key} was accepted and never stored", key=key, moments=(accepted.seq,)
            )
        yield from _chain(books, key, dead)
    for key in books.committed:
        yield from _chain(books, key, dead)
    for key, records in books.stored.items():
        if any(s.channel.name not in ("", DEAD) for s in records):
            ancestors = ["/".join(key.split("/")[:n]) for n in range(1, key.count("/") + 1)]
            if not dead.intersection(ancestors):
                yield from _chain(books, key, dead)
        ids = {s.id for s in records}
        if len(ids) > 1:
            yield Violation(
                invariant="I1",
                says=f"{key} was stored under {len(ids)} ids: its duplicates can't be recognised",
                key=key,
                moments=tuple(s.seq for s in records[:4]),
            )


def _chain(books: Books, key: str, dead: frozenset[str]) -> Iterator[Violation]:
    """An event, and what came of it: dead, or handled with all that it emitted, at least once."""
    lost = _lost(books, key, dead)
    if lost is not None:
        stored = books.stored.get(lost, [])
        how = "accepted" if lost in books.accepted else "committed" if lost in books.committed else "emitted"
        yield Violation(
            invariant="I1",
            says=f"{lost} was {how} and is neither handled nor dead",
            key=lost,
            wagon=stored[0].channel.wagon if stored else 0,
            moments=tuple(r.seq for r in (*stored, *books.handled.get(lost, ()))[:6]),
        )


def _lost(books: Books, key: str, dead: frozenset[str]) -> str | None:
    """The event of this chain that is neither handled nor dead."""
    if key in dead:
        return None
    lost: str | None = key
    for handled in books.handled.get(key, ()):
        for _, child in handled.children:
            lost = _lost(books, child, dead)
            if lost is not None:
                break
        else:
            return None
    return lost


def seals_hold(books: Books, *, fences: bool) -> Iterator[Violation]:
    """I4: nothing is stored in an ingress after a seal of it returned, nor once the manifest says that it is sealed.

    A channel that rose again (a stale process made it anew after its removal) is another one: what is stored there is
    not lost, which I1 holds. Without fences, a publish that was held up on its way (the process was stopped, the call
    delayed) may come late, which I1 holds as well; one that was not held up may not.
    """
    sealed: dict[Channel, int] = {}
    gone: set[Channel] = set()
    held_up: set[str] = set()
    for record in books.history:
        match record:
            case SealedChannel(stood=True) if fences:
                sealed.setdefault(record.channel, record.seq)
            case Deleted():
                gone.add(record.channel)
                sealed.pop(record.channel, None)
            case Created(fresh=True):
                sealed.pop(record.channel, None)
            case Revised():
                for wagon in record.manifest.wagons:
                    ingress = record.manifest.ingress(wagon)
                    if wagon.sealed_at is not None and ingress not in gone:
                        sealed.setdefault(ingress, record.seq)
            case Paused() | Faulted(kind="delay" | "in-flight"):
                held_up.add(record.by)
            case Stored() if record.channel in sealed and (fences or record.by not in held_up):
                yield Violation(
                    invariant="I4",
                    says=f"{record.key} was stored in {record.channel} by {record.by} after it was sealed",
                    key=record.key,
                    wagon=record.channel.wagon,
                    moments=(sealed[record.channel], record.seq),
                )


def taken_away(books: Books) -> Iterator[Violation]:
    """I5: a channel goes only when its wagon was sealed, then drained, is being removed, and is empty but for
    duplicates; its dead letters are kept elsewhere by then.

    Duplicates of what was handled may come late: a worker that was given up for dead emits again, under the same ids,
    or a stale publisher tries again. Where its event went to the dead letters meanwhile, that letter stands for all of
    the chain.
    """
    manifest = Manifest(train="")
    standing: dict[Channel, dict[str, Stored]] = {}
    settled: set[str] = set()
    late: set[str] = set()
    for record in books.history:
        match record:
            case Stored():
                wagon = manifest.wagon(record.channel.wagon)
                if not record.channel.name and wagon is not None and wagon.sealed_at is not None:
                    late.add(record.key)  # I4 judges that; what comes after the proof does not make it wrong
                if record.id not in settled:  # else a duplicate
                    standing.setdefault(record.channel, {})[record.id] = record
            case Settled():
                settled.add(record.id)
                standing.get(record.channel, {}).pop(record.id, None)
            case Revised():
                yield from _drained_after_sealed(manifest, record)
                yield from _drained_when_empty(books, manifest, record, standing, late)
                manifest = record.manifest
            case Deleted(stood=True) if record.channel.wagon:
                yield from _deleted(books, manifest, record)


def _drained_after_sealed(before: Manifest, record: Revised) -> Iterator[Violation]:
    for wagon in record.manifest.wagons:
        old = before.wagon(wagon.number)
        is_new = wagon.state is State.DRAINED and (old is None or old.state is not State.DRAINED)
        if is_new and (old is None or old.sealed_at is None):
            yield Violation(
                invariant="I5",
                says=f"wagon {wagon.number} was called drained in a version before which it was not sealed",
                wagon=wagon.number,
                moments=(record.seq,),
            )


def _drained_when_empty(
    books: Books,
    before: Manifest,
    record: Revised,
    standing: Mapping[Channel, Mapping[str, Stored]],
    late: Set[str],
) -> Iterator[Violation]:
    for wagon in record.manifest.in_state(State.DRAINED):
        old = before.wagon(wagon.number)
        if old is None or old.state is State.DRAINED:
            continue
        left = [s for c in record.manifest.working_channels(wagon) for s in standing.get(c, {}).values()]
        left = [s for s in left if s.key.split("/")[0] not in late and not books.was_dead_above(s.key, record.seq)]
        for stored in left[:1]:
            yield Violation(
                invariant="I5",
                says=f"wagon {wagon.number} was called drained while {stored.key} in {stored.channel} was not settled",
                key=stored.key,
                wagon=wagon.number,
                moments=(stored.seq, record.seq),
            )


def _deleted(books: Books, manifest: Manifest, record: Deleted) -> Iterator[Violation]:
    channel = record.channel
    wagon = manifest.wagon(channel.wagon)
    if wagon is not None and wagon.state not in (State.REMOVING, State.FAILED):
        yield Violation(
            invariant="I5",
            says=f"{channel} was deleted while wagon {wagon.number} was {wagon.state}",
            wagon=channel.wagon,
            moments=(record.seq,),
        )
    for _, key in record.left:
        if channel.name == DEAD:
            kept = any(s.seq < record.seq and s.channel.wagon == 0 for s in books.stored.get(key, ()))
            kept = kept or books.was_handled_before_its_letter(key, channel)
        else:
            kept = books.was_done(key, record.seq) or any(
                s.seq < record.seq and s.channel != channel for s in books.stored.get(key, ())
            )
        if not kept:
            what = "a dead letter" if channel.name == DEAD else "an event that nobody had handled"
            yield Violation(
                invariant="I5",
                says=f"{channel} was deleted with {key}, {what}",
                key=key,
                wagon=channel.wagon,
                moments=(*(s.seq for s in books.stored.get(key, ())[:2]), record.seq),
            )


def letters_once(books: Books) -> Iterator[Violation]:
    """I5: where nothing has failed and nobody died, stood still or was asked to end, perhaps amid a removal, a dead
    letter is moved out once. One of a bridge is out from the beginning."""
    bridged = {record.key for record in books.produced.values() if not record.fits}
    for record in books.history:
        if isinstance(record, Crashed | Faulted | Paused) or (isinstance(record, Asked) and record.what == "stop"):
            return
    for key, stored in books.stored.items():
        letters = [s for s in stored if s.channel.name == DEAD]
        moved = [s for s in letters if not s.channel.wagon]
        if len(moved) > max(1, len(letters) - len(moved) + (key in bridged)):
            says = f"the dead letter of {key} was moved out {len(moved)} times"
            yield Violation(invariant="I5", says=says, key=key, moments=tuple(s.seq for s in moved))


def order_of_emits(books: Books) -> Iterator[Violation]:
    """I6: an event is settled only after a handling of it whose emits were all stored, or after its dead letter was."""
    for record in books.history:
        if not isinstance(record, Settled):
            continue
        key, at = record.key, record.seq
        if books.was_dead(key, at):
            continue
        if not record.channel.name and any(k.channel for k in books.kept.get(key, ())):
            yield from _passed_on(books, record)
            continue
        handled = [h for h in books.handled.get(key, ()) if h.seq < at]
        if not handled:
            yield Violation(
                invariant="I6",
                says=f"{key} was settled in {record.channel} and had not been handled",
                key=key,
                wagon=record.channel.wagon,
                moments=(at,),
            )
            continue
        missing = [_missing(books, h, at) for h in handled]
        if all(missing):
            yield Violation(
                invariant="I6",
                says=f"{key} was settled in {record.channel} before its {missing[0]} was stored",
                key=key,
                wagon=record.channel.wagon,
                moments=(handled[0].seq, at),
            )


def _passed_on(books: Books, settled: Settled) -> Iterator[Violation]:
    """What was emitted for later comes through the ingress: it is settled there once its own channel has it."""
    if not any(s.seq < settled.seq and s.channel.name not in ("", DEAD) for s in books.stored.get(settled.key, ())):
        yield Violation(
            invariant="I6",
            says=f"{settled.key} was settled in {settled.channel} before it was stored in the channel that it is for",
            key=settled.key,
            wagon=settled.channel.wagon,
            moments=(settled.seq,),
        )


def _missing(books: Books, handled: Handled, at: int) -> str:
    """What this handling emitted and had not been stored, or kept for later, at that moment."""
    for name, child in handled.children:
        if any(k.seq < at and k.channel == name for k in books.kept.get(child, ())):
            continue
        if not any(s.seq < at and s.channel.name == name for s in books.stored.get(child, ())):
            return child
    return ""
