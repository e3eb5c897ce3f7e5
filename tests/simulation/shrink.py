"""From a failing scenario to a smaller one that fails in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec

from .scenario import Program, Scenario

_PLAINER: tuple[dict[str, Any], ...] = (
    {"grows_at": None, "renames": None},
    {"latency": 0.0},
    {"answers": 0.0},
    {"hostility": 0.0},
    {"deaf": 0.0},
    {"breaker": False},
    {"torn": 0.0},
    {"unknown": 0.0},
    {"poison": 0.0},
    {"trouble": 0.0},
    {"reject": 0.0},
    {"tail": 0.0},
    {"deeper": 1.0},
    {"depth": 1},
    {"fan_out": 1},
)

Fails = Callable[[Scenario], bool]


def shrink(scenario: Scenario, fails: Fails, *, tries: int = 300) -> Scenario:
    """A scenario as small as `tries` runs allow for which `fails` still holds: fewer faults first, then fewer events
    and processes, then less of everything else."""
    left = tries

    def still(candidate: Scenario) -> bool:
        nonlocal left
        if left <= 0:
            return False
        left -= 1
        return fails(candidate)

    before = None
    while before != scenario and left > 0:
        before = scenario
        for field in ("faults", "by_hand", "arrivals", "writes"):
            scenario = _fewer(scenario, field, still)
        for step in _steps(scenario):
            candidate = step(scenario)
            if candidate != scenario and still(candidate):
                scenario = candidate
    return scenario


def _fewer(scenario: Scenario, field: str, still: Fails) -> Scenario:
    """Leave out parts of a tuple, large ones first."""
    items: Sequence[object] = getattr(scenario, field)
    size = len(items)
    while size >= 1:
        start = 0
        while start < len(items):
            candidate = msgspec.structs.replace(scenario, **{field: (*items[:start], *items[start + size :])})
            if still(candidate):
                scenario, items = candidate, getattr(candidate, field)
            else:
                start += size
        size //= 2
    return scenario


def _steps(scenario: Scenario) -> Iterator[Callable[[Scenario], Scenario]]:
    """Further simplifications, each tried on what the ones before have left."""
    for program in scenario.programs:
        yield partial(_without, name=program.name)
        yield partial(_told, name=program.name)
    for change in _PLAINER:
        yield partial(msgspec.structs.replace, **change)
    yield _singles
    for i in range(len(scenario.arrivals)):
        yield partial(_single, i=i)


def _without(scenario: Scenario, name: str) -> Scenario:
    """Without one process, where every role is still held by another."""
    rest = tuple(p for p in scenario.programs if p.name != name)
    if _held(scenario.programs) != _held(rest):
        return scenario
    return msgspec.structs.replace(
        scenario,
        programs=rest,
        arrivals=tuple(a for a in scenario.arrivals if a.process != name),
        by_hand=tuple(h for h in scenario.by_hand if h.process != name),
        faults=tuple(f for f in scenario.faults if f.process != name),
    )


def _held(programs: Sequence[Program]) -> set[tuple[str, str]]:
    """The roles, those that work with each version of the code apart."""
    return {(role, p.revision if role == "work" else "") for p in programs for role in p.roles}


def _told(scenario: Scenario, name: str) -> Scenario:
    """With the right time at one process."""

    def right(p: Program) -> Program:
        return msgspec.structs.replace(p, clock=0.0) if p.name == name else p

    return msgspec.structs.replace(scenario, programs=tuple(right(p) for p in scenario.programs))


def _singles(scenario: Scenario) -> Scenario:
    for i in range(len(scenario.arrivals)):
        scenario = _single(scenario, i)
    return scenario


def _single(scenario: Scenario, i: int) -> Scenario:
    if i >= len(scenario.arrivals):
        return scenario
    arrivals = list(scenario.arrivals)
    arrivals[i] = msgspec.structs.replace(arrivals[i], count=1, many=False)
    return msgspec.structs.replace(scenario, arrivals=tuple(arrivals))
