"""What holds for shares of the workers, and for where a free worker goes."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventwagon.errors import UsageError
from eventwagon.policy.scheduling import Candidate, ChainTimes, choose, share
from eventwagon.workers import Workers, parse_workers

NOW = 1_750_000_000.0


@st.composite
def wagons(draw: st.DrawFn) -> list[Candidate]:
    """Draining wagons, oldest first, then the active one. Later wagons hold later events."""
    count = draw(st.integers(1, 8))
    marks = sorted(draw(st.lists(st.floats(0, 100), min_size=2 * count, max_size=2 * count)), reverse=True)
    return [
        Candidate(
            number=i + 1,
            draining=i < count - 1,
            next_at=NOW - marks[2 * i] if draw(st.booleans()) else None,
            last_at=NOW - marks[2 * i + 1] if i < count - 1 else NOW,
            busy=draw(st.integers(0, 5)),
            remaining=draw(st.floats(0, 10)),
        )
        for i in range(count)
    ]


counts = st.integers(1, 40)
floors = st.integers(0, 4)
promises = st.none() | st.floats(0.1, 60)


@given(st.integers(0, 1000), st.integers(1, 50), st.integers(0, 10**6))
def test_shares_add_up(total: int, count: int, turn: int) -> None:
    shares = [share(total, index, count, turn) for index in range(count)]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1


@given(st.integers(1, 50), st.integers(0, 1000))
def test_turns_take_all_their_turn(count: int, total: int) -> None:
    """Over as many wagons as there are processes each process gets the same."""
    taken = [sum(share(total, index, count, turn) for turn in range(count)) for index in range(count)]
    assert len(set(taken)) == 1


@given(wagons(), counts, floors, promises, st.floats(0, 10))
def test_a_worker_goes_where_something_waits(
    candidates: list[Candidate], workers: int, floor: int, slo: float | None, service: float
) -> None:
    waiting = {p.number for p in candidates if p.next_at is not None}
    chosen = choose(candidates, floors=workers // 8, floor=floor, slo=slo, service=service, now=NOW)
    assert (chosen in waiting) if waiting else (chosen is None)


@given(wagons(), counts, floors, promises, st.floats(0, 10))
def test_floors_take_an_eighth_at_most(
    candidates: list[Candidate], workers: int, floor: int, slo: float | None, service: float
) -> None:
    """With workers that never get free: the active wagon keeps its share, the floors are kept."""
    active = candidates[-1]._replace(next_at=NOW, busy=0)
    candidates = [
        *(p._replace(busy=0, next_at=None if p.next_at is None else NOW - 1000) for p in candidates[:-1]),
        active,
    ]
    late = [p.number for p in candidates[:-1] if p.next_at is not None]
    candidates = [p._replace(last_at=NOW - 1000) if p.draining else p for p in candidates]
    at = dict.fromkeys([p.number for p in candidates], 0)
    for _ in range(workers):
        chosen = choose(
            candidates,
            floors=Workers(total=workers, floor=min(floor, workers)).floors,
            floor=floor,
            slo=slo,
            service=0.0,
            now=NOW,
        )
        assert chosen is not None
        at[chosen] += 1
        candidates = [p._replace(busy=at[p.number]) for p in candidates]
    draining = sum(at[number] for number in late)
    assert draining <= (max(1, workers // 8) if floor and workers > 1 else 0)
    assert draining == min(floor * len(late), max(1, workers // 8) if workers > 1 else 0)
    kept = [at[number] for number in late]
    assert kept == sorted(kept, reverse=True), "the oldest keep theirs first"


@given(wagons(), counts, st.floats(0.1, 60), st.floats(0, 10))
def test_with_a_promise_the_oldest_that_can_be_on_time(
    candidates: list[Candidate], workers: int, slo: float, service: float
) -> None:
    chosen = choose(candidates, floors=workers // 8, floor=0, slo=slo, service=service, now=NOW)
    waiting = [p for p in candidates if p.next_at is not None]
    if len(waiting) < 2:
        return
    latest = NOW - slo + service
    on_time = [p.number for p in waiting if p.next_at is not None and p.next_at >= NOW - slo + p.remaining]
    hopeful = [p.number for p in waiting if p.last_at >= latest]
    if on_time:
        assert chosen == on_time[0]
    elif hopeful:
        assert chosen == hopeful[-1]
    else:
        assert chosen == waiting[0].number


@given(wagons(), counts)
def test_without_a_promise_new_events_first_then_the_oldest(candidates: list[Candidate], workers: int) -> None:
    waiting = [p for p in candidates if p.next_at is not None]
    chosen = choose(candidates, floors=workers // 8, floor=0, slo=None, service=0.0, now=NOW)
    if waiting:
        newest = waiting[-1]
        assert chosen == (waiting[0].number if newest.draining else newest.number)


@given(st.integers(1, 1000), st.integers(0, 1000))
def test_workers_are_read_as_written(count: int, floor: int) -> None:
    for workers in (Workers(each=count), Workers(total=count, floor=min(floor, count))):
        assert parse_workers(repr(workers)) == workers
    assert parse_workers(f" {count} ") == Workers(total=count)
    assert parse_workers(f"each={count}") == Workers(each=count)


@given(st.text(alphabet="Workerstoalchf(),=0123456789 _-'*[]²\n", max_size=30))
def test_what_cannot_be_read_is_a_usage_error(text: str) -> None:
    with suppress(UsageError):
        assert isinstance(parse_workers(text), Workers)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"each": 1, "total": 1},
        {"each": 0},
        {"total": 0},
        {"total": True},
        {"total": 1.5},
        {"total": "4"},
        {"total": 2, "floor": 3},
        {"total": 2, "floor": -1},
    ],
)
def test_wrong_workers_are_usage_errors(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="Workers"):
        Workers(**wrong)


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "mail", "crm"]), st.floats(0.0, 10.0), st.floats(0.001, 10.0)),
        min_size=1,
        max_size=60,
    )
)
def test_a_chain_takes_longer_the_earlier_it_is(seen: list[tuple[str, float, float]]) -> None:
    times = ChainTimes(["", "mail", "crm"])
    for channel, wait, work in seen:
        times.learn(channel, wait, work)
    remaining = times.remaining()
    assert remaining[""] >= remaining["mail"] >= remaining["crm"] >= 0.0
    most = max(work for _, _, work in seen) * 3 + max(wait for _, wait, _ in seen) * 2
    assert remaining[""] <= most * 1.000001


def test_a_chain_s_rest_is_its_works_and_the_hops_between() -> None:
    times = ChainTimes(["", "mail", "crm"])
    assert times.remaining() == {"": 0.0, "mail": 0.0, "crm": 0.0}
    for channel, wait, work in (("", 9.0, 1.0), ("mail", 0.5, 2.0), ("crm", 0.25, 3.0)):
        times.learn(channel, wait, work)
    assert times.remaining() == {"": 6.75, "mail": 5.25, "crm": 3.0}


def test_a_chain_that_can_not_be_finished_on_time_makes_way_for_one_that_can() -> None:
    old, new = (
        Candidate(1, True, NOW - 1.5, NOW - 1.0, 0, remaining=0.6),
        Candidate(2, False, NOW - 0.5, NOW, 0, remaining=0.6),
    )
    assert choose([old, new], floors=0, floor=0, slo=2.0, service=0.6, now=NOW) == 2
    assert choose([old._replace(remaining=0.4), new], floors=0, floor=0, slo=2.0, service=0.6, now=NOW) == 1
