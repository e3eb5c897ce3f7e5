"""The three measurements, each on a Redis server of its own. They block: call them in a thread."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import msgspec

from eventwagon.lab.arrivals import black_friday
from eventwagon.lab.job import Job, Outcome, figures

from .common import CONCURRENCY
from .frameworks import Installed
from .held import held
from .processes import Bench, Trouble, end, kill

SERVICE = 0.08
SLO = 2.0
BURST = 1500
BURST_SECONDS = 12.0
LOSSES = 500
PATIENCE = 60.0


class Steady(msgspec.Struct, frozen=True):
    """Events a second."""

    published: float
    """50 callers, nobody works."""
    worked_off: float
    """One worker process, from its first event to its last: a backlog of that size."""
    end_to_end: float
    """Both at once: from the first publish to the last handled."""


class Burst(msgspec.Struct, frozen=True):
    """Shares and seconds."""

    at_once: int
    """The most handlers that were at work at one moment, by when events were done."""
    on_time: float
    newcomers: int
    newcomers_p50: float
    newcomers_p99: float
    old_p99: float
    """Of all others: who pays for the newcomers."""
    mean: float
    worst: float
    lost: int
    lag: float
    """The farthest that the publisher was behind its schedule."""


class Losses(msgspec.Struct, frozen=True):
    """Events, of those that were accepted."""

    accepted: int
    lost: int
    """Not handled within 60 s after the kill, and no longer in Redis either."""
    later: int
    """Not handled within 60 s, and still in Redis: a longer timeout may bring them back, if anything does."""
    twice: int
    """Handled more than once."""
    seconds: float | None
    """From the kill until the last was handled; None where some were not."""


def job(seed: int = 1) -> Job:
    """The burst: 125 events a second over 12 s and twice as many at its height; eight at a time do 100 a second."""
    arrivals = black_friday(BURST, BURST_SECONDS, seed=seed)
    return Job(
        title="burst",
        arrivals=arrivals,
        services=[SERVICE] * BURST,
        workers=CONCURRENCY,
        slo=SLO,
        limit="Wait(2.0)",
        each=CONCURRENCY,
    )


def steady(at: Installed, url: str, directory: Path, count: int) -> Steady:
    """An empty handler."""
    bench = Bench(at, url, directory)
    with bench.worker():
        bench.warm_up()
    first, second = range(count), range(count, 2 * count)
    published = bench.publish(first)
    _all(bench, published.accepted, count, published.error)
    with bench.worker():
        times = _done(bench, first)
        worked_off = (count - 1) / (max(times) - min(times))
        both = bench.publish(second)
        _all(bench, both.accepted, count, both.error)
        last = max(_done(bench, second))
    return Steady(count / published.seconds, worked_off, count / (last - both.begin))


def burst(at: Installed, url: str, directory: Path) -> Burst:
    """Arrivals by a fixed schedule, a handler that takes 0.08 s."""
    work = job()
    bench = Bench(at, url, directory, sleep=SERVICE)
    with bench.worker():
        bench.warm_up()
        published = bench.publish(range(BURST), work.arrivals)
        times = bench.wait_handled(published.accepted, 60)
    came = figures(
        work,
        Outcome(
            strategy=at.framework.name,
            finished=[times.get(number, math.inf) - published.begin for number in range(BURST)],
            standing=0,
            until_done=0.0,
            until_rest=0.0,
            at_rest=0.0,
        ),
    )
    return Burst(
        at_once=_at_once(list(times.values()), SERVICE),
        on_time=came.on_time,
        newcomers=len(work.behind()),
        newcomers_p50=came.newcomers_p50_s,
        newcomers_p99=came.newcomers_p99_s,
        old_p99=came.old_p99_s,
        mean=came.mean_s,
        worst=came.worst_s,
        lost=came.lost,
        lag=published.lag,
    )


def losses(at: Installed, url: str, directory: Path, *, tuned: bool) -> Losses:
    """The worker and its children are killed in the middle and started again at once. An event a second goes on coming:
    some frameworks look for what was left only when something new comes."""
    bench = Bench(at, url, directory, sleep=0.05, tuned=tuned)
    process = bench.start_worker()
    try:
        bench.warm_up()
        published = bench.publish(range(LOSSES), warm=False)
        until = time.monotonic() + 60
        while len(bench.handled()) < LOSSES * 2 // 5:
            if time.monotonic() > until:
                raise bench.trouble(f"{len(bench.handled())} of {LOSSES} handled in 60 s")
            time.sleep(0.01)
        kill(process)
        killed = time.time()
        process = bench.start_worker()
        with bench.trickle(10**6):
            times = bench.wait_handled(published.accepted, PATIENCE)
        missing = set(published.accepted) - times.keys()
        here = missing & held(url) if missing else set()
        numbers = [number for number, _ in bench.handled() if number < LOSSES]
    finally:
        end(process)
    return Losses(
        accepted=len(published.accepted),
        lost=len(missing) - len(here),
        later=len(here),
        twice=len(numbers) - len(set(numbers)),
        seconds=None if missing else max(times.values()) - killed,
    )


def _at_once(done: Sequence[float], service: float) -> int:
    """The most handlers at work at one moment, if each ended at one of these times and took so long."""
    changes = sorted([(end - service, 1) for end in done] + [(end, -1) for end in done])
    return max(accumulate(change for _, change in changes), default=0)


def _all(bench: Bench, accepted: list[int], count: int, error: str | None) -> None:
    if len(accepted) < count:
        raise bench.trouble(f"{count - len(accepted)} of {count} events were not accepted, the first with {error}")


def _done(bench: Bench, numbers: range) -> list[float]:
    times = bench.wait_handled(numbers, 180)
    if len(times) < len(numbers):
        raise bench.trouble(f"{len(numbers) - len(times)} of {len(numbers)} events were not handled in 180 s")
    return list(times.values())


__all__ = ["Burst", "Losses", "Steady", "Trouble", "burst", "job", "losses", "steady"]
