"""Which dead letters somebody means, what a retry would do with them, and the form in which they go on living. Pure.

What a dead letter holds, on every driver alike: the event as it was (id, source, type, subject, time, attributes and
data), and as extension attributes the reason (`deadbecause`), the channel, the wagon and the time of its death
(`deadchannel`, `deadwagon`, `deadat`), its attempts in all its lives (`deadattempts`) and, if it was retried before,
how often (`deadretries`). `deadsize` says that its data was cut, since the broker took no more.

A letter has no key of its own: it is known by its id and its channel. A crash may have stored it twice (the removal of
a wagon, a retry); all letters with the same id and channel count as one, and the one that died last is shown. What
could not be undone of a channel is told apart from what died in it.

A preview is a digest over the letters that a filter chose: ids, channels, times of death and retries. The wagon is no
part of it, nor is the place: a letter that a removal moves meanwhile is the same letter. An event that dies meanwhile
and fits the filter makes another set, and so does a letter that somebody else retries.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import NamedTuple

import msgspec

from ..contracts.facts import DeadLettersDropped, DeadLettersRetried
from ..contracts.manifest import Manifest, changed
from ..contracts.timetable import CHANNEL
from ..display.text import plain
from ..errors import UsageError
from ..event import DEATH, UNDO, UNDO_CHANNEL, Event
from ..settings import Settings
from ..values import is_a, items, shown, whole
from ..values import plain as as_str
from .edits import Edit

RETRIES = 3
"""A letter that died again after so many retries stays where it is, unless somebody asks for more."""
_CHANGING = re.compile(
    rf"(utf-?\d+|base64|\b(?:{'|'.join(Settings.__struct_fields__)})=\d[\d,._]*|\bu\+[0-9a-f]{{4,6}}\b)|"
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b0x[0-9a-f]+\b|\b[0-9a-f]{16,}\b|\d+(?:[.,:]\d+)*",
    re.IGNORECASE,
)
"""Ids, addresses and numbers: what differs between two errors of one kind. Group 1: what does not, although it has
digits: an encoding, a character, a setting."""

Mark = tuple[str, str]
"""By what a letter is known: its id, and the channel in which it died."""
Death = tuple[str, str, float, int]
"""The same with when it died, and after how many retries: an event that is retried and dies again is another letter."""


class DeadFilter(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Which dead letters are meant: those for which everything holds that is given. Refused (UsageError) if nothing is;
    `DeadFilter(all=True)` means all of them.

    `ids`: any of these. `wagon`: the number of the wagon in which they died. `channel`: the inner channel in which
    they died, or of which they could not be undone; empty: the ingress. `type`, `subject`: exactly so. `error`: a part
    of the reason, in upper or lower case, as it is or as groups have it (`#` for numbers and ids). `since`, `until`:
    when they died, as an aware datetime or in seconds since the epoch; `since` is included, `until` is not.
    """

    ids: Sequence[str] = ()
    wagon: int | None = None
    channel: str | None = None
    type: str | None = None
    subject: str | None = None
    error: str | None = None
    since: datetime | float | None = None
    until: datetime | float | None = None
    all: bool = False

    def __post_init__(self) -> None:
        set_to = msgspec.structs.force_setattr
        ids = () if is_a(self.ids, str) else items("ids", self.ids)
        if is_a(self.ids, str) or not all(is_a(each, str) and each for each in ids):
            raise UsageError(f"ids={shown(self.ids)}: give a list of ids")
        set_to(self, "ids", tuple(map(str.__str__, ids)))
        if self.wagon is not None:
            set_to(self, "wagon", whole("wagon", self.wagon))
        for name in ("channel", "type", "subject", "error"):
            if (value := getattr(self, name)) is not None:
                if (text := as_str(value)) is None:
                    raise UsageError(f"{name}={shown(value)}: give text")
                if not text.strip() and name != "channel":
                    raise UsageError(f"{name} is empty: leave it out, or give what to look for")
                set_to(self, name, text)
        for name in ("since", "until"):
            if (given := getattr(self, name)) is not None:
                set_to(self, name, moment(name, given))
        if not is_a(self.all, bool):
            raise UsageError(f"all={shown(self.all)}: give True or False")
        if not self.all and not self.words:
            raise UsageError(
                "the filter is empty: say which dead letters are meant (by id, wagon, channel, type, subject, error or "
                "time), or say that all are"
            )
        if self.all and self.words:
            raise UsageError(f"all the dead letters, or those with {', '.join(self.words)}: give one, not both")

    @cached_property
    def _ids(self) -> frozenset[str]:
        """To look one up among many."""
        return frozenset(self.ids)

    @property
    def words(self) -> list[str]:
        """What is given, each as `name=value`."""
        given = {name: getattr(self, name) for name in self.__struct_fields__ if name not in ("ids", "all")}
        ids = [f"id={shown(self.ids[0])}" if len(self.ids) == 1 else f"{len(self.ids):,} ids"] if self.ids else []
        return ids + [f"{name}={shown(value)}" for name, value in given.items() if value is not None]

    def __str__(self) -> str:
        return plain(", ".join(self.words) or "all", 300)

    def takes(self, letter: DeadLetter) -> bool:
        """Whether this letter is meant."""
        event = letter.event
        return (
            (not self.ids or event.id in self._ids)
            and self.wagon in (None, letter.wagon)
            and self.channel in (None, letter.channel)
            and self.type in (None, event.type)
            and self.subject in (None, event.subject)
            and (self.error is None or _found_in(self.error, letter.because))
            and (self.since is None or letter.died_at >= self.since)  # type: ignore[operator]  # seconds by now
            and (self.until is None or letter.died_at < self.until)  # type: ignore[operator]
        )


class DeadLetter(NamedTuple):
    """A dead letter: the event as it is stored, and what its attributes say of its death. Another program may have
    written them; what can't be read is empty or 0."""

    event: Event
    because: str
    channel: str
    """The inner channel in which it died, or of which it could not be undone; empty: the ingress."""
    wagon: int
    attempts: int
    """In all its lives."""
    died_at: float
    retries: int
    """How often it was retried before it died again."""

    @property
    def mark(self) -> Mark:
        """By what it is known."""
        return self.event.id, f"undo of {self.channel}" if self.was_undone else self.channel

    @property
    def death(self) -> Death:
        """By what it is told from the letter of an earlier or later death of the same event."""
        return *self.mark, self.died_at, self.retries

    @property
    def is_cut(self) -> bool:
        """Its data is not whole, so that it can't be handled again."""
        return "deadsize" in self.event.extensions

    @property
    def was_undone(self) -> bool:
        """It could not be undone: only its undo can be resumed, since a retry would publish it to be handled."""
        return UNDO in self.event.extensions


def read(event: Event) -> DeadLetter:
    """The dead letter that this event is. Never raises."""
    x = event.extensions
    # an event for later that never came to its inner channel died on the way there
    channel = x.get(CHANNEL) or x.get("deadchannel", "")
    if UNDO in x and UNDO_CHANNEL in x:  # it died in the ingress of a wagon for that channel
        train = x[UNDO].rpartition("/")[0]
        channel = "" if x[UNDO_CHANNEL] == train else x[UNDO_CHANNEL]
    return DeadLetter(
        event,
        x.get("deadbecause", ""),
        channel,
        count_in(x.get("deadwagon")),
        count_in(x.get("deadattempts")),
        figure(x.get("deadat"), 0.0),
        count_in(x.get("deadretries")),
    )


def count_in(text: str | None) -> int:
    """`text` as a count, or 0. What is below 0 is none: it would be retried without end."""
    return max(0, int(figure(text, 0)))


def figure(text: str | None, otherwise: float) -> float:
    """`text` as a number, or `otherwise`: another program may have written the dead letter, with anything in it."""
    try:
        found = float(text or "")
    except ValueError:
        return otherwise
    return found if math.isfinite(found) and abs(found) < 1e15 else otherwise


def alive(letter: DeadLetter, last: DeadLetter) -> Event:
    """The event as it is published again: with its id, time, data and attributes. `last`: its last death.

    For an inner channel it goes through
    the ingress of the active wagon, as events for later do: a wagon that drains takes nothing new, and one that is gone
    can't. Of its death it keeps only how often it was tried and retried."""
    kept = {name: value for name, value in letter.event.extensions.items() if name not in DEATH and name != CHANNEL}
    kept |= {"deadattempts": str(last.attempts), "deadretries": str(last.retries + 1)}
    if letter.channel:
        kept[CHANNEL] = letter.channel
    return msgspec.structs.replace(letter.event, extensions=kept)


def mark_of(event: Event) -> Mark:
    """The mark of the letter that this event, published again, was."""
    return event.id, event.extensions.get(CHANNEL, "")


class DeadGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters of one channel with the same reason, but for numbers and ids."""

    channel: str
    because: str
    """With `#` for numbers and ids."""
    count: int
    wagons: tuple[int, int]
    """The lowest and the highest number."""
    first_at: float
    last_at: float
    newest: str
    """The id of the one that died last."""


class DeadPreview(msgspec.Struct, frozen=True, kw_only=True):
    """The dead letters that a filter chose. `retry` and `drop` take it, and refuse if the set has changed since."""

    filter: DeadFilter
    count: int
    retries: int
    """Letters that were retried so often are not retried again."""
    quarantined: int
    """How many of them these are."""
    cut: int
    """How many more can't be retried because their data was cut."""
    of_undos: int = 0
    """How many more can't, because they are of undos."""
    channels: tuple[str, ...]
    """The inner channels to which a retry publishes."""
    groups: Sequence[DeadGroup]
    """The largest first."""
    digest: str

    @property
    def retried(self) -> int:
        """How many `retry` publishes."""
        return self.count - self.quarantined - self.cut - self.of_undos


def retriable(letter: DeadLetter, most: int) -> bool:
    """Whether a retry publishes this letter, if letters are retried up to `most` times."""
    return letter.retries < most and not letter.is_cut and not letter.was_undone


def previewed(chosen: Mapping[Mark, DeadLetter], where: DeadFilter, retries: int) -> DeadPreview:
    """What would be done with these letters."""
    letters = chosen.values()
    lines = sorted("\0".join(map(str, letter.death)) for letter in letters)
    good = [letter for letter in letters if retriable(letter, retries)]
    quarantined = sum(letter.retries >= retries for letter in letters)
    of_undos = sum(letter.was_undone and not letter.is_cut and letter.retries < retries for letter in letters)
    return DeadPreview(
        filter=where,
        count=len(chosen),
        retries=retries,
        quarantined=quarantined,
        cut=len(chosen) - quarantined - of_undos - len(good),
        of_undos=of_undos,
        channels=tuple(sorted({letter.channel for letter in good if letter.channel})),
        groups=grouped(letters),
        digest=hashlib.sha256("\n".join(lines).encode(errors="surrogatepass")).hexdigest(),
    )


def newest(chosen: dict[Mark, DeadLetter], letter: DeadLetter) -> None:
    """Take in another letter: of several with the same mark, the one that died last counts."""
    known = chosen.get(letter.mark)
    if known is None or (known.retries, known.died_at) < (letter.retries, letter.died_at):
        chosen[letter.mark] = letter


def grouped(letters: Iterable[DeadLetter]) -> list[DeadGroup]:
    """The letters by channel and reason, the largest group first."""
    found: dict[tuple[str, str], list[DeadLetter]] = {}
    for letter in letters:
        found.setdefault((letter.channel, kind_of(letter.because)), []).append(letter)
    groups = [
        DeadGroup(
            channel=channel,
            because=because,
            count=len(some),
            wagons=(min(each.wagon for each in some), max(each.wagon for each in some)),
            first_at=min(each.died_at for each in some),
            last_at=max(each.died_at for each in some),
            newest=max(some, key=lambda each: each.died_at).event.id,
        )
        for (channel, because), some in found.items()
    ]
    return sorted(groups, key=lambda group: (-group.count, group.channel, group.because))


def kind_of(because: str) -> str:
    """The reason without what differs between two errors of one kind."""
    return _CHANGING.sub(lambda found: found[1] or "#", plain(because, 300))


def taken(manifest: Manifest, number: int, count: int, fact: DeadLettersRetried | DeadLettersDropped | None) -> Edit:
    """That many dead letters of the wagon (0: of removed wagons) are about to be settled, by somebody's order: they are
    not lost. Written before they are settled, or an observer could report them. Not idempotent."""
    facts = () if fact is None else (fact,)
    if not number:
        return Edit(msgspec.structs.replace(manifest, letters_taken=manifest.letters_taken + count), facts)
    wagon = manifest.wagon(number)
    if wagon is None:
        return Edit(manifest, facts)
    return Edit(changed(manifest, number, letters_taken=wagon.letters_taken + count), facts)


def _found_in(part: str, because: str) -> bool:
    part = part.casefold()
    return part in because.casefold() or part in kind_of(because).casefold()


def moment(name: str, value: object) -> float:
    if is_a(value, datetime):
        if value.tzinfo is None:
            raise UsageError(f"{name}={shown(value)}: add its time zone")
        try:
            return datetime.timestamp(value)
        except (OverflowError, ValueError, OSError):
            raise UsageError(f"{name}={shown(value)} is no time that can be compared") from None
    if is_a(value, bool) or not is_a(value, int, float) or not abs(value) < 1e12:
        raise UsageError(f"{name}={shown(value)}: give an aware datetime, or seconds since the epoch")
    return float(value)
