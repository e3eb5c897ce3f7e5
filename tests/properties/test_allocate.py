"""Workers divided between wagons that have processes of their own, held against what is promised of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventwagon.policy.scheduling import WagonLoad, allocate
from eventwagon.workers import Workers


@st.composite
def trains(draw: st.DrawFn, held: bool = True) -> tuple[Workers, list[WagonLoad]]:
    total = draw(st.integers(1, 40))
    workers = Workers(total=total, floor=draw(st.integers(0, min(3, total))))
    draining, spares = draw(st.integers(0, 5)), draw(st.integers(0, 3))
    states = ["draining"] * draining + ["active"] * draw(st.integers(0, 1)) + ["spare"] * spares
    loads = []
    left = total
    for number, state in enumerate(states, start=1):
        has = draw(st.integers(0, left)) if held else 0
        left -= has
        outstanding = 0 if state == "spare" else draw(st.none() | st.integers(0, 60))
        times = (None, 0.0) if state == "spare" else (draw(st.none() | st.floats(0, 100)), draw(st.floats(0, 100)))
        loads.append(WagonLoad(number, state, outstanding, has, *times))  # type: ignore[arg-type]
    return workers, loads


slos = st.none() | st.floats(0.1, 50)


def total_of(workers: Workers) -> int:
    assert workers.total is not None
    return workers.total


@given(trains(), slos)
def test_each_wagon_gets_a_number_and_the_workers_are_never_exceeded(
    train: tuple[Workers, list[WagonLoad]], slo: float | None
) -> None:
    workers, loads = train
    counts = allocate(workers, loads, slo=slo, now=100.0)
    assert counts.keys() == {load.number for load in loads}
    assert all(count >= 0 for count in counts.values())
    assert sum(max(counts[load.number], load.held) for load in loads) <= total_of(workers)


@given(trains(), slos)
def test_when_all_have_let_go_nobody_idles_while_there_is_work_for_all(
    train: tuple[Workers, list[WagonLoad]], slo: float | None
) -> None:
    """Asked again with what was given as what is held, it comes to rest, and every worker is at a wagon."""
    workers, loads = train
    for _ in range(3):
        counts = allocate(workers, loads, slo=slo, now=100.0)
        loads = [load._replace(held=counts[load.number]) for load in loads]
    assert allocate(workers, loads, slo=slo, now=100.0) == counts
    if loads:
        assert sum(counts.values()) == total_of(workers)


@given(trains(held=False))
def test_new_events_come_first_but_for_the_floors(train: tuple[Workers, list[WagonLoad]]) -> None:
    workers, loads = train
    active = next((load for load in loads if load.state == "active"), None)
    if active is None:
        return
    total = total_of(workers)
    counts = allocate(workers, loads)
    needs = total if active.outstanding is None else min(total, active.outstanding)
    floors = max(1, total // 8) if workers.floor and total > 1 else 0
    spare = 1 if total >= 4 and any(load.state == "spare" for load in loads) else 0
    assert counts[active.number] >= min(needs, total - floors - spare)


@given(trains(held=False), slos)
def test_every_draining_wagon_with_work_keeps_its_floor_the_oldest_first(
    train: tuple[Workers, list[WagonLoad]], slo: float | None
) -> None:
    workers, loads = train
    total = total_of(workers)
    counts = allocate(workers, loads, slo=slo, now=100.0)
    left = max(1, total // 8) if workers.floor else 0
    if total >= 4:
        for load in loads:
            if load.state == "draining":
                kept = min(workers.floor, left, total if load.outstanding is None else load.outstanding)
                assert counts[load.number] >= kept
                left -= kept


@given(trains(held=False))
def test_what_new_events_do_not_need_goes_to_the_oldest(train: tuple[Workers, list[WagonLoad]]) -> None:
    workers, loads = train
    counts = allocate(workers, loads)
    draining = [load for load in loads if load.state == "draining" and load.outstanding != 0]
    if not draining or workers.floor:
        return
    short = [load for load in draining if load.outstanding is None or counts[load.number] < load.outstanding]
    for younger in short[1:]:
        assert counts[younger.number] == 0 or counts[short[0].number] == total_of(workers)


@given(st.integers(1, 9), trains())
def test_each_gives_every_wagon_its_own(each: int, train: tuple[Workers, list[WagonLoad]]) -> None:
    _, loads = train
    assert allocate(Workers(each=each), loads) == {load.number: each for load in loads}
