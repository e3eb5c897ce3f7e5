"""What repeats is logged seldom, and counted."""

from __future__ import annotations

import pytest

from eventwagon.contracts import facts
from eventwagon.contracts.facts import RegistrySteppedBack, log
from eventwagon.seldom import Seldom


class Clock:
    now = 5.0

    def __call__(self) -> float:
        return self.now


def test_the_first_lines_of_a_minute_and_the_number_of_the_others() -> None:
    clock = Clock()
    seldom = Seldom(3, every=60.0, clock=clock)
    assert [seldom.left_out("a") for _ in range(6)] == [0, 0, 0, None, None, None]
    assert seldom.left_out("b") == 0
    clock.now += 59.9
    assert seldom.left_out("a") is None
    clock.now += 0.2
    assert [seldom.left_out("a") for _ in range(4)] == [4, 0, 0, None]
    clock.now += 60.0
    assert [seldom.left_out("a"), seldom.left_out("b")] == [1, 0]


def test_a_registry_that_steps_back_again_and_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    monkeypatch.setattr(facts, "_stepped_back", Seldom(10, clock=clock))
    fact = RegistrySteppedBack(train="t", known=9, found=0, wagons=(1,))
    for _ in range(500):
        log(fact)
    assert len(caplog.messages) == 10
    clock.now += 61.0
    log(fact)
    assert "it does not know t_v1 (490 before it were not logged)" in caplog.messages[-1]
