"""An event, its id, and the channel it travels in. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b

import msgspec

from .errors import UsageError

RandomBytes = Callable[[int], bytes]

JSON = "application/json"
BINARY = "application/octet-stream"


class Event(msgspec.Struct, frozen=True, gc=False):
    """One immutable fact, with the attributes of CloudEvents 1.0 (https://cloudevents.io).

    `time` is in seconds since the Unix epoch (UTC), `data` the encoded payload, `subject` the key, and
    `extensions` the CloudEvents extension attributes (names of lower-case letters and digits).
    """

    id: str
    type: str
    source: str
    time: float
    data: bytes
    subject: str | None = None
    content_type: str = JSON
    extensions: Mapping[str, str] = {}

    @property
    def size(self) -> int:
        """Bytes that count against `max_event_bytes`: the data and the attributes' text."""
        size = len(self.data) + len(self.id) + len(self.type) + len(self.source) + len(self.content_type)
        if self.subject:
            size += len(self.subject)
        for name, value in self.extensions.items():
            size += len(name) + len(value)
        return size


class Channel(msgspec.Struct, frozen=True, gc=False):
    """One queue of one wagon. `name` is empty for the ingress; `wagon` is 0 for a train's own channels.

    `str(channel)` is the name that a broker sees: `signups_v1`, `signups_v1.welcome_email`, `signups.dead`.
    """

    train: str
    wagon: int
    name: str = ""

    def __str__(self) -> str:
        base = f"{self.train}_v{self.wagon}" if self.wagon else self.train
        return f"{base}.{self.name}" if self.name else base


DEAD = "dead"  # the channel of dead letters: in each wagon, and the train's own where they are kept

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,47}")
_WAGON_LIKE = re.compile(r".*_v\d+")


def check_train_name(name: str) -> str:
    """Return `name`, or raise UsageError. Names must be safe as topic, file and label on any system."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"train name {name!r}: use 1 to 48 of a-z, 0-9, '_' and '-', beginning with a letter (say 'user_registrations')"
        )
    if _WAGON_LIKE.fullmatch(name):
        raise UsageError(f"train name {name!r} ends like a wagon's ('_v' and digits): choose another")
    return name


def check_channel_name(name: str) -> str:
    """Return `name`, or raise UsageError. `dead` is taken: it holds a wagon's dead letters."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(f"channel name {name!r}: use 1 to 48 of a-z, 0-9, '_' and '-', beginning with a letter")
    if name == DEAD:
        raise UsageError(f"channel name {name!r} is taken: it holds a wagon's dead letters")
    return name


def _uuid7(milliseconds: int, random: bytes) -> str:
    """A version 7 UUID (RFC 9562, 5.7) from a time and ten random bytes."""
    t = f"{milliseconds & 0xFFFFFFFFFFFF:012x}"
    r = random.hex()
    variant = "89ab"[random[1] & 3]
    return f"{t[:8]}-{t[8:]}-7{r[:3]}-{variant}{r[5:8]}-{r[8:20]}"


def new_ids(count: int, now: float, random: RandomBytes = os.urandom) -> list[str]:
    """`count` new event ids: version 7 UUIDs of the time `now` (seconds since the epoch)."""
    milliseconds = int(now * 1000)
    noise = random(10 * count)
    return [_uuid7(milliseconds, noise[i : i + 10]) for i in range(0, 10 * count, 10)]


def born(event: Event) -> float:
    """When the chain of events that this one belongs to began, in seconds since the epoch: the time in its id, which
    children inherit. For a foreign id (not a version 7 UUID) the event's own time."""
    name = event.id
    if len(name) == 36 and name[14] == "7":
        try:
            return int(name[:8] + name[9:13], 16) / 1000
        except ValueError:
            pass
    return event.time


def seconds_of(text: str | None, otherwise: float) -> float:
    """A CloudEvents `time` (RFC 3339) in seconds since the epoch, UTC where it names no zone; `otherwise` where there is none."""
    if not text:
        return otherwise
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return otherwise
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def child_id(parent: Event, channel: str, index: int) -> str:
    """The id of the `index`-th event that handling `parent` emitted to `channel`: the same at each attempt.

    It keeps the time at which the chain began, so that ids of one chain sort together, and `born` knows it.
    """
    digest = blake2b(f"{parent.id}\0{channel}\0{index}".encode(), digest_size=10).digest()
    return _uuid7(int(born(parent) * 1000 + 0.5), digest)
