"""Ten bursts drawn by chance, on which nothing was tuned: elastic wagons beside KEDA and the same sizing on one queue,
with equal standing workers. The bounds were measured, with room; docs/comparison.md has the figures of each burst."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

import msgspec
import pytest

from eventwagon.cli.lab import make_job
from eventwagon.lab.experiment import one
from eventwagon.lab.job import Figures, figures

BURSTS = tuple(f"random-{n}" for n in range(1, 11))
TELLING = ("random-1", "random-3", "random-10")
"""Three in which the strategies differ. In most others all have all events on time; `make long` takes all ten."""


class Bounds(msgspec.Struct, frozen=True):
    """What elastic wagons keep to in each burst."""

    fewer: float
    """So much less of the share on time than either rival, at most."""
    queue: float
    """So many times the worker-seconds until at rest of the same sizing on one queue."""


BOUNDS = {2.0: Bounds(0.02, 2.0), 10.0: Bounds(0.2, 2.2)}
"""By seconds until Pods work."""


def came(name: str, start: float) -> list[Figures]:
    """Of elastic wagons, KEDA and one queue."""
    job = make_job(
        name, None, 1.0, None, None, "", None, None, None, 1, None, "", 500, 0, start, 32, 1, platform="kubernetes"
    )
    return [figures(job, one(job, strategy)) for strategy in ("wagons_elastic", "keda", "feed_forward")]


@pytest.mark.parametrize(
    ("start", "bursts"),
    [
        pytest.param(2.0, TELLING, id="2.0-telling"),
        pytest.param(2.0, BURSTS, id="2.0-all", marks=pytest.mark.soak),
        pytest.param(10.0, BURSTS, id="10.0-all", marks=pytest.mark.soak),
    ],
)
def test_elastic_wagons_keep_to_bounds_on_bursts_by_chance(start: float, bursts: Sequence[str]) -> None:
    bounds, all_of = BOUNDS[start], []
    for name in bursts:
        wagons, keda, queue = came(name, start)
        all_of.append((wagons, keda, queue))
        assert (wagons.lost, wagons.duplicates) == (0, 0), name
        assert wagons.standing == keda.standing == queue.standing, name
        assert wagons.on_time >= max(keda.on_time, queue.on_time) - bounds.fewer, name
        assert wagons.worker_seconds <= bounds.queue * queue.worker_seconds, name
    ours, theirs, one_queue = (mean(row.on_time for row in rows) for rows in zip(*all_of, strict=True))
    assert ours >= theirs + 0.05
    assert ours >= one_queue - 0.01
    paid, to_keda, _ = (sum(row.worker_seconds for row in rows) for rows in zip(*all_of, strict=True))
    assert paid <= 0.5 * to_keda
