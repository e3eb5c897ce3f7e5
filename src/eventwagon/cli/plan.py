"""`plan`: finds the settings that suit your traffic, and prints them as code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ..lab.experiment import one
from ..lab.job import figures
from ..lab.planning import Trial, best, elastic, fixed, search, with_workers
from ..lab.planning import run as run_candidate
from ..lab.scenarios import SCENARIOS
from .console import AsJson, ending, err, json_line, line, listing, out
from .lab import cell, make_job

_ROWS = 5
"""Number of candidates in the table, besides today's queue and the recommended ones."""


def plan(
    scenario: Annotated[
        str, typer.Argument(metavar="SCENARIO", help=f"One of {', '.join(SCENARIOS)}.")
    ] = "black-friday",
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV file with recorded arrivals, in place of a scenario. Columns: arrival_s; or interval_start_s "
            "and count.",
        ),
    ] = None,
    speed: Annotated[
        float, typer.Option(min=0.001, metavar="FACTOR", help="Replay the trace this many times faster.")
    ] = 1.0,
    events: Annotated[
        int | None, typer.Option(min=1, metavar="NUMBER", help="Number of arrivals. With --trace: at most.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="SECONDS",
            help="Length of the burst, in seconds. With --trace: leave out later arrivals.",
        ),
    ] = None,
    service: Annotated[
        str,
        typer.Option(
            metavar="SECONDS", help="Seconds of work per event, in the forms that lab takes. Default: the scenario's."
        ),
    ] = "",
    service_per_size: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="Seconds of work per unit of the trace's column size, in place of --service.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="NUMBER", help="Number of workers that serve your one queue today. Default: the scenario's."
        ),
    ] = None,
    slo: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="SECONDS",
            help="The promise: an event is on time if it is done within this many seconds of its arrival. Default: "
            "the scenario's.",
        ),
    ] = None,
    on_time: Annotated[
        float, typer.Option(min=0.0, max=1.0, metavar="SHARE", help="The share of events that must be on time.")
    ] = 0.99,
    price: Annotated[float, typer.Option(min=0.0, metavar="PRICE", help="Price of a worker-second.")] = 1.0,
    start: Annotated[
        float,
        typer.Option(min=0.0, metavar="SECONDS", help="Seconds until the workers of another wagon begin to work."),
    ] = 10.0,
    per_pod: Annotated[
        int,
        typer.Option(
            min=1, metavar="NUMBER", help="Workers per Pod: elastic workers are added and removed in this step."
        ),
    ] = 1,
    most: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="NUMBER",
            help="The most workers at a time for wagons that have their own. Default: no ceiling; for elastic "
            "workers, four times the fewest that keep the promise.",
        ),
    ] = None,
    wagons: Annotated[
        int, typer.Option(min=2, metavar="NUMBER", help="The cap: how many wagons may be live at a time.")
    ] = 500,
    processes: Annotated[
        int, typer.Option(min=1, metavar="NUMBER", help="Number of processes that try candidates in parallel.")
    ] = os.cpu_count() or 1,
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Random seed.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Find the cheapest settings that keep the promise for your traffic, and print them as code.

    Each candidate runs through the real switcher, observer and workers in virtual time. Candidates differ in their
    workers (shared by all wagons, fixed for each wagon, or elastic), in when a wagon is cut off, in spares and in the
    cap.

    The output is the cheapest settings with fixed workers and the cheapest with elastic ones, each with its cost for
    this traffic and for an hour without events, and the best settings with as many workers as you have today
    (--workers).
    """
    with ending():
        job = make_job(
            scenario,
            trace,
            speed,
            events,
            seconds,
            service,
            service_per_size,
            workers,
            None,
            1,
            slo,
            "",
            wagons,
            0,
            start,
            32,
            seed,
            per_pod=per_pod,
            most=most,
        )
        now = run_candidate("fifo", job, price)
        tried: list[Trial] = []
        with err().status("…") as progress:
            for candidate in search(job, on_time, price, processes=processes):
                tried.append(candidate)
                progress.update(f"{len(tried)} tried; best so far: {best(tried, on_time).short}")
        found, same = best(tried, on_time), with_workers(tried, job.workers)
        follow = elastic(tried)
        kinds = best(fixed(tried), on_time), best(follow, on_time) if follow else None
        possible = figures(job, one(job, "optimum")).on_time
        if as_json:
            report = {
                "recommended": _as_json(found),
                "fixed": _as_json(kinds[0]),
                "elastic": None if kinds[1] is None else _as_json(kinds[1]),
                "same_workers": {**_as_json(same), "optimum": possible},
                "today": _as_json(now),
                "tried": [_as_json(candidate) for candidate in tried],
            }
            json_line(report)
        else:
            _show(now, kinds, same, possible, tried, on_time)


def _as_json(candidate: Trial) -> dict[str, object]:
    return {
        "strategy": candidate.strategy,
        "settings": candidate.code,
        "cost": candidate.cost,
        "calm_hour": candidate.calm_hour,
        "figures": candidate.figures,
    }


_COLUMNS = (("on_time", ">on time"), ("newcomers_p99_s", ">new p99"), ("mean_s", ">mean"), ("switches", ">switches"))


def _show(
    now: Trial,
    kinds: tuple[Trial, Trial | None],
    same: Trial,
    possible: float,
    tried: list[Trial],
    on_time: float,
) -> None:
    console = out()
    if all(candidate.figures.on_time < on_time for candidate in tried):
        most = max(candidate.figures.on_time for candidate in tried)
        console.print(f"[bold]Nothing that was tried keeps the promise[/]: at most {most:.1%} are on time.\n")
    rows = sorted(tried, key=lambda candidate: (-candidate.figures.on_time, candidate.cost))[:_ROWS]
    rows += [kind for kind in kinds if kind is not None and kind not in rows]
    cells: list[list[str | Text]] = []
    for candidate in (now, *rows):
        what = "one queue, as today" if candidate is now else candidate.short
        style = "bold green" if candidate in kinds else ""
        figures_of = [cell(field, getattr(candidate.figures, field)) for field, _ in _COLUMNS]
        cells.append([f"{candidate.cost:,.6g}", *figures_of, Text(what, style=style)])
    console.print(listing((">cost", *(title for _, title in _COLUMNS), "settings"), cells, console.width))
    best_fixed, best_elastic = kinds
    _recommend(console, "Fixed workers", now, best_fixed, on_time)
    if best_elastic is None:
        console.print(f"\nWorkers that follow the traffic: most={now.job.most} is too few for two wagons")
    else:
        _recommend(console, "Workers that follow the traffic", now, best_elastic, on_time)
    if best_elastic is not None and best_fixed.cost > 0:
        console.print(
            f"Workers that follow the traffic cost {best_elastic.cost / best_fixed.cost:.2f} times the fixed ones "
            f"while it lasts, and {best_elastic.calm_hour / best_fixed.calm_hour:.2f} times in an hour without events."
        )
    if same is not best_fixed:
        words = f"Today's {same.job.workers} workers (no order of work could have more than {possible:.1%} on time)"
        _recommend(console, words, now, same, 0.0)


def _recommend(console: Console, what: str, now: Trial, found: Trial, on_time: float) -> None:
    if not on_time:
        which = "the best settings"
    elif found.figures.on_time >= on_time:
        which = f"the cheapest with {on_time:.1%} on time"
    else:
        which = f"none has {on_time:.1%} on time; most has"
    console.print(f"\n{what}: {which}")
    line(f"    Train({found.job.title!r}, {found.code})")
    console.print(
        f"On time {now.figures.on_time:.1%} → [bold]{found.figures.on_time:.1%}[/], newcomers' p99 "
        f"{now.figures.newcomers_p99_s:,.1f} s → [bold]{found.figures.newcomers_p99_s:,.1f} s[/]; cost "
        f"{now.cost:,.6g} → {found.cost:,.6g}, an hour without events {now.calm_hour:,.6g} → {found.calm_hour:,.6g}; "
        f"{found.figures.switches} switches."
    )
