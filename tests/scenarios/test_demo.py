"""The demo: a small burst from end to end, as a person and as a machine sees it, and whether both see the same."""

import asyncio
import functools
import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from eventwagon.cli.console import span
from eventwagon.cli.demo import CUT, EVENTS, SECONDS, SERVICE, SLO
from eventwagon.cli.demo.burst import Both, Burst, Order
from eventwagon.cli.demo.live import Picture, share
from eventwagon.cli.demo.report import Report, as_json, make, show
from eventwagon.lab.arrivals import black_friday
from eventwagon.lab.experiment import one
from eventwagon.lab.job import figures
from eventwagon.lab.pace import loop_factory
from eventwagon.lab.queueing import percentile
from eventwagon.limits import Volume, Wait
from eventwagon.testing.virtual_time import VirtualClock
from eventwagon.testing.virtual_time import run as in_no_time
from eventwagon.workers import parse_workers

BURST = ("--events", "600", "--seconds", "5", "--service", "0.1", "--speed", "4")


def demo(*options: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eventwagon", "demo", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.parametrize("place", [("--url", "memory://"), ()], ids=["memory", "sqlite"])
def test_nothing_is_lost_and_the_figures_are_whole(place: tuple[str, ...]) -> None:
    done = demo(*BURST, *place, "--json", "--workers", "each=4", "--limit", "Wait(2.0) | Volume(150)")
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert list(said) == ["order", "newcomers", "one_queue", "wagons", "calculated", "machine"]
    assert (said["order"]["events"], said["order"]["standing"]) == (600, 8)
    for side in (said["one_queue"], said["wagons"]):
        assert (side["published"], side["handled"], side["dead"], side["lost"]) == (600, 600, 0, 0)
        assert side["duplicates"] == 0
        assert 0 <= side["on_time"] <= 1
        assert side["p50_s"] <= side["p99_s"] <= side["worst_s"]
        assert side["worker_seconds"] > 0
    wagons = said["wagons"]["train"]
    wagon_keys = ["number", "name", "published", "settled", "reason", "opened_at", "sealed_at", "drained_at"]
    assert [list(w) for w in wagons] == [wagon_keys] * len(wagons)
    assert wagons[0]["name"] == "user_registrations_v1"
    assert len(wagons) >= 2  # a machine that is slow for this speed makes the train go on past a limit
    assert sum(w["published"] for w in wagons) == sum(w["settled"] for w in wagons) == 600
    for w in wagons[:-1]:
        assert w["opened_at"] <= w["sealed_at"] <= w["drained_at"]
        assert w["reason"]
    assert wagons[-1]["sealed_at"] is None


@asynccontextmanager
async def unwatched(_: Burst) -> AsyncIterator[None]:
    yield


def run(workers: str, speed: float = 4.0) -> tuple[Burst, Both]:
    order = Order(
        url="memory://",
        arrivals=black_friday(400, 6.0, seed=3),
        limit=Wait(1.0, cut=0.75),
        workers=parse_workers(workers),
        slo=1.0,
        steps=(0.05, 0.03, 0.02),
        speed=speed,
        title="Small",
    )
    burst = Burst(order)
    with asyncio.Runner(loop_factory=loop_factory(speed)) as runner:
        return burst, runner.run(burst.run(unwatched))


@pytest.mark.parametrize("workers", ["each=3", "total=6, floor=1", "total=6, floor=0", "each=Elastic(2, 32)"])
@pytest.mark.parametrize("width", [80, 140])
def test_report_json_and_record_say_the_same(workers: str, width: int) -> None:
    burst, both = both_of(workers)
    report = make(both)
    said = as_json(report)
    console = Console(width=width, record=True, file=io.StringIO())
    show(report, console)
    text = console.export_text()
    rows = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    arrivals, slo = both.order.arrivals, both.order.slo
    for key, side, result in (("one_queue", burst.queue, both.queue), ("wagons", burst.wagons, both.wagons)):
        waits = [end - at for end, at in zip(result.outcome.finished, arrivals, strict=True)]
        row = said[key]
        assert row["on_time"] == round(sum(w <= slo + 1e-9 for w in waits) / len(waits), 4)
        assert row["on_time"] == round(side.handled_on_time / len(waits), 4)
        assert row["p99_s"] == round(percentile(waits, 0.99), 4)
        assert row["worst_s"] == round(max(waits), 4)
        assert row["handled"] == len(arrivals) == row["published"]
        assert (row["lost"], row["dead"], row["duplicates"]) == (0, 0, 0)
        assert share(side.handled_on_time / len(waits)) in rows["on time (within 1 s)"]
        assert f"{row['worker_seconds']:,.0f}" in rows["worker-seconds"]
        assert span(max(waits)) in rows["wait, worst"]
    if said["newcomers"] < len(arrivals):
        assert f"the {said['newcomers']:,} sign-ups" in " ".join(text.split())
    assert max(len(line) for line in text.splitlines()) <= width
    if report.bottleneck:
        assert "The machine or the broker was the bottleneck" in " ".join(text.split())
        assert "On time: wagons" not in text


KEPT: dict[str, tuple[Burst, Both]] = {}


def both_of(workers: str) -> tuple[Burst, Both]:
    """One run of each form of workers for all widths."""
    if workers not in KEPT:
        KEPT[workers] = run(workers)
    return KEPT[workers]


@functools.cache
def in_virtual_time(workers: str) -> Report:
    """The default order at half its size, on a machine that takes no time."""
    order = Order(
        url="memory://",
        arrivals=black_friday(EVENTS // 2, SECONDS, seed=1),
        limit=Wait(SLO, cut=CUT),
        workers=parse_workers(workers),
        slo=SLO,
        steps=(SERVICE / 2, SERVICE / 3, SERVICE / 6),
        speed=1.0,
        title="Half",
    )

    async def go() -> Both:
        return await Burst(order, VirtualClock()).run(unwatched)

    return make(in_no_time(go()))


@pytest.mark.parametrize(
    ("workers", "queue", "wagons"),
    [("each=4", "fifo_standing", "wagons_each"), ("total=8, floor=1", "fifo", "wagons")],
)
def test_the_demo_and_the_lab_agree_on_the_same_order(workers: str, queue: str, wagons: str) -> None:
    report = in_virtual_time(workers)
    job = msgspec.structs.replace(report.both.job, start=0.0, per_pod=1)
    assert report.queue.on_time == pytest.approx(figures(job, one(job, queue)).on_time, abs=0.01)
    assert report.wagons.on_time == pytest.approx(figures(job, one(job, wagons)).on_time, abs=0.05)
    assert report.newcomers == len(job.behind())


def test_the_wagons_cost_no_more_than_the_process_runs() -> None:
    """Each wagon has 4 workers of its own, and the process runs 9 for all: one that drains gives some up."""
    order = Order(
        url="memory://",
        arrivals=[n / 50 for n in range(400)],
        limit=Volume(40),
        workers=parse_workers("each=4, most=9"),
        slo=1.0,
        steps=(0.5, 0.3, 0.2),
        speed=1.0,
        title="Ceiling",
        spares=2,
    )
    seen: list[tuple[int, int, int]] = []

    @asynccontextmanager
    async def watched(burst: Burst) -> AsyncIterator[None]:
        async def look() -> None:
            while True:
                side = burst.wagons
                seen.append((side.workers, side.busy.total(), len(side.connection.manifest.wagons)))
                await asyncio.sleep(0.1)

        looking = asyncio.create_task(look())
        yield
        looking.cancel()

    async def go() -> Both:
        return await Burst(order, VirtualClock()).run(watched)

    in_no_time(go())
    assert order.standing == 9
    assert max(wagons for _, _, wagons in seen) >= 5
    assert all(paid <= max(9, 4 + wagons - 1) for paid, _, wagons in seen)  # the active one has its four
    assert max(busy for _, busy, _ in seen) == 9


def test_wagons_keep_the_promise_where_one_queue_is_overrun() -> None:
    report = in_virtual_time("each=4")
    assert report.wagons.on_time >= 0.95
    assert report.queue.on_time <= 0.5
    assert report.queue.worker_seconds < report.wagons.worker_seconds < 2 * report.queue.worker_seconds
    assert len(report.both.wagons.wagons) <= 20
    assert report.bottleneck == ""
    assert report.time_lost <= 0.002


def test_one_queue_is_as_good_where_enough_workers_stand() -> None:
    report = in_virtual_time("each=8")
    assert report.queue.on_time >= 0.999
    assert report.queue.p99_s < report.wagons.p99_s
    console = Console(width=80, record=True, file=io.StringIO())
    show(report, console)
    assert "one queue is cheaper" in " ".join(console.export_text().split())


@pytest.mark.parametrize(("width", "height"), [(80, 24), (140, 40), (200, 60), (40, 10)])
def test_the_picture_fits_the_terminal(width: int, height: int) -> None:
    frames: list[str] = []

    @asynccontextmanager
    async def watching(burst: Burst) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(draw(burst))
            yield
            task.cancel()

    async def draw(burst: Burst) -> None:
        picture = Picture(burst)
        while True:
            await picture.look()
            console = Console(width=width, height=height, record=True, file=io.StringIO())
            console.print(picture.draw(width, height))
            frames.append(console.export_text())
            await asyncio.sleep(0.5)

    order = Order(
        url="memory://",
        arrivals=black_friday(200, 3.0, seed=3),
        limit=Wait(1.0),
        workers=parse_workers("each=2"),
        slo=1.0,
        steps=(0.05, 0.03, 0.02),
        speed=5.0,
        title="Small",
    )
    with asyncio.Runner(loop_factory=loop_factory(5.0)) as runner:
        runner.run(Burst(order).run(watching))
    assert len(frames) > 3
    for frame in frames:
        lines = frame.splitlines()
        assert len(lines) <= height
        assert max(map(len, lines)) <= width


def test_a_log_gets_lines_a_table_and_the_sentences(tmp_path: Path) -> None:
    done = demo(*BURST, "--dir", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stderr
    assert "on time (within 5 s)" in done.stdout
    assert "Calculated, not run" in done.stdout
    assert "\x1b" not in done.stdout
    assert f"sqlite:///{tmp_path}/kept" in done.stdout
    again = demo(*BURST, "--dir", str(tmp_path / "kept"))
    assert again.returncode == 2
    assert "exists at" in again.stderr


def test_a_trace_and_shared_workers(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("interval_start_s,count\n0,80\n1,200\n2,20\n")
    options = ("--trace", str(trace), "--workers", "total=6", "--limit", "Volume(100)", "--url", "memory://")
    done = demo(*options, "--speed", "10", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["order"]["standing"] == 6
    wagons = said["wagons"]
    assert (wagons["published"], wagons["handled"], wagons["lost"]) == (300, 300, 0)
    assert sum(w["published"] for w in wagons["train"]) == 300
    assert wagons["train"][0]["published"] >= 100
    assert wagons["worker_seconds"] == pytest.approx(said["one_queue"]["worker_seconds"], abs=0.01)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--trace", "none.csv"), "none.csv can't be read"),
        (("--limit", "Waitt(2)"), "can't read 'Waitt(2)'"),
        (("--workers", "many"), "workers 'many'"),
        (("--url", "memory://", "--dir", "x"), "not both"),
        (("--speed", "0"), "--speed"),
    ],
)
def test_a_mistake_is_one_clear_line(options: tuple[str, ...], said: str) -> None:
    done = demo(*options)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
