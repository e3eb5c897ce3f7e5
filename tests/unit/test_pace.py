"""How often an observer looks at a train at which nothing happens."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from eventwagon import Age, Settings, Volume, Workers
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Pause, Request
from eventwagon.contracts.registry import Member, bridge_member
from eventwagon.policy.leading import LONGEST
from eventwagon.policy.pace import pause
from eventwagon.policy.seen import Ages, Seen
from tests.unit.plans import NOW, capabilities, manifest, reading, ready, wagon

ME = Member(name="me", roles=("observe", "work"))
EVERY = 0.1


def seen(**fields: Any) -> Seen:
    """An idle train with a spare, as its only process sees it."""
    given: dict[str, Any] = {
        "now": NOW,
        "settings": Settings(limit=Volume(100), workers=Workers(each=2), spares=1, observe_every=EVERY),
        "capabilities": capabilities(),
        "manifest": manifest(wagon(1, State.ACTIVE), wagon(2, State.READY)),
        "readings": {1: reading(1, 40, 40)},
        "deployments": ready(1, 2),
        "members": [ME],
        "ages": Ages(wagons={1: 60.0, 2: 60.0}, idle=60.0),
        **fields,
    }
    return Seen(**given)


def test_pauses_grow_with_the_quiet_and_are_bounded() -> None:
    assert pause(seen(), "me", 60.0) == LONGEST
    assert pause(seen(), "me", 5.0) == 1.0
    assert pause(seen(ages=Ages(idle=4.0)), "me", 60.0) == 0.8
    assert pause(seen(), "me", 2.9) == EVERY
    assert pause(seen(), "me", 0.0) == EVERY


def crowd(*more: Member) -> list[Member]:
    """Me and four others that observe and work."""
    others = [Member(name=f"other{n}", roles=("observe", "work")) for n in range(4)]
    return sorted([ME, *others, *more], key=lambda member: member.name)


def test_many_that_hear_of_the_first_event_rest_together_and_not_in_step() -> None:
    members = crowd(Member(name="publisher", roles=()))
    pauses = {pause(seen(members=members), f"other{n}", 60.0) for n in range(4)}
    assert len(pauses) == 4
    assert all(0.8 * LONGEST <= each <= LONGEST for each in pauses)


@pytest.mark.parametrize("role", ["work", "serve"])
def test_nobody_rests_where_the_first_event_may_come_to_a_process_that_does_not_observe(role: str) -> None:
    members = crowd(Member(name="worker", roles=(role,)))
    assert pause(seen(members=members), "me", 60.0) == EVERY


def test_two_and_three_go_on_looking() -> None:
    for count in (1, 2):
        members = [ME, *(Member(name=f"other{n}", roles=("observe", "work")) for n in range(count))]
        assert pause(seen(members=members), "me", 60.0) == EVERY


def test_a_bridge_keeps_nobody_awake() -> None:
    members = [ME, Member(name=bridge_member("other", "redis://h/orders"), roles=("bridge",))]
    assert pause(seen(members=members), "me", 60.0) == LONGEST


def test_many_without_a_worker_do_not_rest() -> None:
    members = [Member(name=f"other{n}", roles=("observe",)) for n in range(5)]
    assert pause(seen(members=members), "other1", 60.0) == EVERY


def test_who_observes_less_often_by_its_settings_is_not_hurried() -> None:
    slow = Settings(limit=Volume(100), workers=Workers(each=2), spares=1, observe_every=10.0)
    assert pause(seen(settings=slow), "me", 60.0) == 10.0


@pytest.mark.parametrize(
    "fields",
    [
        {"members": [ME, Member(name="other", roles=("observe",))]},
        {"members": [Member(name="me", roles=("observe",))]},  # others would receive the first event
        {"members": []},
        {"orchestrated": True},
        {"capabilities": capabilities(fences=False)},
        {"readings": {1: reading(1, 40, 39)}},
        {"readings": {1: reading(1, 40, 40, outstanding_in_all=None)}},
        {"readings": {1: reading(1, 40, 40, missing=("a",))}},
        {"readings": {}},
        {"deployments": {}},
        {"deployments": {1: msgspec.structs.replace(ready(1)[1], open={"": "its breaker is open"})}},
        {"deployments": {1: msgspec.structs.replace(ready(1)[1], paused=True)}},
        {"manifest": manifest(wagon(1, State.ACTIVE))},  # without its spare
        {"manifest": manifest(wagon(1, State.ACTIVE), wagon(2, State.PROVISIONING))},
        {"manifest": manifest(wagon(1, State.DRAINING), wagon(2, State.ACTIVE), wagon(3, State.READY))},
        {"manifest": manifest(wagon(1, State.ACTIVE), wagon(2, State.READY), request=Request("x", NOW))},
        {"manifest": manifest(wagon(1, State.ACTIVE), wagon(2, State.READY), paused=Pause(at=NOW, why="x"))},
    ],
)
def test_a_train_at_which_anything_goes_on_is_looked_at_at_full_pace(fields: dict[str, Any]) -> None:
    assert pause(seen(**fields), "me", 60.0) == EVERY


def test_no_mark_that_time_alone_brings_is_slept_through() -> None:
    """At half its age the next wagon is opened, at its age the train switches."""
    settings = Settings(limit=Age(100.0), workers=Workers(each=2), spares=1, observe_every=EVERY)
    for age, expected in ((40.0, LONGEST), (49.0, EVERY), (60.0, LONGEST), (97.5, LONGEST), (98.5, EVERY)):
        assert pause(seen(settings=settings, readings={1: reading(1, 40, 40, age=age)}), "me", 60.0) == expected
