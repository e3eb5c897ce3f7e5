"""The proposals in a claims log, and their encoding. Fields that a later release added come last and have defaults;
earlier releases skip them.

A log keeps the format that its first record has. In format 1 there are no members: every process reads every partition.
In format 2 each record names the member that wrote it, and members own partitions."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

Run = tuple[int, int, int]
"""Partition, first offset, the offset after the last one."""
Held = tuple[int, int, int, int]
"""A run, and the number of the claim that holds it."""


class Claim(msgspec.Struct, array_like=True, tag="c", frozen=True):
    """Claim one suspect, or up to `limit` events, for `visibility` ms: returned events first, then new ones, as far as
    the proposer has seen each partition (`ends`: partition, offset after the last one seen). In format 1 returned
    events come from all partitions, in format 2 only from those in `ends`."""

    channel: str
    limit: int
    visibility: int
    ends: list[tuple[int, int]]
    suspect_first: bool = False
    owner: str = ""


class Settle(msgspec.Struct, array_like=True, tag="s", frozen=True):
    """These events are settled, whoever has claimed them. Format 2 names their claims (`held`): it is faster."""

    channel: str
    runs: list[Run]
    held: list[Held] = []


class Release(msgspec.Struct, array_like=True, tag="r", frozen=True):
    """These events come back after `delay` ms, if their claims have not expired: with one more attempt, unless `tried`
    is False; then a suspect stays one, unless it is `cleared`. All claims of `owner`, a process that has ended,
    expire."""

    channel: str
    held: list[Held]
    delay: int
    tried: bool
    owner: str = ""
    cleared: bool = False


class Extend(msgspec.Struct, array_like=True, tag="e", frozen=True):
    """The claims that have not expired last for `visibility` ms from now. Or, `alone`: they last as long as before, and
    count as an attempt if they expire."""

    channel: str
    held: list[Held]
    visibility: int
    alone: bool = False


class Void(msgspec.Struct, array_like=True, tag="v", frozen=True):
    """There are no events at these offsets: probes, or offsets that the log left out. `lost`: there may have been
    events that were deleted; claimed ones are left to their consumers. `topic`: the id of the channel's topic, which
    holds for the channel if it is the first one that is told."""

    channel: str
    runs: list[Run]
    lost: bool = False
    topic: str = ""


class Gone(msgspec.Struct, array_like=True, tag="g", frozen=True):
    """The channel is about to be deleted: check whether it still exists."""

    channel: str


class Format(
    msgspec.Struct,
    array_like=True,
    tag="this claims log has format 2: an older release of eventwagon can't serve the wagon, run a newer one",
    frozen=True,
):
    """Begins a log of format 2. Its tag is what an earlier release has in its error."""


class Member(msgspec.Struct, array_like=True, tag="m", frozen=True):
    """Begins a record: the member that wrote it, and lives."""

    name: str


class Join(msgspec.Struct, array_like=True, tag="j", frozen=True):
    """The member consumes this channel of so many partitions, for the process called `owner`."""

    channel: str
    partitions: int
    owner: str = ""


class Leave(msgspec.Struct, array_like=True, tag="l", frozen=True):
    """The member no longer consumes the channel. Its claims stand."""

    channel: str


class Beat(msgspec.Struct, array_like=True, tag="b", frozen=True):
    """The member lives. So far it has seen these partitions (`ends`), and has no use for what waits in those it owns:
    others may claim it."""

    channel: str
    ends: list[tuple[int, int]]


class Renew(msgspec.Struct, array_like=True, tag="n", frozen=True):
    """The channel's topic was deleted and is new: its offsets and totals begin again. Only in format 2."""

    channel: str


Op = Claim | Settle | Release | Extend | Void | Gone | Join | Leave | Beat | Renew
"""What is proposed for a channel."""
Head = Format | Member
"""What begins a record of format 2."""


FORMAT = Format()

encode = msgspec.msgpack.Encoder().encode
"""A list of proposals as a record."""
decode = msgspec.msgpack.Decoder(list[Op | Head]).decode
"""A record's proposals, and what begins it."""


def runs_of(offsets: Iterable[tuple[int, int]]) -> list[Run]:
    """Runs that cover these (partition, offset), each once."""
    runs: list[Run] = []
    for p, offset in sorted(set(offsets)):
        if runs and runs[-1][0] == p and runs[-1][2] == offset:
            runs[-1] = (p, runs[-1][1], offset + 1)
        else:
            runs.append((p, offset, offset + 1))
    return runs


def held_of(tokens: Iterable[tuple[int, int, int]]) -> list[Held]:
    """Runs by claim that cover these (partition, offset, claim), each once."""
    runs: list[Held] = []
    p = start = stop = claim = -1
    for partition, offset, number in tokens:
        if offset == stop and number == claim and partition == p:
            stop += 1
            continue
        if start >= 0:
            runs.append((p, start, stop, claim))
        p, start, stop, claim = partition, offset, offset + 1, number
    if start >= 0:
        runs.append((p, start, stop, claim))
    return runs if len(runs) <= 1 else _merged(runs)


def _merged(runs: list[Held]) -> list[Held]:
    """The same offsets without those named twice, in order of the claims."""
    held: list[Held] = []
    for run in sorted(runs, key=lambda run: (run[3], *run)):
        p, start, stop, claim = held[-1] if held else (-1, -1, -1, -1)
        if (run[0], run[3]) == (p, claim) and run[1] <= stop:
            held[-1] = (p, start, max(stop, run[2]), claim)
        else:
            held.append(run)
    return held
