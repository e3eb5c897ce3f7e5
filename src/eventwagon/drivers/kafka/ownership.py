"""Which process reads which partition of a channel: a pure function, so that all who read the same log agree.

An owner reads its partitions ahead. It has no right to them: claims alone decide who has which event. Two processes
that believe for a moment that they own a partition read it twice, and handle nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence


def assign(owners: Sequence[str], members: Sequence[str], first: int) -> list[str]:
    """The new owner of each partition ("" if there is no member), given the old `owners`. Balanced: nobody owns two
    partitions more than another. Sticky: it moves as few partitions as that takes. Who is to own one more than others,
    and did not, is decided by the members' order, begun at `first`."""
    if not members:
        return [""] * len(owners)
    order = sorted(members)
    first %= len(order)
    order = order[first:] + order[:first]
    own = {member: [p for p, owner in enumerate(owners) if owner == member] for member in order}
    least, more = divmod(len(owners), len(order))
    richest = sorted(order, key=lambda member: -len(own[member]))
    share = {member: least + (i < more) for i, member in enumerate(richest)}
    new = list(owners)
    free = [p for p, owner in enumerate(owners) if owner not in own]
    for member in order:
        free += own[member][share[member] :]
        del own[member][share[member] :]
    free.sort()
    for member in order:
        missing = share[member] - len(own[member])
        for p in free[:missing]:
            new[p] = member
        del free[:missing]
    return new
