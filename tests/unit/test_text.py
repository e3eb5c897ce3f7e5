"""Text from elsewhere, on one line."""

from __future__ import annotations

from eventwagon.text import MOST, said


def test_a_group_says_what_is_in_it() -> None:
    inner = ExceptionGroup("more", [KeyError("x")])
    group = ExceptionGroup("unhandled errors in a TaskGroup", [ConnectionError("payments said 503"), inner])
    assert said(group) == "ExceptionGroup: (2) ConnectionError: payments said 503; ExceptionGroup: (1) KeyError: 'x'"


def test_a_deep_group_is_said_too() -> None:
    error: Exception = ValueError("deep")
    for _ in range(5000):
        error = ExceptionGroup("g", [error])
    assert len(said(error)) <= MOST + 102
