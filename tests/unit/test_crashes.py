"""Processes of workers that end by themselves: told once, by one observer."""

from __future__ import annotations

from eventwagon.contracts.orchestrator import Deployment
from eventwagon.contracts.registry import Member
from eventwagon.policy.crashes import Crash, Crashes


def counted(crashes: int | None, because: str = "", number: int = 7) -> Deployment:
    return Deployment(number=number, ready=True, crashes=crashes, crashed_because=because)


def test_each_is_told_once_with_the_latest_reason() -> None:
    crashes = Crashes()
    assert crashes.look("me", {1: counted(3, "old")}, []) == []  # before its time
    assert crashes.look("me", {1: counted(3, "old")}, []) == []
    assert crashes.look("me", {1: counted(5, "signal 9")}, []) == [Crash(7, 2, "signal 9")]
    assert crashes.look("me", {1: counted(5, "signal 9")}, []) == []


def test_a_unit_that_has_begun_since_counts_from_nothing() -> None:
    crashes = Crashes()
    crashes.look("me", {}, [])
    assert crashes.look("me", {2: counted(1, "exit 3")}, []) == [Crash(7, 1, "exit 3")]


def test_a_count_that_falls_is_no_crash() -> None:
    """On Kubernetes it is the sum over the Pods that there are."""
    crashes = Crashes()
    crashes.look("me", {1: counted(4)}, [])
    assert crashes.look("me", {1: counted(1)}, []) == []
    assert crashes.look("me", {1: counted(2, "signal 11")}, []) == [Crash(7, 1, "signal 11")]


def test_who_does_not_count_says_nothing() -> None:
    crashes = Crashes()
    crashes.look("me", {1: counted(None)}, [])
    assert crashes.look("me", {1: counted(None)}, []) == []


def test_of_observers_that_count_the_same_the_first_by_name_tells() -> None:
    member = Member(name="a", deployed=(counted(0),))
    for name, told in (("b", []), ("A", [Crash(7, 1, "exit 3")])):
        crashes = Crashes()
        crashes.look(name, {1: counted(0)}, [member])
        assert crashes.look(name, {1: counted(1, "exit 3")}, [member]) == told
    crashes = Crashes()
    uncounted = Member(name="a", deployed=(counted(None),))
    crashes.look("b", {1: counted(0)}, [uncounted])
    assert crashes.look("b", {1: counted(1, "exit 3")}, [uncounted]) == [Crash(7, 1, "exit 3")]
