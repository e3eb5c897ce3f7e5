"""The stored form of the claims rule's state: what a snapshot holds."""

from __future__ import annotations

import msgspec

from .proposals import Format

StoredRun = tuple[int, int, int, int, int, bool]
"""Start, stop, claim, attempt, due, and whether it is back."""


class StoredChannel(msgspec.Struct, array_like=True):
    """One channel. Fields that a later release added come last and have defaults."""

    settled: int
    voids: int
    partitions: list[tuple[int, int, list[int], list[StoredRun]]]
    """Number, `fresh`, the offsets `ahead`, what is held or back."""
    marks: list[tuple[int, int, str, bool, bool]] = []
    """Of runs with further properties: partition, start, owner, suspect, alone."""
    lost: int = 0
    members: list[str] = []
    owned: list[tuple[int, str, int, int, int]] = []
    """Partition, owner, `seen`, `tended`, `waits_since`."""
    since: int = 0
    topic: str = ""


class Stored(msgspec.Struct, array_like=True):
    """A wagon whose log has format 1. Earlier releases read it."""

    now: int
    claims: int
    channels: dict[str, StoredChannel]
    rebuilt: bool = False
    members: dict[str, tuple[int, str]] = {}
    """Of each member: when it last wrote, and its process."""
    checked: int = 0


class _Stored2(msgspec.Struct, array_like=True):
    format: str
    state: Stored


_decode = msgspec.msgpack.Decoder(Stored).decode
_decode2 = msgspec.msgpack.Decoder(_Stored2).decode


def dump(state: Stored, number: int) -> bytes:
    """The state of a log of this format. Earlier releases refuse format 2."""
    if number < 2:
        return msgspec.msgpack.encode(state)
    return msgspec.msgpack.encode(_Stored2(str(Format.__struct_config__.tag), state))


def load(stored: bytes) -> tuple[Stored, int]:
    """The state, and the log's format."""
    try:
        return _decode2(stored).state, 2
    except msgspec.ValidationError:
        return _decode(stored), 1
