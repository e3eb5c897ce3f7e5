"""What the pictures show, by hand, and the page as a browser reads it."""

from __future__ import annotations

import math
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from eventwagon.errors import UsageError
from eventwagon.lab.experiment import STRATEGIES, one
from eventwagon.lab.job import Figures, Job, Outcome, figures
from eventwagon.lab.page import page
from eventwagon.lab.pictures import draw, write
from eventwagon.lab.series import COLOURS, Waits, bins_of, end_of, on_time, runs, ticks, waits, workers
from tests.lab.test_strategies import job


def outcome(finished: list[float], **given: object) -> Outcome:
    rest = {"strategy": "fifo", "standing": 1, "until_done": 9.0, "until_rest": 9.0, "at_rest": 9.0, **given}
    return Outcome(finished=finished, **rest)  # type: ignore[arg-type]


def test_shares_and_waits_by_second_of_arrival() -> None:
    burst = job([0.0, 0.5, 2.25, 40.0], slo=3.0)
    came = outcome([1.0, 4.0, 5.25, math.inf])
    bins = bins_of(burst)
    assert (bins.width, len(bins.arrivals)) == (1.0, 41)
    shares = on_time(burst, came, bins, 0)
    assert shares[:4] == [0.5, None, 1.0, None]
    assert shares[40] == 0.0  # it was lost
    assert on_time(burst, came, bins, 2)[:3] == [2 / 3, None, 2 / 3]
    assert waits(burst, came, bins)[0] == Waits(1.0, 1.0, 3.5, 3.5)
    assert runs(shares) == [range(1), range(2, 3), range(40, 41)]
    assert runs([1, 2, None, 3]) == [range(2), range(3, 4)]


@pytest.mark.parametrize("seconds", [0.0, 0.004, 3.0, 29.0, 31.0, 149.0, 151.0, 7_200.0, 400_000.0])
def test_bins_are_few_and_hold_all(seconds: float) -> None:
    bins = bins_of(job([0.0, seconds]))
    assert 1 <= len(bins.arrivals) <= 152
    assert sum(map(len, bins.arrivals)) == 2
    assert float(f"{bins.width:.1g}") == pytest.approx(bins.width)


def test_ticks_are_easily_said() -> None:
    assert ticks(64) == [0, 20, 40, 60]
    assert ticks(1.0) == [0, 0.5, 1.0]
    assert ticks(0.0) == [0]


def test_workers_over_time() -> None:
    came = outcome([1.0], workers=[(0.0, 8), (2.0, 12), (2.001, 10), (4.0, 8)], at_rest=5.0)
    assert workers(came, 10.0, 10) == [(0.0, 8), (2.0, 12), (3.0, 10), (4.0, 8), (5.0, 1)]


@pytest.mark.parametrize("name", ["fifo", "serverless", "ideal_elastic_fifo", "wagons_each", "wagons_elastic"])
def test_the_workers_shown_are_those_paid_for(name: str) -> None:
    """Their area is the worker-seconds of the table."""
    burst = job([n / 20 for n in range(200)], 0.2, workers=4, each=2, slo=2.0, limit="Wait(2.0)", start=1.0, most=16)
    came = one(burst, name)
    row = figures(burst, came)
    levels = [*came.workers, (came.at_rest, 0)]
    area = sum(count * (until - since) for (since, count), (until, _) in pairwise(levels))
    assert area == pytest.approx(row.worker_seconds, rel=0.01, abs=0.5)
    assert row.peak == max(count for _, count in came.workers)


class Reader(HTMLParser):
    """Counts what stands open, and keeps what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.boxes: dict[str, bool] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.fetched += [f"{name}={value}" for name, value in attrs if name in ("src", "href")]
        if tag == "input":
            self.boxes[given["value"] or ""] = "checked" in given
        if tag not in ("meta", "input", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def made() -> tuple[Job, dict[str, Outcome], dict[str, Figures]]:
    burst = job(
        [n / 20 for n in range(100)], 0.2, workers=2, each=2, slo=1.0, limit="Wait(1.0)", title="<b>", start=1.0
    )
    outcomes = {name: one(burst, name) for name in ("fifo", "keda", "newest_first", "wagons", "optimum")}
    return burst, outcomes, {name: figures(burst, each) for name, each in outcomes.items()}


def test_the_page_needs_nothing_else_and_is_light() -> None:
    text = page(*made())
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    assert not reader.fetched
    assert "url(" not in text
    assert "http" not in text
    assert len(text) < 100_000
    assert reader.boxes == {"fifo": True, "keda": True, "newest_first": False, "wagons": True, "optimum": False}
    assert "prefers-color-scheme:dark" in text
    assert "&lt;b&gt;" in text
    assert "<b>:" not in text


def test_the_extremes_can_be_drawn() -> None:
    """One event, all at once, no work, lost ones."""
    for burst in (job([0.0]), job([0.0] * 20), job([0.0, 1.0], 0.0)):
        outcomes = {name: one(burst, name) for name in ("fifo", "wagons")}
        outcomes["fifo"].finished[0] = math.inf
        rows = {name: figures(burst, each) for name, each in outcomes.items()}
        assert "nan" not in page(burst, outcomes, rows)
        assert draw(burst, outcomes).startswith(b"\x89PNG")
        assert end_of(burst, outcomes) > 0


def test_a_page_needs_no_further_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write(*made(), tmp_path / "burst.html")
    assert (tmp_path / "burst.html").exists()
    with pytest.raises(UsageError, match=r"a PNG needs matplotlib.*or write FILE\.html"):
        write(*made(), tmp_path / "burst.png")


def test_each_strategy_has_a_colour_of_its_own() -> None:
    assert set(COLOURS) == set(STRATEGIES)
    assert len(set(COLOURS.values())) == len(COLOURS)
