"""Who looks all the time, where there are many observers."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventwagon import Settings, Volume, Workers
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.registry import BudgetPart, Member
from eventwagon.policy.leading import HANDOVER, LEADERS, LONGEST, are_many, pause_of_follower
from eventwagon.policy.seen import Seen
from eventwagon.workers import Elastic
from tests.unit.plans import NOW, capabilities, manifest, wagon

EVERY = 0.1
LONG_AGO = float("inf")
NAMES = [f"p{n}" for n in range(6)]


def seen(names: list[str], roles: tuple[str, ...] = ("observe", "work")) -> Seen:
    return Seen(
        now=NOW,
        settings=Settings(limit=Volume(100), workers=Workers(each=2), observe_every=EVERY),
        capabilities=capabilities(),
        manifest=manifest(wagon(1, State.ACTIVE)),
        members=[Member(name=name, roles=roles) for name in names],
    )


def test_the_first_three_lead_and_the_others_follow() -> None:
    pauses = [pause_of_follower(seen(NAMES), name, LONG_AGO) for name in NAMES]
    assert pauses[:LEADERS] == [EVERY] * LEADERS
    assert all(EVERY < each <= LONGEST for each in pauses[LEADERS:])


def test_three_observers_all_lead_whatever_else_is_there() -> None:
    look = seen(NAMES[:3])
    others = [
        Member(name="a", roles=("work",)),
        Member(name="b", roles=()),
        Member(name="p0/budgets/x", roles=("observe",), budgets={"x": BudgetPart(held=1.0, wants=1.0, of=2.0)}),
    ]
    look = msgspec.structs.replace(look, members=sorted([*look.members, *others], key=lambda member: member.name))
    assert not are_many(look.members)
    assert [pause_of_follower(look, name, LONG_AGO) for name in NAMES[:3]] == [EVERY] * 3


def test_who_follows_leads_once_those_before_it_are_gone() -> None:
    assert pause_of_follower(seen(NAMES), "p3", LONG_AGO) > EVERY
    assert pause_of_follower(seen(NAMES[2:]), "p3", LONG_AGO) == EVERY


def test_who_is_not_on_the_list_does_not_rely_on_it() -> None:
    assert pause_of_follower(seen(NAMES), "unknown", LONG_AGO) == EVERY


def test_who_heard_of_the_first_event_leads_until_the_others_must_know() -> None:
    assert pause_of_follower(seen(NAMES), "p4", 0.0) == EVERY
    assert pause_of_follower(seen(NAMES), "p4", HANDOVER - 0.1) == EVERY
    assert pause_of_follower(seen(NAMES), "p4", HANDOVER) > EVERY


def test_all_lead_where_each_may_know_what_no_other_does() -> None:
    """Its own orchestrator's processes, or its own measure of the traffic."""
    look = seen(NAMES)
    elastic = Settings(limit=Volume(100), workers=Workers(each=Elastic(1, 4, promise=1.0)), observe_every=EVERY)
    for each in (
        msgspec.structs.replace(look, orchestrated=True),
        msgspec.structs.replace(look, settings=elastic),
    ):
        assert pause_of_follower(each, "p4", LONG_AGO) == EVERY


@pytest.mark.parametrize(("every", "ttl"), [(0.1, 5.0), (0.1, 1.0), (3.0, 5.0)])
def test_a_follower_sees_each_check_in(every: float, ttl: float) -> None:
    """Of a process that checks in once and dies."""
    look = seen(NAMES)
    settings = Settings(limit=Volume(100), workers=Workers(each=2), observe_every=every, member_ttl=ttl)
    look = msgspec.structs.replace(look, settings=settings)
    for name in NAMES:
        assert every <= pause_of_follower(look, name, LONG_AGO) <= max(every, ttl / 3)


names = st.lists(st.text("abc0123-", min_size=1, max_size=6), min_size=1, max_size=12, unique=True)


@given(names)
def test_somebody_leads_and_nobody_stays_away_for_long(found: list[str]) -> None:
    """Whoever is there, and whatever of it each has seen."""
    look = seen(sorted(found))
    pauses = [pause_of_follower(look, name, LONG_AGO) for name in found]
    assert pauses.count(EVERY) == min(LEADERS, len(found))
    assert max(pauses) <= LONGEST


@given(names)
def test_looks_cost_no_more_than_a_lone_process_and_its_leaders(found: list[str]) -> None:
    """Together: three look all the time, however many are there."""
    look = seen(sorted(found))
    looks = sum(1 / pause_of_follower(look, name, LONG_AGO) for name in found)
    shortest = 0.8 * min(LONGEST, look.settings.member_ttl / 3)
    assert looks <= LEADERS / EVERY + len(found) / shortest + 1e-9
