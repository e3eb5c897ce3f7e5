"""What `once=` costs: the whole path with a record of what was handled and without one, in pairs."""

from __future__ import annotations

from collections.abc import Callable

from .kit import Aim, Benchmark, Line, Run, in_turn, unused
from .path import whole
from .places import place

_DAY = 86_400.0


async def run(how: Run) -> list[Line]:
    rounds = how.pick(7, 3)
    with how.scratch() as directory:
        memory = await _line(rounds, "memory", lambda: "memory://", how.pick(60_000, 20_000))
        sqlite = await _line(
            rounds, "SQLite, FULL", lambda: f"sqlite:///{directory}/{unused('once')}", how.pick(24_000, 8_000)
        )
        lines = [memory, sqlite]
        async with place("Redis", directory) as url:
            if url is not None:
                lines.append(
                    await _line(rounds, "Redis", lambda: f"{url}?prefix={unused('once')}", how.pick(24_000, 8_000))
                )
        return lines


async def _line(rounds: int, what: str, url: Callable[[], str], count: int) -> Line:
    on, off = await in_turn(rounds, lambda: whole(url(), count, once=_DAY), lambda: whole(url(), count))
    return Line(
        what=f"{what}: once",
        against="without",
        unit="events/s",
        ours=on,
        theirs=off,
        aim=Aim("ratio", least=0.4),
    )


BENCHMARK = Benchmark("once", "what a record of handled events costs the whole path", run)
