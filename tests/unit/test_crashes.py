"""Processes of workers that end by themselves: each is reported once, by one observer, and not too often."""

from __future__ import annotations

from collections.abc import Sequence

from eventwagon.contracts.orchestrator import Deployment
from eventwagon.contracts.registry import Member
from eventwagon.policy.crashes import Crash, Crashes


def counted(crashes: int | None, because: str = "", number: int = 7) -> Deployment:
    return Deployment(number=number, ready=True, crashes=crashes, crashed_because=because)


class Looking:
    """One observer's looks, a second apart, or as long as a test says."""

    def __init__(self, name: str = "me", members: Sequence[Member] = ()) -> None:
        self.crashes, self.name, self.members, self.now = Crashes(), name, members, 0.0

    def look(self, *deployments: Deployment, after: float = 1.0) -> list[Crash]:
        self.now += after
        self.crashes.look(self.name, dict(enumerate(deployments, 1)), self.members, {1, 2})
        due = list(self.crashes.due(self.now))
        self.crashes.reported(due, self.now)
        return due


def test_each_is_reported_once_with_the_latest_reason() -> None:
    me = Looking()
    assert me.look(counted(3, "old")) == []  # before its time
    assert me.look(counted(3, "old")) == []
    assert me.look(counted(5, "signal 9")) == [Crash(7, 2, "signal 9")]
    assert me.look(counted(5, "signal 9")) == []


def test_a_unit_that_has_begun_since_counts_from_nothing() -> None:
    me = Looking()
    me.look()
    assert me.look(counted(1, "exit 3")) == [Crash(7, 1, "exit 3")]


def test_those_that_follow_are_reported_together_once_a_minute() -> None:
    me = Looking()
    me.look(counted(0))
    assert me.look(counted(1, "a")) == [Crash(7, 1, "a")]
    for crashes in range(2, 6):
        assert me.look(counted(crashes, f"b{crashes}"), after=10.0) == []
    assert me.look(counted(6, "c"), after=30.0) == [Crash(7, 5, "c")]
    assert me.look(counted(6, "c"), after=100.0) == []
    assert me.look(counted(7, "d")) == [Crash(7, 1, "d")]


def test_what_could_not_be_written_is_reported_later() -> None:
    crashes = Crashes()
    crashes.look("me", {1: counted(0)}, [], {1})
    crashes.look("me", {1: counted(1, "a")}, [], {1})
    assert crashes.due(1.0) == [Crash(7, 1, "a")]
    crashes.look("me", {1: counted(2, "b")}, [], {1})
    assert crashes.due(2.0) == [Crash(7, 2, "b")]


def test_an_orchestrator_that_can_not_be_asked_for_a_while_reports_nothing_twice() -> None:
    me = Looking()
    me.look(counted(0))
    assert me.look(counted(3, "a")) == [Crash(7, 3, "a")]
    assert me.look() == []
    assert me.look(counted(3, "a"), after=100.0) == []


def test_a_count_that_falls_is_no_crash() -> None:
    """On Kubernetes it is the sum over the Pods that there are."""
    me = Looking()
    me.look(counted(4))
    assert me.look(counted(1)) == []
    assert me.look(counted(2, "signal 11")) == [Crash(7, 1, "signal 11")]


def test_who_does_not_count_says_nothing() -> None:
    me = Looking()
    me.look(counted(None))
    assert me.look(counted(None)) == []


def test_of_observers_that_count_the_same_the_first_by_name_reports() -> None:
    member = Member(name="a", deployed=(counted(0),))
    for name, found in (("b", []), ("A", [Crash(7, 1, "exit 3")])):
        one = Looking(name, [member])
        one.look(counted(0))
        assert one.look(counted(1, "exit 3")) == found
    other = Looking("b", [Member(name="a", deployed=(counted(None),))])
    other.look(counted(0))
    assert other.look(counted(1, "exit 3")) == [Crash(7, 1, "exit 3")]
