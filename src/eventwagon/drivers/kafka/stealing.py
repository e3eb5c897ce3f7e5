"""When a process claims from a partition that another one owns. Pure.

So more processes than partitions have work, and no event waits for an owner that is slow, busy or dead. It costs a
second read, so it is for those that have nothing of their own, and for events that nobody has looked after for long.
"""

from __future__ import annotations

from collections.abc import Container

from .claims import ChannelClaims

IDLE = 50
"""Milliseconds without an event of its own after which a process looks at others' partitions."""
_SILENT = 200  # ms for which an owner may leave events alone
_NEGLECTED = 1000  # the same, before processes that have events of their own look after them


class Stealing:
    """What one process knows of others' partitions."""

    def __init__(self) -> None:
        self._ends: dict[int, int] = {}
        self._since: dict[int, float] = {}  # since when events wait there, as far as is known here

    def ends(self, number: int, end: int) -> None:
        """The partition reaches to here."""
        self._ends[number] = max(end, self._ends.get(number, 0))

    def target(
        self, claims: ChannelClaims, own: Container[int], limit: int, now: float, *, neglected: bool = False
    ) -> tuple[int, int] | None:
        """The partition to claim up to `limit` events from, and its end: the one where most events wait, of those whose
        owner is gone, has offered them, has left them alone for a while, or has more than two such claims before it.
        With `neglected`, of those that have been left alone for long."""
        best = (0, 0, 0)
        for p, partition in claims.partitions.items():
            if p in own:
                self._since.pop(p, None)
                continue
            end = max(partition.seen, self._ends.get(p, 0))
            waiting = partition.known_waiting(now) + max(0, end - max(partition.seen, partition.fresh))
            if waiting <= 0:
                self._since.pop(p, None)
                continue
            since = self._since.setdefault(p, now)
            alone = now - max(partition.tended, since)
            free = alone > _SILENT or partition.owner not in claims.members or not partition.tended
            has_many = end - partition.fresh > 2 * limit
            if waiting > best[0] and (alone > _NEGLECTED if neglected else free or has_many):
                best = (waiting, p, end)
        return best[1:] if best[0] else None

    def waits(self) -> bool:
        """Whether something waited at the last look."""
        return bool(self._since)
