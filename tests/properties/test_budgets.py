"""Budgets: whatever processes have seen of one another, they never use more than there is; and each gets its due."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventwagon.policy import budgets
from eventwagon.policy.budgets import Claim, burst, due, granted, parts, shares

NAMES = "abcdef"
wanting = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 9))


@given(st.integers(0, 30), wanting, st.integers(0, 1000))
def test_shares_are_all_that_can_be_used_and_no_more(total: int, wants: dict[str, int], turn: int) -> None:
    given = shares(total, wants, turn)
    assert given.keys() == wants.keys()
    assert sum(given.values()) == min(total, sum(wants.values()))
    assert all(0 <= given[name] <= wants[name] for name in wants)


@given(st.integers(0, 30), wanting)
def test_who_gets_less_than_it_wants_gets_no_less_than_others(total: int, wants: dict[str, int]) -> None:
    given = shares(total, wants)
    for name in wants:
        if given[name] < wants[name]:
            assert all(given[name] >= other - 1 for other in given.values())


@given(st.integers(1, 4), st.integers(1, 6))
def test_each_gets_its_turn(total: int, processes: int) -> None:
    wants = dict.fromkeys(NAMES[:processes], 3)
    seen = [shares(total, wants, turn) for turn in range(processes)]
    for name in wants:
        assert sum(given[name] for given in seen) >= min(total, processes)


def test_a_million_units_are_divided_at_once() -> None:
    assert shares(1_000_000, {"a": 10**9, "b": 3, "c": 10**9}) == {"a": 499_999, "b": 3, "c": 499_998}


class Process:
    """One process as the protocol has it: what it may use, what it uses, and what the registry has of it."""

    def __init__(self) -> None:
        self.held = self.used = 0
        self.asked = 0
        self.seen: dict[str, Claim] = {}
        self.step = 0
        self.wants = 0


steps = st.lists(
    st.one_of(
        st.tuples(st.just("next"), st.sampled_from(NAMES), st.integers(0, 9)),
        st.tuples(st.just("use"), st.sampled_from(NAMES), st.integers(0, 9)),
        st.tuples(st.just("end"), st.sampled_from(NAMES), st.just(0)),
    ),
    max_size=120,
)


def _most_used(total: int, moves: list[tuple[str, str, int]], grant: Callable[[int, int, int, int], int]) -> int:
    """The most that is used at any time, while processes look, say and look again in this order. Whatever one has seen
    may be old by the time that it acts on it. A process that ends has stopped using before its check-in goes."""
    all_of, registry, most = {name: Process() for name in NAMES}, dict[str, Claim](), 0
    for what, name, number in moves:
        p = all_of[name]
        match what:
            case "use":  # as many as it may, or fewer; what is under way ends when it ends
                p.used = max(p.used, min(number, p.held)) if number % 2 else min(p.used, number)
            case "end":
                all_of[name] = Process()
                registry.pop(name, None)
            case _ if p.step == 0:
                p.wants = number
                p.seen = dict(registry)
                p.step = 1
            case _ if p.step == 1:
                claims = {**p.seen, name: Claim(max(p.held, p.used), p.wants)}
                p.asked = due(total, name, claims, turn=number, patient=number % 3 == 0)
                p.held = min(p.held, p.asked)
                registry[name] = Claim(max(p.asked, p.used), p.wants)
                p.step = 2
            case _:
                others = sum(claim.held for other, claim in registry.items() if other != name)
                p.held = grant(total, p.asked, p.held, others)
                p.step = 0
        most = max(most, sum(each.used for each in all_of.values()))
    return most


@given(st.integers(1, 8), steps)
def test_together_they_never_use_more_than_there_is(total: int, moves: list[tuple[str, str, int]]) -> None:
    assert _most_used(total, moves, granted) <= total


def test_one_that_takes_what_it_asked_for_without_a_second_look_is_caught() -> None:
    """The property can fail: two ask at once."""
    moves = [(what, name, 7) for what in ("next", "next", "next", "use") for name in "ab"]
    assert _most_used(4, moves, granted) <= 4
    assert _most_used(4, moves, lambda total, asked, held, others: asked) > 4


@given(
    st.integers(1, 12),
    st.dictionaries(st.sampled_from(NAMES), st.integers(0, 9), min_size=1),
    st.dictionaries(st.sampled_from(NAMES), st.integers(0, 9)),
)
def test_one_after_another_they_reach_their_shares(total: int, wants: dict[str, int], before: dict[str, int]) -> None:
    held, left = dict.fromkeys(wants, 0), total
    for name in wants:
        held[name] = min(left, before.get(name, 0))
        left -= held[name]
    for _ in range(6):
        for name in sorted(wants):
            claims = {n: Claim(held[n], wants[n]) for n in wants}
            others = sum(held.values()) - held[name]
            asked = due(total, name, claims)
            held[name] = granted(total, asked, min(held[name], asked), others)
    given = shares(total, wants)
    assert all(held[name] >= given[name] for name in wants)
    assert sum(held.values()) <= total


def test_what_nobody_else_wants_is_kept() -> None:
    assert due(4, "a", {"a": Claim(4, 0), "b": Claim(0, 0)}) == 4
    assert due(4, "a", {"a": Claim(4, 0), "b": Claim(0, 1)}) == 3
    assert due(4, "a", {"a": Claim(4, 9), "b": Claim(0, 9)}) == 2
    assert due(4, "a", {"a": Claim(2, 9), "b": Claim(0, 9)}) == 2  # b takes what is left


def test_what_stays_left_is_for_anybody() -> None:
    claims = {"a": Claim(1, 9), "b": Claim(0, 9)}
    assert due(1, "b", claims, turn=0) == 0
    claims = {"a": Claim(0, 9), "b": Claim(0, 9)}
    assert due(1, "b", claims, turn=0) == 0
    assert due(1, "b", claims, turn=0, patient=True) == 1


def test_a_budget_that_got_smaller_is_given_up_at_once() -> None:
    assert due(2, "a", {"a": Claim(4, 9), "b": Claim(4, 9)}) == 1


@pytest.mark.parametrize(("rate", "count"), [(0.001, 1), (1.9, 1), (4, 2), (20, 10), (1e9, 1000)])
def test_parts_of_a_rate(rate: float, count: int) -> None:
    assert parts(rate) == count


@given(st.floats(2.0, 1e5))
def test_all_that_have_a_part_may_begin_less_than_a_tenth_too_many_in_ten_seconds(rate: float) -> None:
    number = parts(rate)
    assert number * burst(rate / number) <= 10 * rate * 0.1 + 1
    assert budgets.turn_seconds(rate) >= 5.0


def test_what_is_in_use_is_not_left() -> None:
    """A process that is to give up two of four, which are still in use, does not take them for free."""
    assert due(4, "a", {"a": Claim(4, 9), "b": Claim(0, 9)}, patient=True) == 2
    assert due(4, "b", {"a": Claim(4, 9), "b": Claim(0, 9)}, patient=True) == 0
