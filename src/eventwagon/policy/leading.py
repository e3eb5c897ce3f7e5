"""Which observers look at a train all the time where there are many. Pure.

The first three lead. The others follow: they look less often, do by themselves what they have begun, and check in. That
saves work and locks nothing: every change is a compare-and-swap, so it does no harm if four lead or two do. It depends
on nobody's word either: followers go on looking, so that an event waits for one of their looks at most if all that lead
are gone or hang, and once the check-ins of these have run out, others are the first three.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from itertools import islice

from ..contracts.registry import Member
from .seen import Seen

LEADERS = 3
LONGEST = 2.0
"""The longest time between two looks of one observer, in seconds: so late at most a process is noticed that joins."""
HANDOVER = 2 * LONGEST
"""Seconds for which a follower looks all the time where a rest of the train ended with an event in its process: by then
those that lead have looked again, and know of it."""
_OF_TTL = 1 / 3
"""A follower looks at least this many times `member_ttl`, as it checks in: it sees every process that checks in, so
that it can prove the end of those on its machine."""


def observers(members: Iterable[Member]) -> Iterable[str]:
    """The names of the processes that observe, in order."""
    return (member.name for member in members if member.is_process and "observe" in member.roles)


def are_many(members: Sequence[Member]) -> bool:
    """There are so many observers that not all need to look all the time."""
    return next(islice(observers(members), LEADERS, None), None) is not None


def pause_of_follower(seen: Seen, name: str, roused: float) -> float:
    """Seconds until the next look of the process `name` at a train that does not rest: `observe_every`, or more if
    others lead. `roused`: the seconds since an event in this process has ended a rest. Call it only if the process has
    nothing under way."""
    settings = seen.settings
    every = settings.observe_every
    if roused < HANDOVER or not _follows(seen, name):
        return every
    return max(every, spread(name, min(LONGEST, settings.member_ttl * _OF_TTL)))


def spread(name: str, seconds: float) -> float:
    """This long or up to a fifth shorter, by the process's name, so that many do not look at the same time for ever."""
    return seconds * (1.0 - 0.2 * (zlib.crc32(name.encode()) % 1000) / 1000)


def _follows(seen: Seen, name: str) -> bool:
    """Where an orchestrator starts workers, what runs may be known to its own observer alone; and where their number
    follows the traffic, it is measured look by look. There all lead."""
    if seen.orchestrated or seen.settings.workers.elastic is not None or not are_many(seen.members):
        return False
    return name not in islice(observers(seen.members), LEADERS) and name in observers(seen.members)
