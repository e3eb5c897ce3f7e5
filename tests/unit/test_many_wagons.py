"""A look at twice as many live wagons takes twice as many steps, not four times."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from eventwagon.contracts.broker import Depth
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest, Wagon
from eventwagon.contracts.orchestrator import Deployment
from eventwagon.contracts.registry import Member
from eventwagon.event import Channel
from eventwagon.policy.losses import Losses
from eventwagon.policy.seen import checked_in


def steps(work: Callable[[], object]) -> int:
    """Lines of Python that it runs, each time that it runs them."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def look_at_losses(wagons: int) -> None:
    losses = Losses(totals=True)
    depths = {Channel("t", n): Depth(published=5, settled=3, waiting=2, in_flight=0) for n in range(1, wagons + 1)}
    for now in (0.0, 1.0):
        losses.look(depths, depths.keys(), dict.fromkeys(range(1, wagons + 1), 0), now=now)
        for number in range(1, wagons + 1):
            assert losses.of(number) == 0
            assert losses.why(number) == ""


def read_check_ins(wagons: int) -> None:
    live = tuple(Wagon(number=n, state=State.DRAINING, opened_at=0.0) for n in range(1, wagons + 1))
    manifest = Manifest(train="t", wagons=live, next_number=wagons + 1)
    attached = tuple(Deployment(number=n, ready=True, workers=1) for n in range(1, wagons + 1))
    members = [Member(name=f"m{n}", roles=("work",), attachments=attached) for n in range(3)]
    assert len(checked_in(members, manifest)) == wagons


@pytest.mark.parametrize("work", [look_at_losses, read_check_ins])
def test_twice_as_many_wagons_take_twice_as_many_steps(work: Callable[[int], None]) -> None:
    few, many = steps(lambda: work(100)), steps(lambda: work(200))
    assert many < 2.2 * few


def test_steps_that_grow_with_the_square_are_noticed() -> None:
    def square(size: int) -> None:
        assert sum(1 for a in range(size) for b in range(size) if a == b) == size

    assert steps(lambda: square(200)) > 3 * steps(lambda: square(100))
