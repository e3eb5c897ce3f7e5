"""Runs the strategies on one job, several at a time, each in a process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from ..errors import UsageError
from .job import Job, Outcome
from .strategies.rivals import RIVALS
from .strategies.wagons import WAGONS

STRATEGIES: tuple[str, ...] = (*(name for name in RIVALS if name != "optimum"), *WAGONS, "optimum")
"""All strategies, in the order of the table."""
USUAL = frozenset(
    (
        "fifo",
        "fifo_standing",
        "keda",
        "feed_forward",
        "clairvoyant_scaler",
        "serverless",
        "sideline",
        "wagons",
        "wagons_each",
        "wagons_elastic",
        "optimum",
    )
)
"""The strategies that run unless others are named: as many as fit into a small terminal."""


def chosen(names: Collection[str]) -> tuple[str, ...]:
    """These strategies in the order of the table. Raises UsageError."""
    if unknown := set(names) - set(STRATEGIES):
        raise UsageError(f"no strategy {', '.join(sorted(unknown))}; there are {', '.join(STRATEGIES)}")
    return tuple(name for name in STRATEGIES if name in names)


def run(job: Job, names: Sequence[str], *, processes: int, url: str | None = None) -> Iterator[Outcome]:
    """Yield the outcomes as they are ready. With `url`, the wagons run there in real time, one after another, once the
    other strategies are done."""
    real = [name for name in names if url is not None and name in WAGONS]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        slow_first = sorted((name for name in names if name not in real), key=lambda name: name not in WAGONS)
        for done in as_completed([pool.submit(one, job, name) for name in slow_first]):
            yield done.result()
    for name in real:
        yield one(job, name, url)


def one(job: Job, name: str, url: str | None = None) -> Outcome:
    """Run one strategy on the job. With `url`, wagons run on that broker in real time."""
    if name in RIVALS:
        return RIVALS[name](job)
    strategy: Callable[..., Outcome] = WAGONS[name]
    return strategy(job, url=url)
