"""What must hold when a chaos run has healed."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil

from eventwagon.contracts.broker import Broker
from eventwagon.contracts.manifest import Manifest
from eventwagon.contracts.registry import Registry
from eventwagon.event import DEAD, Channel, Event

_WAGON_FILE = re.compile(r"v(\d+)\.db.*")


class Restored(NamedTuple):
    """A server that was killed and came back with an older copy. Times as `Books` has them."""

    copied: float
    """What was accepted before is in the copy."""
    killed: float
    """What was tried after is not forgotten."""


class Verdict(NamedTuple):
    """The figures of a run."""

    plan: int
    seconds: float
    switches: int
    kills: dict[str, int]
    stops: dict[str, int]
    tried: int
    accepted: int
    handled: int
    twice: int
    """Handled more than once."""
    dead: int
    lost: tuple[str, ...]
    """Accepted, and neither handled to the end nor dead."""
    left_over: tuple[str, ...]
    """Channels, members, files and processes that should be gone."""
    restored: int = 0
    """How many times a server came back with an older copy."""
    forgotten: int = 0
    """Accepted, and forgotten by a server with an older copy: not counted as lost."""
    reused: tuple[int, ...] = ()
    """Wagons' numbers that were given twice, and so the names of their channels."""

    @property
    def good(self) -> bool:
        """Nothing lost, nothing left over, no name used twice."""
        return not self.lost and not self.left_over and not self.reused

    def __str__(self) -> str:
        lines = [
            f"plan {self.plan}: {self.switches} switches in {self.seconds:.0f} s",
            f"  killed: {_counts(self.kills)}; stopped and continued: {_counts(self.stops)}",
            f"  tried {self.tried:,}, accepted {self.accepted:,}, handled {self.handled:,} ({self.twice:,} more than "
            f"once), dead {self.dead:,}, lost {len(self.lost):,}",
        ]
        lines += [f"  LOST {event_id}" for event_id in self.lost[:10]]
        if self.restored:
            lines.append(f"  restored {self.restored} times from an older copy, which had forgotten {self.forgotten:,}")
        lines += [f"  LEFT OVER {what}" for what in self.left_over]
        lines += [f"  USED TWICE wagon {number}" for number in self.reused]
        return "\n".join(lines)


def _counts(of: dict[str, int]) -> str:
    return ", ".join(f"{count} {role}s" for role, count in sorted(of.items())) or "none"


class Books(NamedTuple):
    """What the processes noted, by event id. Times are of the machine's monotonic clock, which all of them share."""

    tried: Mapping[str, float]
    """When each publish began."""
    accepted: Mapping[str, float]
    """When it had returned."""
    taken: Counter[str]
    confirmed: Counter[str]
    opened: Counter[str]
    """Wagons' numbers."""


def read_books(notes: Path) -> Books:
    """All processes' notes together."""

    def lines(kind: str) -> Iterable[str]:
        for path in notes.glob(f"{kind}-*"):
            text = path.read_text()
            yield from (line for line in text.split("\n") if line)

    def timed(kind: str) -> dict[str, float]:
        return {event_id: float(at) for event_id, _, at in (line.partition(" ") for line in lines(kind))}

    return Books(
        timed("tried"), timed("accepted"), *(Counter(lines(kind)) for kind in ("taken", "confirmed", "opened"))
    )


def roots(letters: Iterable[Event]) -> set[str]:
    """The published events whose chains ended in these dead letters: their own, or that of the link after them. A link
    whose workers were killed or stopped once too often is dead, not lost."""
    found = set()
    for letter in letters:
        found.add(letter.id)
        with suppress(msgspec.DecodeError):
            data = msgspec.json.decode(letter.data)
            if isinstance(data, dict) and isinstance(data.get("of"), str):
                found.add(data["of"])
    return found


def lost(books: Books, dead: set[str], restored: Sequence[Restored] = ()) -> tuple[tuple[str, ...], int]:
    """Accepted events that were neither handled, both links of the chain, nor ended in a dead letter (I1, I6), and how
    many more a restored server may have forgotten: those whose publish was under way after the copy was taken, and
    before the server was killed."""
    handled = books.taken.keys() & books.confirmed.keys()
    missing = books.accepted.keys() - handled - dead
    forgotten = {
        event_id
        for event_id in missing
        if any(r.copied <= books.accepted[event_id] and books.tried[event_id] <= r.killed for r in restored)
    }
    return tuple(sorted(missing - forgotten)), len(forgotten)


def reused(books: Books) -> tuple[int, ...]:
    """Numbers of wagons that were opened more than once."""
    return tuple(sorted(int(number) for number, times in books.opened.items() if times > 1))


def files_left(train: Path, numbers: set[int]) -> tuple[str, ...]:
    """Files of the train's directory on SQLite that should be gone when nobody has it open: those of wagons other than
    `numbers`, and the database's own helpers."""
    found = []
    for path in sorted(train.iterdir()):
        match = _WAGON_FILE.fullmatch(path.name)
        if path.name.endswith(("-wal", "-shm", "-journal")) or (match and int(match[1]) not in numbers):
            found.append(str(path))
    return tuple(found)


async def unnamed_channels(broker: Broker, manifest: Manifest) -> list[Channel]:
    """Channels that belong to no wagon of the manifest."""
    allowed = {c for w in manifest.wagons for c in (*manifest.working_channels(w), manifest.dead_letters(w))}
    return sorted(set(await broker.channels(manifest.train)) - allowed - {Channel(manifest.train, 0, DEAD)}, key=str)


async def channels_left(train: str, broker: Broker, registry: Registry, *, patience: float) -> tuple[str, ...]:
    """Channels that belong to no wagon of the manifest, and members, when every process has been asked to end. What is
    there for less than `patience` seconds is not left over: a member that was killed, a broker's late listing."""
    until = time.monotonic() + patience
    while True:
        channels = await unnamed_channels(broker, (await registry.read(train)).manifest)
        found = [f"channel {channel}" for channel in channels]
        found += [f"member {member.name}" for member in await registry.members(train)]
        if not found or time.monotonic() > until:
            return tuple(found)
        await asyncio.sleep(0.1)


def processes_left(processes: Path, known: Iterable[tuple[int, float]]) -> tuple[str, ...]:
    """Processes that should be gone when every one has been asked to end, and their files. `known`: pid and creation
    time of each that ever ran."""
    found = []
    if processes.is_dir():
        found += [str(path) for path in sorted(processes.iterdir())]
    for pid, created in known:
        try:
            process = psutil.Process(pid)
            if abs(process.create_time() - created) < 2.0 and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"process {pid}: {' '.join(process.cmdline())}")
        except psutil.Error:
            continue
    return tuple(found)
