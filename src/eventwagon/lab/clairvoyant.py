"""A clairvoyant scaler: it knows all arrivals beforehand and has a share of them on time for the fewest worker-seconds,
with Pods that need their time to start. What every scaler can be measured against. Pure.

A plan says how many Pods there are at each step of a grid. Pods are paid for from the moment they are asked for, and
none is asked for before the burst begins, as everywhere in the lab. A dynamic program finds the plan that costs least
if each late event costs a fine, and treats work as a liquid. The plan is then run event by event, and the fine searched
for with which that run has the share on time. What keeps it from being exact: the grid, and that fines find some shares
only, so that a plan may have more on time than was asked for.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

import msgspec

from .job import Job, Outcome, figures
from .strategies.station import InTime, ScalerView, Station

_STEPS = 400
_UNITS = 24
"""Pods come in so many units at most."""
_PORTIONS = 150
"""Of the events that arrive within one promise, at most."""
_MARGINS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Tried one after another, in steps, until a plan has enough on time."""
_SEARCHES = 7
_INFINITE = math.inf


class _Grid(msgspec.Struct, frozen=True):
    """The job in steps of time, its events in portions, its Pods in units."""

    step: float
    """Seconds."""
    lead: int
    """Steps until a Pod works."""
    standing: int
    """Pods."""
    pods: int
    """Of a unit."""
    units: int
    """Beyond the standing Pods, at most."""
    workers: int
    """Of a unit."""
    rate: float
    """Portions that a Pod works off in a step."""
    events: float
    """Of a portion."""
    come: Sequence[int]
    """Portions that have arrived, by step."""
    due: Sequence[int]
    """Portions that are late unless they were worked off by then."""

    def worked_off(self, units: int, n: int) -> int:
        """Portions in step `n`: whole ones, right on average."""
        rate = self.rate * (self.standing + units * self.pods)
        return math.floor(rate * (n + 1)) - math.floor(rate * n)


class _Planned:
    """A scaler that follows a plan."""

    first = 0.0

    def __init__(self, pods: Sequence[int], every: float) -> None:
        self.every = every
        self._pods = pods
        self._look = -1

    def wanted(self, now: float, seen: ScalerView) -> int:
        """Pods at this step."""
        self._look += 1
        return self._pods[min(self._look, len(self._pods) - 1)]


def cheapest(job: Job, strategy: str) -> Outcome:
    """The plan with the fewest worker-seconds beyond the standing workers that has `job.on_time` of the events on time;
    where none has, one with the most on time."""
    best: list[tuple[tuple[float, float], Outcome]] = []
    for margin in _MARGINS:
        grid = _grid(job, margin)
        low, high = 0.0, 4.0 * (job.start + job.slo)  # more than a worker costs that serves one event
        fine = high
        for _ in range(_SEARCHES):
            outcome = _follow(job, grid, _plan(grid, fine), strategy)
            row = figures(job, outcome)
            enough = row.on_time >= job.on_time
            rank = (min(row.on_time, job.on_time), -row.worker_seconds_extra)
            best = [max([*best, (rank, outcome)], key=lambda each: each[0])]
            if not enough and fine == high:
                break  # no fine helps
            low, high = (low, fine) if enough else (fine, high)
            fine = math.sqrt(low * high) if low else high / 8
        if best[0][0][0] >= job.on_time:
            break
    return best[0][1]


def _grid(job: Job, margin: float) -> _Grid:
    """With `margin` steps less until an event is late: the grid is coarse."""
    service = max(1e-9, sum(job.services) / len(job.services))
    end = job.arrivals[-1] + job.slo
    step = max(end / _STEPS, min(job.slo / 8, 1.0))
    lead = math.ceil(job.start / step - 1e-9)
    if lead:
        step = job.start / lead
    standing = math.ceil(job.standing / job.per_pod)
    window = _busiest(job.arrivals, job.slo)
    more = math.ceil(1.2 * window / job.slo * service / job.per_pod) + 1
    more = max(0, min(job.most // job.per_pod, more) - standing)
    pods = max(1, math.ceil(more / _UNITS))
    events = max(1.0, window / _PORTIONS)
    moments = [n * step for n in range(math.ceil(end / step) + 2)]
    come = [round(bisect_right(job.arrivals, at) / events) for at in moments]
    # an event that is worked on counts for half: water has no events
    due = [
        min(arrived, round(bisect_right(job.arrivals, at - job.slo + service / 2 + margin * step) / events))
        for at, arrived in zip(moments, come, strict=True)
    ]
    return _Grid(
        step,
        lead,
        standing,
        pods,
        more // pods,
        pods * job.per_pod,
        job.per_pod * step / service / events,
        events,
        come,
        due,
    )


def _busiest(arrivals: Sequence[float], seconds: float) -> int:
    """Most arrivals within so many seconds."""
    return max(i - bisect_right(arrivals, at - seconds) + 1 for i, at in enumerate(arrivals))


def _plan(grid: _Grid, fine: float) -> list[int]:
    """Units beyond the standing ones that work in each step.

    A state is the portions worked off so far (late ones included), by the number of units. Of each the least cost is
    known, in worker-seconds: first as it is reached, then after units were added or sent away.
    """
    end = len(grid.come) - 1
    add = grid.workers * grid.lead * grid.step
    reached = [[_INFINITE] * (grid.come[0] - grid.due[0] + 1) for _ in range(grid.units + 1)]
    reached[0][0] = 0.0
    steps: list[tuple[list[list[float]], list[list[float]]]] = []
    for n in range(end):
        changed = [list(costs) for costs in reached]
        if n >= grid.lead:
            for units in range(1, grid.units + 1):
                changed[units] = [min(a, b + add) for a, b in zip(changed[units], changed[units - 1], strict=True)]
        for units in range(grid.units - 1, -1, -1):
            changed[units] = [min(a, b) for a, b in zip(changed[units], changed[units + 1], strict=True)]
        steps.append((reached, changed))
        reached = [_advance(grid, n, units, costs, fine) for units, costs in enumerate(changed)]
    found, units, at = [], 0, grid.come[end]
    for n in range(end - 1, -1, -1):
        before, after = steps[n]
        at = _from(grid, n, units, after[units], at, fine)
        found.append(units)
        place = at - grid.due[n]
        units = min(
            range(grid.units + 1) if n >= grid.lead else range(units, grid.units + 1),
            key=lambda other: (before[other][place] + add * max(0, units - other), abs(units - other)),
        )
    return found[::-1]


def _advance(grid: _Grid, n: int, units: int, costs: list[float], fine: float) -> list[float]:
    """What each state costs a step later."""
    due, come = grid.due[n + 1], grid.come[n + 1]
    run = units * grid.workers * grid.step
    first = grid.due[n] + grid.worked_off(units, n)
    late = min(max(0, due - first), len(costs))  # the states that leave something late
    full = max(late, min(come - first, len(costs)))  # from here on all that has come is worked off
    after = [_INFINITE] * (come - due + 1)
    start = max(0, first + late - due)
    after[start : start + full - late] = [cost + run for cost in costs[late:full]]
    if full < len(costs):
        after[-1] = min(after[-1], min(costs[full:]) + run)
    for at, cost in enumerate(costs[:late], start=first):
        after[0] = min(after[0], cost + run + fine * grid.events * (due - at))
    return after


def _from(grid: _Grid, n: int, units: int, costs: list[float], to: int, fine: float) -> int:
    """Which state of a step came to be `to` a step later, at the least cost."""
    due, come = grid.due[n + 1], grid.come[n + 1]
    more = grid.worked_off(units, n)
    best, found = _INFINITE, -1
    for at, cost in enumerate(costs, start=grid.due[n]):
        late = max(0, due - at - more)
        if max(due, min(at + more, come)) == to and cost + fine * grid.events * late <= best:
            best, found = cost + fine * grid.events * late, at
    return found


def _follow(job: Job, grid: _Grid, units: Sequence[int], strategy: str) -> Outcome:
    """The plan, event by event: the oldest event that can still be on time comes first."""
    # Asked for are those that work now or will within the start-up time.
    pods = [grid.standing + grid.pods * max(units[n : n + grid.lead + 1]) for n in range(len(units))]
    scaler = _Planned([*pods, grid.standing], grid.step)
    outcome = Station(job, InTime(job), scaler).run(strategy)
    note = (
        f"who knows all arrivals: the fewest worker-seconds with {job.on_time:.1%} on time, Pods there {job.start:g} s "
        "after they were "
        f"asked for; a plan in steps of {grid.step:.2g} s"
    )
    return msgspec.structs.replace(outcome, note=note)
