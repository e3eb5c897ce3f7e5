"""`plan`: the settings that a traffic wants, as code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ..lab.experiment import one
from ..lab.job import figures
from ..lab.planning import Candidate, best, search, with_crew
from ..lab.scenarios import SCENARIOS
from .console import AsJson, ending, err, json_line, line, listing, out
from .lab import cell, make_job


def plan(
    scenario: Annotated[str, typer.Argument(help=f"One of {', '.join(SCENARIOS)}.")] = "black-friday",
    trace: Annotated[
        Path | None,
        typer.Option(help="CSV with real arrivals instead: a column arrival_s, or interval_start_s and count."),
    ] = None,
    speed: Annotated[float, typer.Option(min=0.001, help="Replay the trace this many times faster.")] = 1.0,
    events: Annotated[int | None, typer.Option(min=1, help="Number of arrivals.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.001, help="Seconds within which they arrive.")] = None,
    service: Annotated[str, typer.Option(help="Seconds of work per event, as for lab.")] = "",
    service_per_size: Annotated[
        float | None, typer.Option(min=0.0, help="Seconds of work for each unit of size.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="How many workers serve your one queue today.")] = None,
    slo: Annotated[float | None, typer.Option(min=0.001, help="The promise: seconds from arrival to done.")] = None,
    on_time: Annotated[float, typer.Option(min=0.0, max=1.0, help="The share of events that must be on time.")] = 0.99,
    price: Annotated[float, typer.Option(min=0.0, help="Price of a worker-second.")] = 1.0,
    start: Annotated[
        float, typer.Option(min=0.0, help="Seconds until a further wagon's workers begin to work.")
    ] = 10.0,
    wagons: Annotated[int, typer.Option(min=2, help="Most live wagons at a time.")] = 500,
    processes: Annotated[int, typer.Option(min=1, help="Most processes at a time.")] = os.cpu_count() or 1,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Search the cheapest settings that keep the promise for your traffic, and print them as code.

    Each candidate (workers shared by all wagons, or workers for each; where to cut; spares; the cap) runs through the
    real switcher, observer and workers in virtual time. The gain is over today's queue: one, with --workers. The best
    settings for the same number of workers are printed too.
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
        )
        today = one(job, "fifo")
        now = Candidate(strategy="fifo", job=job, figures=(row := figures(job, today)), cost=row.worker_seconds * price)
        tried: list[Candidate] = []
        with err().status("…") as progress:
            for candidate in search(job, on_time, price, processes=processes):
                tried.append(candidate)
                progress.update(f"{len(tried)} tried; best so far: {best(tried, on_time).short}")
        found, same = best(tried, on_time), with_crew(tried, job.workers)
        most = figures(job, one(job, "optimum")).on_time
        if as_json:
            told = {
                "recommended": _said(found),
                "same_crew": {**_said(same), "optimum": most},
                "today": _said(now),
                "tried": [_said(candidate) for candidate in tried],
            }
            json_line(told)
        else:
            _show(now, found, same, most, tried, on_time)


def _said(candidate: Candidate) -> dict[str, object]:
    return {
        "strategy": candidate.strategy,
        "settings": candidate.code,
        "cost": candidate.cost,
        "figures": candidate.figures,
    }


def _show(
    now: Candidate, found: Candidate, same: Candidate, most: float, tried: list[Candidate], on_time: float
) -> None:
    console = out()
    columns = (("on_time", ">on time"), ("newcomers_p99_s", ">new p99"), ("mean_s", ">mean"), ("switches", ">switches"))
    rows = sorted(tried, key=lambda candidate: (-candidate.figures.on_time, candidate.cost))[:12]
    cells: list[list[str | Text]] = []
    for candidate in (now, *rows):
        what = "one queue, as today" if candidate is now else candidate.short
        style = "bold green" if candidate is found else ""
        figures_of = [cell(field, getattr(candidate.figures, field)) for field, _ in columns]
        cells.append([f"{candidate.cost:,.6g}", *figures_of, Text(what, style=style)])
    console.print(listing((">cost", *(title for _, title in columns), "settings"), cells, console.width))
    if found.figures.on_time < on_time:
        console.print(f"\nNone of these has {on_time:.1%} on time; most has:")
    else:
        console.print(f"\nThe cheapest with {on_time:.1%} on time:")
    _recommend(console, now, found)
    if same is not found:
        console.print(
            f"With today's {same.job.workers} workers (no order of work could have more than {most:.1%} on time):"
        )
        _recommend(console, now, same)


def _recommend(console: Console, now: Candidate, found: Candidate) -> None:
    line()
    line(f"    Train({found.job.title!r}, {found.code})")
    line()
    console.print(
        f"On time {now.figures.on_time:.1%} → [bold]{found.figures.on_time:.1%}[/], newcomers' p99 "
        f"{now.figures.newcomers_p99_s:,.1f} s → [bold]{found.figures.newcomers_p99_s:,.1f} s[/], for "
        f"{found.cost:,.6g} instead of {now.cost:,.6g}; {found.figures.switches} switches.\n"
    )
