"""One train's manifest with its version, and its live members: the rule by which every reader of its log gets the same
answer. Pure.

A record proposes a manifest at an expected version, or says that a member is alive. The log's own time, in
milliseconds, is the only clock. The version is the offset of the record that won, plus 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

_REMEMBERED = 60_000
"""ms for which a member that was not heard of is remembered: it may go on with `StillThere`."""


class Replace(msgspec.Struct, array_like=True, tag="m", frozen=True):
    """Store this document if the version is the expected one."""

    expect: int
    document: bytes


class MemberCheckIn(msgspec.Struct, array_like=True, tag="i", frozen=True):
    """The member is alive for `ttl` ms; with 0 it is gone."""

    name: str
    member: bytes
    ttl: int


class StillThere(msgspec.Struct, array_like=True, tag="s", frozen=True):
    """The member is alive for `ttl` ms more, and has nothing new to say."""

    name: str
    ttl: int


class ProposalResult(NamedTuple):
    """Whether the proposal was accepted, and the version after it."""

    taken: bool
    version: int


class LiveMembers:
    """The members of a train as of the check-ins applied so far."""

    def __init__(self, members: dict[str, tuple[int, bytes]] | None = None) -> None:
        self.members = {} if members is None else members
        """By name: until when each is alive, and what it says."""

    def apply(self, op: MemberCheckIn | StillThere, now: int) -> None:
        """Somebody checked in at this time (ms)."""
        if isinstance(op, MemberCheckIn):
            self.members[op.name] = (now + op.ttl, op.member)
        elif op.name in self.members:
            self.members[op.name] = (now + op.ttl, self.members[op.name][1])
        for name in [name for name, (until, _) in self.members.items() if until + _REMEMBERED <= now]:
            del self.members[name]

    def alive(self, now: int) -> list[bytes]:
        """What those say that are alive at `now` (ms), ordered by name."""
        return [member for _, (until, member) in sorted(self.members.items()) if until > now]


class Manifests:
    """One train as of the records applied so far."""

    def __init__(self) -> None:
        self.now = 0
        """The log's time in ms, as of the last record; never goes back."""
        self.version = 0
        self.document = b""
        self.live = LiveMembers()
        """Of a topic of one partition, which an earlier release made, and processes of an earlier release."""

    def apply(self, offset: int, time: int, record: bytes) -> ProposalResult:
        """Apply the next record of the log. Returns the result."""
        self.now = now = max(self.now, time)
        op = decode(record)
        if isinstance(op, Replace):
            if op.expect != self.version:
                return ProposalResult(False, self.version)
            self.version, self.document = offset + 1, op.document
        else:
            self.live.apply(op, now)
        return ProposalResult(True, self.version)

    def rebuild(self, before: int, records: Sequence[tuple[int, bytes]]) -> bytes | None:
        """None: without the earlier records it is unknown which proposals won."""
        return None

    def dump(self) -> bytes:
        """The whole state."""
        return msgspec.msgpack.encode((self.now, self.version, self.document, self.live.members))

    def load(self, dump: bytes) -> None:
        """Take over a state that another process dumped."""
        self.now, self.version, self.document, members = _decode_dump(dump)
        self.live = LiveMembers(members)


encode = msgspec.msgpack.Encoder().encode
"""A proposal as a record."""
decode = msgspec.msgpack.Decoder(Replace | MemberCheckIn | StillThere).decode
_decode_dump = msgspec.msgpack.Decoder(tuple[int, int, bytes, dict[str, tuple[int, bytes]]]).decode
