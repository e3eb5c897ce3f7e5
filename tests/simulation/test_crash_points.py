"""A process dies at each point between two steps: others finish, or its successor does, and nothing is lost."""

from __future__ import annotations

import pytest

from eventwagon.contracts.facts import ReplayEnded
from tests.simulation.checker import check
from tests.simulation.crash_points import POINTS, Ambush, CrashPoint, scenario
from tests.simulation.history import Accepted, Committed, Crashed, Deleted, Revised, Settled, Started
from tests.simulation.run import simulate


@pytest.mark.parametrize("dead_for", [0.5, 60.0], ids=["soon back", "others finish"])
@pytest.mark.parametrize("point", POINTS, ids=[point.name for point in POINTS])
def test_killed(point: CrashPoint, dead_for: float) -> None:
    ambush = Ambush(point, dead_for=dead_for)
    run = simulate(scenario(point, dead_for=dead_for), ambush=ambush, left_over=point.left_over)
    assert [crash.by for crash in run.history.of(Crashed)] == [ambush.struck], "the point was never reached"
    assert check(run) == []
    assert run.rest.reached, run.rest.lacking
    if point.undone:
        (ended,) = [f for r in run.history.of(Revised) for f in r.facts if isinstance(f, ReplayEnded)]
        assert (ended.fed, ended.because) == (ended.count, "")
        assert ended.count > 5
    died = run.history.of(Crashed)[0]
    for channel in point.left_over:
        assert any(d.channel == channel and d.seq > died.seq for d in run.history.of(Deleted))
    if dead_for > 30 and point.role in ("observe", "work", "bridge"):
        # The others did it, long before the dead one came back.
        slot = ambush.struck.split(".")[0]
        back = [s.at for s in run.history.of(Started) if s.by.split(".")[0] == slot and s.seq > died.seq]
        assert back[0] > died.at + 30
        assert max(r.at for r in run.history.of(Revised)) < back[0]
        assert max(s.at for s in run.history.of(Settled)) < back[0]
        assert all(c.at < back[0] for c in run.history.of(Committed))
    written = sum(w.count for w in scenario(point, dead_for=dead_for).writes)
    assert sum(len(c.positions) for c in run.history.of(Committed)) == written == (20 if point.bridged else 0)
    assert len(run.history.of(Accepted)) > 10


def test_names_are_different() -> None:
    assert len({point.name for point in POINTS}) == len(POINTS)
