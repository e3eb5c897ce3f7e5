"""Arrivals: made up and recorded, and what one queue would make of them."""

from pathlib import Path

import pytest

from eventwagon.errors import UsageError
from eventwagon.lab.arrivals import black_friday, load_trace, uniform
from eventwagon.lab.queueing import most_on_time, one_queue, percentile


def trace(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize("burst", [uniform, black_friday])
def test_a_burst_has_its_events_in_its_seconds_and_its_seed(burst: object) -> None:
    assert callable(burst)
    arrivals = burst(5000, 120.0, seed=3)
    assert len(arrivals) == 5000
    assert arrivals == sorted(arrivals)
    assert 0 <= arrivals[0] <= arrivals[-1] <= 120
    assert arrivals == burst(5000, 120.0, seed=3)
    assert arrivals != burst(5000, 120.0, seed=4)


def test_black_friday_has_a_rush() -> None:
    arrivals = black_friday(10_000, 100.0)
    assert sum(10 <= a < 18 for a in arrivals) > 1.5 * 800
    assert sum(a < 4 for a in arrivals) < 0.5 * 400


@pytest.mark.parametrize(("events", "seconds"), [(0, 1.0), (1, 0.0), (1, float("inf"))])
def test_a_burst_of_nothing_is_refused(events: int, seconds: float) -> None:
    with pytest.raises(UsageError):
        black_friday(events, seconds)


def test_a_row_an_event(tmp_path: Path) -> None:
    path = trace(tmp_path, "arrival_s,size\n10.0,1\n10.5,2\n\n12.0,3\n")
    assert load_trace(path) == [0.0, 0.5, 2.0]
    assert load_trace(path, speed=2) == [0.0, 0.25, 1.0]


def test_counts_per_interval_are_spread_inside_it(tmp_path: Path) -> None:
    path = trace(tmp_path, "\ufeffinterval_start_s,count\n0,50\n10,0\n20,30\n")
    arrivals = load_trace(path, seed=1)
    assert len(arrivals) == 80
    assert arrivals == sorted(arrivals)
    assert arrivals[49] <= 10 and arrivals[-1] <= 30  # noqa: PT018
    assert arrivals == load_trace(path, seed=1)
    assert arrivals != load_trace(path, seed=2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ":1: the first line must name the columns"),
        ("when,size\n1,2\n", ":1: the first line must name the columns"),
        ("arrival_s\n", "holds no events"),
        ("arrival_s\n1\nsoon\n", ":3: arrival_s must be a number, not 'soon'"),
        ("arrival_s\n1\nnan\n", ":3: arrival_s must be a number"),
        ("arrival_s\n2\n1\n", ":3: arrival_s goes back from 2 to 1"),
        ("size,arrival_s\n2\n", ":2: arrival_s is missing"),
        ("interval_start_s,count\n0,1\n0,1\n", ":3: interval_start_s 0 is not after"),
        ("interval_start_s,count\n0,1.5\n", ":2: count must be a whole number"),
        ("interval_start_s,count\n0,-1\n", ":2: count must be a whole number"),
        ("interval_start_s,count\n0,5\n", "one interval only"),
        ("interval_start_s,count\n", "holds no events"),
    ],
)
def test_a_bad_trace_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = trace(tmp_path, text)
    with pytest.raises(UsageError) as e:
        load_trace(path)
    assert said in str(e.value)
    assert str(path) in str(e.value)


def test_a_trace_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not text"):
        load_trace(path)
    with pytest.raises(UsageError, match="can't be read"):
        load_trace(tmp_path / "none.csv")


def test_one_queue_takes_the_oldest_first() -> None:
    assert one_queue([0.0, 0.0, 0.0], (1.0,), 1) == [1.0, 2.0, 3.0]
    assert one_queue([0.0, 0.0, 0.0], (1.0,), 2) == [1.0, 1.0, 2.0]
    assert one_queue([0.0, 5.0], (1.0,), 1) == [1.0, 6.0]


def test_one_queue_queues_each_step_anew() -> None:
    # the second step of the first, queued at 1, stands behind the second arrival, which came at 0.5
    assert one_queue([0.0, 0.5], (1.0, 1.0), 1) == [3.0, 4.0]


def test_the_best_order_leaves_out_what_would_be_late() -> None:
    assert most_on_time([0.0, 0.0, 0.0, 0.0], 1.0, 1, slo=2.0) == 2
    assert most_on_time([0.0, 0.0, 3.0], 1.0, 1, slo=1.0) == 2


def test_percentile() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([1.0], 0.99) == 1.0
    assert percentile([], 0.5) == 0.0
