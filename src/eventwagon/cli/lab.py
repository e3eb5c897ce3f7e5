"""`lab`: what wagons do with a burst, against everything a user would pick instead."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from ..errors import UsageError
from ..lab.arrivals import load_sizes, load_trace
from ..lab.experiment import STRATEGIES, USUAL, chosen, run
from ..lab.job import Figures, Job, Outcome, figures
from ..lab.page import cell
from ..lab.pictures import check, sequence, write
from ..lab.platforms import PLATFORMS, Platform
from ..lab.scenarios import SCENARIOS, services, services_by_size
from ..lab.scenarios import scenario as named
from ..limits import parse_limit
from .console import AsJson, ending, err, json_line, listing, out

_COLUMNS = (
    ("on_time", ">on time"),
    ("newcomers_p99_s", ">new p99"),
    ("mean_s", ">mean"),
    ("standing", ">standing"),
    ("worker_seconds_done", ">w-s done"),
    ("worker_seconds", ">w-s rest"),
    ("worker_seconds_extra", ">w-s extra"),
    ("old_p99_s", ">old p99"),
    ("switches", ">switches"),
    ("lost", ">lost"),
    ("newcomers_p50_s", ">new p50"),
    ("worst_s", ">worst"),
    ("drain_s", ">drain"),
    ("duplicates", ">twice"),
)
"""The most telling first: a narrow terminal has the first ones only."""

_WORKERS_MOST = 10_000
_PLENTY = 10_000_000
_SECONDS_MOST = 500_000
"""Virtual seconds: an observer makes ten passes in each."""


def lab(
    scenario: Annotated[str, typer.Argument(help=f"One of {', '.join(SCENARIOS)}.")] = "black-friday",
    trace: Annotated[
        Path | None,
        typer.Option(help="CSV with real arrivals instead: a column arrival_s, or interval_start_s and count."),
    ] = None,
    speed: Annotated[float, typer.Option(min=0.001, help="Replay the trace this many times faster.")] = 1.0,
    after: Annotated[
        float, typer.Option(min=0.0, help="Leave out what the trace has in its first seconds; in its own time.")
    ] = 0.0,
    events: Annotated[int | None, typer.Option(min=1, help="Number of arrivals.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.001, help="Seconds within which they arrive.")] = None,
    service: Annotated[
        str, typer.Option(help="Seconds of work per event: 0.5, exponential(0.5), uniform(0.1, 1), lognormal(0.3, 1).")
    ] = "",
    service_per_size: Annotated[
        float | None, typer.Option(min=0.0, help="Seconds of work for each unit of the trace's column size.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Fixed workers, of one queue or shared between wagons.")
    ] = None,
    each: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Workers of each wagon that has its own, and of an elastic one at least (default: the fixed workers "
            "divided by the wagons that stand, rounded up to whole Pods). Autoscaled queues keep as many standing as "
            "these wagons and their spares.",
        ),
    ] = None,
    spares: Annotated[int, typer.Option(min=0, help="Wagons kept ready ahead.")] = 1,
    slo: Annotated[float | None, typer.Option(min=0.001, help="The promise: seconds from arrival to done.")] = None,
    limit: Annotated[str, typer.Option(help="When a wagon is full (default: Wait(slo)).")] = "",
    wagons: Annotated[int, typer.Option(min=2, help="Most live wagons at a time.")] = 500,
    floor: Annotated[int, typer.Option(min=0, help="Of the fixed workers, how many each draining wagon keeps.")] = 0,
    platform: Annotated[
        str, typer.Option(help=f"Where workers run, with its start, per-pod and most: {', '.join(PLATFORMS)}.")
    ] = "kubernetes",
    start: Annotated[
        float | None, typer.Option(min=0.0, help="Seconds from asking for a Pod until its workers work.")
    ] = None,
    per_pod: Annotated[int | None, typer.Option(min=1, help="Workers of a Pod.")] = None,
    most: Annotated[int | None, typer.Option(min=1, help="Most workers at a time where Pods are asked for.")] = None,
    partitions: Annotated[
        int, typer.Option(min=1, help="Partitions of one Kafka topic: the most Pods that can share it.")
    ] = 32,
    on_time: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="The share that the clairvoyant scaler has on time.")
    ] = 0.99,
    strategy: Annotated[
        list[str] | None, typer.Option(help="Run only this strategy; may be given several times.")
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Run all strategies. The less usual ones are left out otherwise.")
    ] = False,
    notes: Annotated[bool, typer.Option("--notes", help="Say below the table what each strategy is.")] = False,
    broker: Annotated[
        str | None, typer.Option(help="Run the wagons on this broker, in real time: sqlite:///dir, redis://host:6379 …")
    ] = None,
    picture: Annotated[
        list[Path] | None, typer.Option(help="Write a picture: FILE.html (with everything in it) or FILE.png.")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Strategies simulated at the same time, each in a process.")
    ] = os.cpu_count() or 1,
    seed: Annotated[int, typer.Option(help="Random seed of the arrivals.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Compare wagons with queues, autoscaling and serverless on the same burst, before you adopt them.

    The wagons are the real switcher, observer and workers, in virtual time (or on --broker in real time), with
    simulated Pods. The others are simulated event by event, as their users set them up. [bold]new[/bold]: newcomers,
    the arrivals that one FIFO queue with the fixed workers would serve late; [bold]old[/bold]: the others.
    [bold]standing[/bold]: workers before the burst and after it. [bold]w-s[/bold]: worker-seconds paid for, idle ones
    and spares too: until the last event is done, until the standing workers alone are left, and beyond the standing
    workers.
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
            each,
            spares,
            slo,
            limit,
            wagons,
            floor,
            start,
            partitions,
            seed,
            platform=platform,
            per_pod=per_pod,
            most=most,
            on_time=on_time,
            after=after,
        )
        names = chosen(strategy or (STRATEGIES if all_ else USUAL))
        for path in picture or []:
            check(path)
        outcomes: list[Outcome] = []
        with err().status("…") as progress:
            for outcome in run(job, names, processes=processes, url=broker):
                outcomes.append(outcome)
                progress.update(f"{len(outcomes)} of {len(names)} strategies ({outcome.strategy}) …")
        found = sequence(outcomes, STRATEGIES)
        rows = {name: figures(job, outcome) for name, outcome in found.items()}
        for path in picture or []:
            write(job, found, rows, path)
        if as_json:
            json_line({"job": _said(job), "strategies": rows})
        else:
            _show(job, found, rows, notes=notes)


def make_job(
    scenario: str,
    trace: Path | None,
    speed: float,
    events: int | None,
    seconds: float | None,
    service: str,
    per_size: float | None,
    workers: int | None,
    each: int | None,
    spares: int,
    slo: float | None,
    limit: str,
    wagons: int,
    floor: int,
    start: float | None,
    partitions: int,
    seed: int,
    *,
    platform: str = "",
    per_pod: int | None = None,
    most: int | None = None,
    on_time: float = 0.99,
    after: float = 0.0,
) -> Job:
    """The job of these options. Without a platform workers come one by one and without a ceiling. Raises UsageError."""
    usual = named(scenario)
    sizes = None
    if trace is None:
        arrivals = usual.arrivals(events or usual.events, seconds or usual.seconds, seed)
    else:
        arrivals = load_trace(trace, speed=speed, seed=seed)
        sizes = load_sizes(trace)
        early = sum(at < after / speed for at in arrivals)
        if early == len(arrivals):
            raise UsageError(f"trace {trace} has nothing after {after:g} s")
        arrivals = [at - after / speed for at in arrivals[early:]]
        sizes = sizes and sizes[early:]
        keep = len(arrivals) if seconds is None else sum(at <= seconds for at in arrivals)
        arrivals = arrivals[: min(keep, events or keep)]
    if per_size is not None:
        work = services_by_size(sizes, per_size)[: len(arrivals)]
    else:
        work = services(service or usual.service, len(arrivals), seed=seed)
    promise = slo or usual.slo
    fixed = workers or usual.workers
    where = _platform(platform, start, per_pod, most)
    if each is None:
        pods = math.ceil(fixed / (1 + spares) / where.per_pod)
        each = pods * where.per_pod
    elif each % where.per_pod:
        raise UsageError(f"--each {each}: a wagon has whole Pods of {where.per_pod} workers; see --per-pod")
    _within_reason(arrivals, work, fixed, each * (1 + spares))
    standing = each * (1 + spares)
    if most is not None and standing > most:
        raise UsageError(f"{standing:,} standing workers are more than the ceiling of --most {most:,}")
    return Job(
        title=trace.stem if trace else scenario,
        arrivals=arrivals,
        services=work,
        workers=fixed,
        each=each,
        spares=spares,
        slo=promise,
        limit=repr(parse_limit(limit)) if limit else f"Wait({promise!r})",
        floor=floor,
        wagons=wagons,
        start=where.start,
        per_pod=where.per_pod,
        most=max(where.most, standing),
        partitions=partitions,
        on_time=on_time,
    )


def _platform(name: str, start: float | None, per_pod: int | None, most: int | None) -> Platform:
    """The preset, with what is given beside it. Raises UsageError."""
    if name and name not in PLATFORMS:
        raise UsageError(f"no platform {name!r}; there are {', '.join(PLATFORMS)}")
    preset = PLATFORMS.get(name, Platform(about="", start=2.0, per_pod=1, most=_PLENTY))
    given = {"start": start, "per_pod": per_pod, "most": most}
    return msgspec.structs.replace(preset, **{option: value for option, value in given.items() if value is not None})


def _within_reason(arrivals: Sequence[float], work: Sequence[float], workers: int, standing: int) -> None:
    """Raise UsageError for what would never end."""
    if max(workers, standing) > _WORKERS_MOST:
        raise UsageError(f"{max(workers, standing):,} workers; the lab takes up to {_WORKERS_MOST:,}")
    seconds = arrivals[-1] + sum(work) / workers + max(work)
    if not seconds <= _SECONDS_MOST:
        raise UsageError(
            f"the arrivals span {arrivals[-1]:,.6g} s, and {workers} workers need "
            f"{sum(work) / workers:,.6g} s for the work; "
            f"the lab takes up to {_SECONDS_MOST:,} s: make a trace faster with --speed, or cut it with --seconds"
        )


def _said(job: Job) -> dict[str, object]:
    told = {name: getattr(job, name) for name in Job.__struct_fields__ if name not in ("arrivals", "services")}
    return {**told, "events": len(job.arrivals), "seconds": job.arrivals[-1], "work_s": sum(job.services)}


def _show(job: Job, outcomes: dict[str, Outcome], rows: dict[str, Figures], *, notes: bool) -> None:
    console = out()
    console.print(
        f"[bold]{job.title}[/]: {len(job.arrivals):,} arrivals in {job.arrivals[-1]:,.0f} s, "
        f"{sum(job.services) / len(job.services):.3g} s of work each, {job.workers} workers, "
        f"on time within {job.slo:g} s; "
        f"a wagon is full at {job.limit}; Pods of {job.per_pod} work after {job.start:g} s, "
        f"{job.most:,} workers at most\n"
    )
    room = console.width - max(len(name) for name in rows)
    columns = [column for n, column in enumerate(_COLUMNS) if sum(_width(c) for c in _COLUMNS[: n + 1]) <= room]
    cells: list[list[str | Text]] = []
    for name, row in rows.items():
        ours = Text(name, style="bold green") if name.startswith("wagons") else name
        cells.append([ours, *(cell(field, getattr(row, field)) for field, _ in columns)])
    console.print(listing(("strategy", *(title for _, title in columns)), cells, console.width))
    if not notes:
        console.print("\n[dim]Times in seconds. --notes says what each strategy is; --all has all of them.[/]")
        return
    console.print("\n[dim]Times in seconds.[/]")
    for name, outcome in outcomes.items():
        console.print(Text(f"{name}: {outcome.note}", style="dim"))


def _width(column: tuple[str, str]) -> int:
    return max(7, len(column[1]) - 1) + 2
