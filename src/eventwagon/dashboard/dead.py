"""Dead letters, grouped by what killed them."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from ..display.text import plain
from ..errors import UsageError
from ..event import Event
from ..policy.letters import RETRIES, DeadFilter, DeadLetter, DeadPreview, Mark, kind_of, newest, previewed, read
from ..views.letters import letter_of
from .watching import TrainWatch

_MOST = 10_000
"""Dead letters that are read at most."""
_GROUPS = 200
_TYPES = 5
_FRESH = 5.0
"""Seconds for which the groups are not read again."""
_PATIENCE = 30.0
"""Seconds for reading them, with the wait for one's turn."""
_COUNTED = 100_000
"""Dead letters that are counted for an order at most."""
_SHOWN = 8192
"""Bytes of a letter's data that are shown."""


class Group(msgspec.Struct, kw_only=True):
    """Dead letters of one channel with the same reason, but for numbers and ids."""

    key: str
    because: str
    channel: str
    count: int
    types: list[str]
    first_at: float
    last_at: float
    wagons: list[int]
    """The lowest and the highest number."""
    sample: str
    """The id of the newest."""


class Groups(msgspec.Struct, frozen=True, kw_only=True):
    """All groups, the largest first. `complete`: all letters were read."""

    at: float
    total: int
    complete: bool
    groups: Sequence[Group]


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter. `hidden`: its data may not be shown."""

    id: str
    type: str
    source: str
    subject: str | None
    time: float
    at: float
    because: str
    channel: str
    wagon: int
    attempts: int
    content_type: str | None
    bytes: int
    data: object
    hidden: bool


class Letters:
    """Reads the dead letters of one train, once for all that ask at the same time."""

    def __init__(self, watch: TrainWatch) -> None:
        self._watch = watch
        self._reading = asyncio.Lock()
        self._groups: Groups | None = None
        self._read_at = float("-inf")

    async def groups(self) -> Groups:
        """The groups, as they were within the last seconds. Raises Unavailable, StorageBroken and TimeoutError."""
        async with asyncio.timeout(_PATIENCE), self._reading:
            clock = asyncio.get_running_loop().time
            if self._groups is None or clock() - self._read_at >= _FRESH:
                self._groups = await self._grouped()
                self._read_at = clock()
            return self._groups

    async def _grouped(self) -> Groups:
        found: dict[str, Group] = {}
        total, is_complete = 0, True
        async for event in self._all():
            if total >= _MOST:
                is_complete = False
                break
            total += 1
            _add(found, event)
        largest = sorted(found.values(), key=lambda group: (-group.count, group.because))
        return Groups(at=time.time(), total=total, complete=is_complete, groups=largest[:_GROUPS])

    async def of(self, key: str, *, after: int, limit: int, payloads: bool) -> tuple[list[Letter], bool]:
        """Letters of one group without the first `after` of them, and whether there are more. Raises the same."""
        found: list[Letter] = []
        skipped = read = 0
        async with asyncio.timeout(_PATIENCE), self._reading:
            async for event in self._all():
                read += 1
                if read > _MOST:
                    break
                if key_of(event)[0] != key:
                    continue
                if skipped < after:
                    skipped += 1
                    continue
                if len(found) == limit:
                    return found, True
                found.append(_letter(event, payloads=payloads))
        return found, False

    async def group(self, key: str) -> Group | None:
        """The group of that key. Raises the same."""
        return next((group for group in (await self.groups()).groups if group.key == key), None)

    async def preview(self, group: Group | None) -> DeadPreview:
        """Count the letters of the group, or all (None), as `connection.dead.preview` does with the preview's filter.
        Raises the same, and UsageError if there are too many."""
        chosen: dict[Mark, DeadLetter] = {}
        where = DeadFilter(all=True)
        if group is not None:
            where = DeadFilter(channel=group.channel, error=group.because if group.because.strip() else None)
        async with asyncio.timeout(_PATIENCE), self._reading:
            async for event in self._watch.source.dead_letters():
                letter = read(event)
                if where.takes(letter):
                    newest(chosen, letter._replace(event=msgspec.structs.replace(event, data=b"")))
                if len(chosen) > _COUNTED:
                    raise UsageError(f"there are more than {_COUNTED:,}: use eventwagon dead on the command line")
        if group is not None and any(kind_of(letter.because) != group.because for letter in chosen.values()):
            # its reason is a part of another's: only the ids tell them apart
            chosen = {mark: letter for mark, letter in chosen.items() if kind_of(letter.because) == group.because}
            ids = tuple(event_id for event_id, _ in chosen)
            where = msgspec.structs.replace(where, ids=ids) if ids else where
        return previewed(chosen, where, RETRIES)

    def forget(self) -> None:
        """They have changed: read them again."""
        self._read_at = float("-inf")

    async def _all(self) -> AsyncIterator[Event]:
        seen: set[str] = set()
        async for event in self._watch.source.dead_letters():
            if event.id not in seen:  # moved twice by a crash
                seen.add(event.id)
                yield event


def key_of(event: Event) -> tuple[str, str, str]:
    """The key of the event's group, its channel, and its reason without what differs."""
    letter = read(event)
    channel, because = letter.channel, kind_of(letter.because)
    digest = hashlib.sha256(f"{channel}\0{because}".encode(errors="replace")).hexdigest()
    return digest[:16], channel, because


def _add(found: dict[str, Group], event: Event) -> None:
    key, channel, because = key_of(event)
    letter = letter_of(event)
    at, wagon = float(str(letter["at"])), int(str(letter["wagon"]))
    group = found.get(key)
    if group is None:
        found[key] = Group(
            key=key,
            because=because,
            channel=channel,
            count=1,
            types=[plain(event.type, 200)],
            first_at=at,
            last_at=at,
            wagons=[wagon, wagon],
            sample=event.id,
        )
        return
    group.count += 1
    if len(group.types) < _TYPES and plain(event.type, 200) not in group.types:
        group.types.append(plain(event.type, 200))
    group.first_at = min(group.first_at, at)
    group.wagons = [min(group.wagons[0], wagon), max(group.wagons[1], wagon)]
    if at >= group.last_at:
        group.last_at, group.sample = at, event.id


def _letter(event: Event, *, payloads: bool) -> Letter:
    found = letter_of(event)
    known: dict[str, Any] = {name: found[name] for name in Letter.__struct_fields__ if name in found and name != "data"}
    return Letter(**known, bytes=len(event.data), data=_data(event.data) if payloads else None, hidden=not payloads)


def _data(data: bytes) -> object:
    if len(data) > _SHOWN:
        return data[:_SHOWN].decode(errors="backslashreplace") + " …"
    try:
        return msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return data.decode(errors="backslashreplace")
