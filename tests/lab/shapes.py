"""Arrivals that nobody tuned on: many shapes × workers × promises, wagons ÷ optimum for each, the worst first.

python -m tests.lab.shapes [--events 3000] [--only sawtooth] [--processes 2] [--seed 1]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import accumulate
from typing import NamedTuple

from eventwagon.lab.arrivals import shaped
from eventwagon.lab.experiment import one
from eventwagon.lab.job import Job, figures

Shape = Callable[[int, float, random.Random], list[float]]
"""Of (events, seconds, rng): arrivals, sorted."""


def _profile(*points: tuple[float, float]) -> Shape:
    return lambda events, seconds, rng: shaped(points, events, seconds, seed=rng.randrange(1 << 30))


def _clusters(size: Callable[[random.Random], float], spread: float) -> Shape:
    """Bursts at random moments, each of a random size, each event of it within `spread` of the whole."""

    def arrivals(events: int, seconds: float, rng: random.Random) -> list[float]:
        found: list[float] = []
        while len(found) < events:
            at = rng.random() * (1 - spread)
            found += [(at + rng.random() * spread) * seconds for _ in range(max(1, round(size(rng))))]
        return sorted(found[:events])

    return arrivals


def _on_off(turns: int, share: float) -> Shape:
    points: list[tuple[float, float]] = []
    for turn in range(turns):
        a, b = turn / turns, (turn + share) / turns
        points += [(a, 1.0), (b, 1.0), (b + 1e-4, 0.05), ((turn + 1) / turns - 1e-4, 0.05)]
    return _profile(*points)


def _sawtooth(teeth: int) -> Shape:
    points = [p for t in range(teeth) for p in ((t / teeth, 0.0), ((t + 1) / teeth - 1e-4, 1.0))]
    return _profile(*points)


def _beats(beats: int, jitter: float) -> Shape:
    """Devices that report at the same moment, all of them at each beat."""

    def arrivals(events: int, seconds: float, rng: random.Random) -> list[float]:
        each = seconds / beats
        return sorted(each * (n % beats) + rng.random() * jitter * each for n in range(events))

    return arrivals


def _heavy_gaps(alpha: float) -> Shape:
    """Gaps of a Pareto distribution: long silences, dense bursts."""

    def arrivals(events: int, seconds: float, rng: random.Random) -> list[float]:
        moments = list(accumulate(rng.paretovariate(alpha) - 1 for _ in range(events)))
        return [at * seconds / moments[-1] for at in moments]

    return arrivals


def _walk(steps: int, swing: float) -> Shape:
    """A rate that wanders."""

    def arrivals(events: int, seconds: float, rng: random.Random) -> list[float]:
        level, points = 1.0, [(0.0, 1.0)]
        for n in range(1, steps + 1):
            level = min(20.0, max(0.05, level * rng.lognormvariate(0, swing)))
            points.append((n / steps, level))
        return shaped(points, events, seconds, seed=rng.randrange(1 << 30))

    return arrivals


SHAPES: dict[str, Shape] = {
    "steady": _profile((0.0, 1.0), (1.0, 1.0)),
    "ramp up": _profile((0.0, 0.1), (1.0, 1.0)),
    "ramp down": _profile((0.0, 1.0), (1.0, 0.1)),
    "one peak": _profile((0.0, 0.1), (0.4, 0.1), (0.5, 1.0), (0.6, 0.1), (1.0, 0.1)),
    "wall": _profile((0.0, 0.05), (0.3, 0.05), (0.3001, 1.0), (0.5, 1.0), (0.5001, 0.05), (1.0, 0.05)),
    "on and off, 3 times": _on_off(3, 0.4),
    "on and off, 12 times": _on_off(12, 0.25),
    "sawtooth, 2": _sawtooth(2),
    "sawtooth, 8": _sawtooth(8),
    "beats, 4": _beats(4, 0.02),
    "beats, 10": _beats(10, 0.05),
    "beats, 30": _beats(30, 0.02),
    "Poisson bursts": _clusters(lambda rng: rng.expovariate(1 / 60), 0.01),
    "few large bursts": _clusters(lambda rng: rng.expovariate(1 / 600), 0.02),
    "heavy-tailed bursts": _clusters(lambda rng: 10 * rng.paretovariate(1.1), 0.01),
    "heavy-tailed gaps": _heavy_gaps(1.3),
    "wandering": _walk(30, 0.6),
    "wandering wildly": _walk(60, 1.5),
}

LOADS = (0.7, 1.2, 2.0, 4.0)
"""Mean arrivals ÷ what the workers can do."""
WORKERS = (4, 8, 20)
PROMISES = (0.8, 2.0, 5.0)
"""Seconds; a wagon is cut at half of it."""
WORK = (0.05, 0.1, 0.4)


class Case(NamedTuple):
    """One job, and where it comes from."""

    shape: str
    load: float
    job: Job


class Found(NamedTuple):
    """What came of a case."""

    case: str
    ratio: float
    ours: float
    best: float
    online: float
    """What one that knows no future could reach: the same order, and the late backlog whenever a worker is free."""
    switches: int


def cases(events: int, seed: int, only: str = "", cut: float = 0.5) -> Iterator[Case]:
    """For each shape and load a number of workers, a promise and a service time, drawn with the seed."""
    for shape, draw in SHAPES.items():
        for load in LOADS:
            rng = random.Random(f"{seed} {shape} {load}")
            workers, slo, service = rng.choice(WORKERS), rng.choice(PROMISES), rng.choice(WORK)
            seconds = events * service / workers / load
            job = Job(
                title=shape,
                arrivals=draw(events, seconds, rng),
                services=[service] * events,
                workers=workers,
                each=workers,
                slo=slo,
                limit=f"Wait({slo!r}, cut={cut!r})",
                wagons=500,
            )
            if only in shape:
                yield Case(shape, load, job)


def measure(case: Case) -> Found:
    """The real code on the case, and the most that any order could reach."""
    job = case.job
    best = figures(job, one(job, "optimum")).on_time
    online = figures(job, one(job, "sideline")).on_time
    row = figures(job, one(job, "wagons"))
    size = f"{job.workers} × {job.services[0]:g} s"
    name = f"{case.shape}, load {case.load:g}, {size}, {job.slo:g} s, {job.arrivals[-1]:.0f} s"
    assert not row.lost, f"{name}: {row.lost} lost"
    return Found(name, row.on_time / best, row.on_time, best, online, row.switches)


def main() -> int:
    """Measure all, say the worst first."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.shapes", description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="shapes with this in their name")
    parser.add_argument("--cut", type=float, default=0.5)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    with ProcessPoolExecutor(given.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = sorted(
            pool.map(measure, cases(given.events, given.seed, given.only, given.cut)), key=lambda each: each.ratio
        )
    for each in found:
        print(
            f"{each.ratio:.3f}  {each.ours:.3f} of {each.best:.3f} (online {each.online:.3f})  "
            f"{each.switches:4} switches  {each.case}"
        )
    short = sum(each.ratio < 0.98 for each in found)
    print(f"{len(found)} cases, {short} below 0.98, on average {sum(each.ratio for each in found) / len(found):.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
