"""How processes divide among themselves a number that they must never exceed together. Pure.

Each process says in its check-in how much of each budget it holds: never less than it uses. A process that wants more
first looks, then says that it holds as much as is left, then looks again, and uses what is left beside all that the
others hold (`granted`). Of two that do this at once, the one that looks last has said its own before the other looked,
or sees what the other said. So whatever each of them has seen, all together never use more than there is.

How much each should hold is a second question, which never endangers the first: `due`. Which of a process's wagons uses
what it holds is a third: `first`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

_LEAD_MOST = 4
"""How far either new events or the others can get ahead of the other side, as far as it is remembered."""


class Waiting(NamedTuple):
    """A wagon whose events wait for a budget."""

    is_new: bool
    """It takes the new events."""
    is_replay: bool
    since: float
    """When it was cut off."""


def first(wagons: Sequence[Waiting], *, lead: int) -> int:
    """The index of the wagon whose event begins next, where a budget has room for one only. New events get every second
    turn, so that they never wait behind a backlog, and the backlog goes on, the oldest first. Replays come last.
    `lead`: how many more new events than others have begun lately."""

    def order(index: int) -> tuple[bool, bool, float]:
        wagon = wagons[index]
        return wagon.is_replay, wagon.is_new is (lead > 0), wagon.since

    return min(range(len(wagons)), key=order)


def lead_after(lead: int, *, is_new: bool) -> int:
    """The lead of new events after one more has begun. It is bounded: what one side did not use is soon forgotten."""
    return min(_LEAD_MOST, lead + 1) if is_new else max(-_LEAD_MOST, lead - 1)


class Claim(NamedTuple):
    """What one process says of a budget, in whole units."""

    held: int
    """What it may use; never less than it uses."""
    wants: int
    """What it could use now."""


def shares(total: int, wants: Mapping[str, int], turn: int = 0) -> dict[str, int]:
    """What each process is due. None gets more than it wants; those that want more get equal parts, and one more for
    the first ones by name. If there is less than one for each, some get one and the others nothing: which ones, `turn`
    decides, so that each has its time."""
    given = dict.fromkeys(wants, 0)
    left, hungry = max(0, total), sorted(name for name, wanted in wants.items() if wanted > 0)
    start = turn % len(hungry) if hungry and left < len(hungry) else 0
    while left and hungry:
        each, rest = divmod(left, len(hungry))
        for place, name in enumerate([*hungry[start:], *hungry[:start]]):
            more = min(wants[name] - given[name], each + (each == 0 and place < rest))
            given[name] += more
            left -= more
        if each == 0:
            break
        hungry = [name for name in hungry if given[name] < wants[name]]
    return given


def due(total: int, me: str, claims: Mapping[str, Claim], *, turn: int = 0, patient: bool = False) -> int:
    """How much the process `me` should hold. Less than it does: it should give the rest up at once. More: it may ask
    for that much.

    What nobody else is due it keeps, even if it does not use it. `patient`: something has been left for longer than
    others take to look. Those that it is due to don't take it (their `turn` may differ, where clocks do), so that
    anybody may.
    """
    mine = claims[me]
    given = shares(total, {name: claim.wants for name, claim in claims.items()}, turn)
    left = total - sum(claim.held for claim in claims.values())
    if left < 0:
        return min(mine.held, given[me])
    owed = sum(max(0, given[name] - claim.held) for name, claim in claims.items() if name != me)
    if mine.held > given[me]:
        return max(given[me], mine.held - max(0, owed - left))
    most = mine.wants if patient else given[me]
    return mine.held + max(0, min(left, most - mine.held))


def granted(total: int, asked: int, held: int, others: int) -> int:
    """How much a process may use that said that it holds `asked` and looked after that: it held `held` before, and
    `others` is what all others say that they hold."""
    return max(held, min(asked, total - others))


def parts(rate: float) -> int:
    """Into how many equal parts a rate (events per second) is divided between processes. A part is at least two events
    a second, or all of a smaller rate: a process may begin one event early, and so may each other one that has a
    part."""
    return max(1, min(1000, int(rate / 2)))


def burst(rate: float) -> float:
    """How many events a process that has this rate may begin at once: a timer that is late must not make it slower."""
    return 1.0 + 0.2 * rate


def turn_seconds(rate: float | None = None) -> float:
    """How long a turn lasts, where there is less than one unit for each process; `rate`: of a budget in events per
    second. A turn of a slow rate is long enough for several events, since the first has to be waited for."""
    return 5.0 if rate is None else max(5.0, 10.0 / rate)
