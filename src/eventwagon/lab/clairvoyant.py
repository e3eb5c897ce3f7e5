"""A clairvoyant scaler: it knows all arrivals in advance, and gets the wanted share of them done on time for the fewest
worker-seconds, although Pods take time to start. Any other scaler can be measured against it. Pure.

A plan says how many Pods exist at each step of a time grid. Pods are paid for from the moment they are requested, and
none is requested before the burst begins, as everywhere in the lab. A dynamic program finds the cheapest plan if each
late event costs a fine; it treats work as a liquid. The plan is then simulated event by event, and the fine is searched
for which this simulation reaches the wanted share. Two things keep the result from being exact: the grid, and that
fines reach only some shares, so that a plan may have more events on time than wanted.
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
"""Pods are added in units, of which there are at most so many."""
_PORTIONS = 150
"""The events that arrive within one promise are divided into at most so many portions."""
_MARGINS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Margins in steps of the grid, tried in turn until a plan has enough events on time."""
_SEARCHES = 7
_INFINITE = math.inf


class _Grid(msgspec.Struct, frozen=True):
    """The job with its time in steps, its events in portions and its Pods in units."""

    step: float
    """Length of a step, in seconds."""
    lead: int
    """Steps from requesting a Pod until it works."""
    standing: int
    """Number of Pods that stand before the burst."""
    pods: int
    """Pods in a unit."""
    units: int
    """The most units beyond the standing Pods."""
    workers: int
    """Workers in a unit."""
    rate: float
    """Portions that a Pod finishes in a step."""
    events: float
    """Events in a portion."""
    come: Sequence[int]
    """Portions that have arrived by each step."""
    due: Sequence[int]
    """Portions that must be done by each step in order not to be late."""

    def worked_off(self, units: int, n: int) -> int:
        """Whole portions done in step `n`; right on average."""
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
        """The number of Pods at this step."""
        self._look += 1
        return self._pods[min(self._look, len(self._pods) - 1)]


def cheapest(job: Job, strategy: str) -> Outcome:
    """The plan with the fewest worker-seconds beyond the standing workers that has `job.on_time` of the events on time;
    if no plan has, one with the most on time."""
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
    """The grid for the job. Events count as late `margin` steps early, since the grid is coarse."""
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
    """The most arrivals within any so many seconds."""
    return max(i - bisect_right(arrivals, at - seconds) + 1 for i, at in enumerate(arrivals))


def _plan(grid: _Grid, fine: float) -> list[int]:
    """The units beyond the standing Pods that work in each step.

    A state is the number of portions done so far (including late ones) and the number of units. The program computes
    the least cost of each state, in worker-seconds: first as the state is reached, then after units were added or
    removed.
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
    """The cost of each state after one more step."""
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
    """The state of step `n` from which state `to` of the next step is reached at the least cost."""
    due, come = grid.due[n + 1], grid.come[n + 1]
    more = grid.worked_off(units, n)
    best, found = _INFINITE, -1
    for at, cost in enumerate(costs, start=grid.due[n]):
        late = max(0, due - at - more)
        if max(due, min(at + more, come)) == to and cost + fine * grid.events * late <= best:
            best, found = cost + fine * grid.events * late, at
    return found


def _follow(job: Job, grid: _Grid, units: Sequence[int], strategy: str) -> Outcome:
    """Simulate the plan event by event: the oldest event that can still be on time comes first."""
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
