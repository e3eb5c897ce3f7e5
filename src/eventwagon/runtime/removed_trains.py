"""Which trains were removed, by whom and when: a journal that all trains of a registry share."""

from __future__ import annotations

import logging

from ..contracts.facts import Entry, RemovalAsked, sound_entry
from ..contracts.manifest import TrainRemoval
from ..contracts.registry import Registry
from ..errors import StorageBroken

_SHARED = "0removed"
"""No train can have this name, since it begins with a digit. It has a journal and nothing else."""
_KEEP = 1000
"""How many removals are remembered, the latest."""
_logger = logging.getLogger("eventwagon")


async def remember(registry: Registry, train: str, removal: TrainRemoval, *, me: str) -> None:
    """Record that the train is removed. If that is refused (a right is missing), the train is removed all the same; a
    process that slept meanwhile then founds it anew. Raises Unavailable."""
    fact = RemovalAsked(train=train, because=removal.why, by=removal.by)
    try:
        await registry.append(_SHARED, [sound_entry(Entry(removal.at, me, fact))], keep=_KEEP)
    except StorageBroken as e:
        _logger.info("%s: nobody will remember that it was removed: %s", train, e)


async def removal_since(registry: Registry, train: str, since: float) -> TrainRemoval | None:
    """The train's latest removal after that time (seconds since the epoch); None if there was none, or it can't be
    read. Raises Unavailable."""
    found: TrainRemoval | None = None
    try:
        async for entry in registry.entries(_SHARED, last=_KEEP):
            fact = entry.fact
            if isinstance(fact, RemovalAsked) and fact.train == train and entry.at > since:
                found = TrainRemoval(why=fact.because, at=entry.at, by=fact.by)
    except StorageBroken as e:
        _logger.info("%s: whether it was removed can't be read: %s", train, e)
    return found
