"""`lab`: compares wagons with the alternatives, on the same burst."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from ..display.text import count, local_time
from ..errors import UsageError
from ..lab.arrivals import load_sizes, load_trace
from ..lab.experiment import STRATEGIES, USUAL, chosen, run
from ..lab.job import Figures, Job, Outcome, figures
from ..lab.page import cell
from ..lab.pictures import check, sequence, write
from ..lab.platforms import PLATFORMS, Platform
from ..lab.scenarios import SCENARIOS, services, services_by_size
from ..lab.scenarios import scenario as named
from ..lab.sources.reading import RATE, read, source_at
from ..lab.sources.recorded import Recorded
from ..limits import parse_limit
from .completion import scenarios
from .console import AsJson, ending, err, json_line, listing, out, say
from .times import span_given

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
"""The most important first: a narrow terminal shows only the first ones."""

_WORKERS_MOST = 10_000
_PLENTY = 10_000_000
_SECONDS_MOST = 500_000
"""The longest run, in virtual seconds. An observer makes ten passes in each."""

# what `plan` takes too
Scenario = Annotated[
    str, typer.Argument(metavar="SCENARIO", help=f"One of {', '.join(SCENARIOS)}.", autocompletion=scenarios)
]
Trace = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="CSV file with recorded arrivals, in place of a scenario. Columns: arrival_s; or interval_start_s "
        "and count.",
    ),
]
Source = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="A flow that exists, in place of a scenario: kafka://host:9092/TOPIC, redis://host:6379/STREAM, or a file "
        "of JSON lines (- for stdin). It is only read: nothing is joined or committed.",
    ),
]
Last = Annotated[
    str,
    typer.Option(metavar="TIME", help="With --source: how far back to read: 90s, 15m, 24h or 7d."),
]
Busiest = Annotated[
    str,
    typer.Option(metavar="TIME", help="With --source: run only the stretch of this length that has the most records."),
]
ReadRate = Annotated[
    int, typer.Option(min=1, metavar="NUMBER", help="With --source: read at most so many records a second.")
]
TimeField = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="With a file of JSON lines: the field that holds the time. Default: time, timestamp, ts …"
    ),
]
SaveTrace = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="With --source: write the times and sizes to this CSV file, for --trace. No payload, key or date is kept.",
    ),
]
Speed = Annotated[float, typer.Option(min=0.001, metavar="FACTOR", help="Replay the trace this many times faster.")]
Events = Annotated[int | None, typer.Option(min=1, metavar="NUMBER", help="Number of arrivals. With --trace: at most.")]
Seconds = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        metavar="SECONDS",
        help="Length of the burst, in seconds. With --trace: leave out later arrivals.",
    ),
]
ServicePerSize = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        metavar="SECONDS",
        help="Seconds of work per unit of the trace's column size, in place of --service.",
    ),
]
Slo = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        metavar="SECONDS",
        help="The promise: an event is on time if it is done within this many seconds of its arrival. Default: "
        "the scenario's.",
    ),
]
Wagons = Annotated[int, typer.Option(min=2, metavar="NUMBER", help="The cap: how many wagons may be live at a time.")]


def lab(
    scenario: Scenario = "black-friday",
    trace: Trace = None,
    source: Source = None,
    last: Last = "24h",
    busiest: Busiest = "1h",
    read_rate: ReadRate = RATE,
    time_field: TimeField = "",
    save_trace: SaveTrace = None,
    speed: Speed = 1.0,
    after: Annotated[
        float,
        typer.Option(min=0.0, metavar="SECONDS", help="Skip the first seconds of the trace, counted before --speed."),
    ] = 0.0,
    events: Events = None,
    seconds: Seconds = None,
    service: Annotated[
        str,
        typer.Option(
            metavar="SECONDS",
            help="Seconds of work per event: 0.5, exponential(0.5), uniform(0.1, 1), lognormal(0.3, 1). Default: the "
            "scenario's.",
        ),
    ] = "",
    service_per_size: ServicePerSize = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="NUMBER",
            help="Number of fixed workers: of the one queue, or shared between all wagons. Default: the scenario's.",
        ),
    ] = None,
    each: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="NUMBER",
            help="Workers of each wagon where wagons have their own; if they are elastic, their minimum. Default: "
            "the fixed workers divided by (1 + spares), rounded up to whole Pods. Autoscaled queues keep at "
            "least as many workers as the active wagon and the spares together.",
        ),
    ] = None,
    spares: Annotated[
        int, typer.Option(min=0, metavar="NUMBER", help="Number of spares: wagons kept ready ahead.")
    ] = 1,
    slo: Slo = None,
    limit: Annotated[
        str, typer.Option(metavar="LIMIT", help="The limit: when a wagon is full. Default: Wait(slo).")
    ] = "",
    wagons: Wagons = 500,
    floor: Annotated[
        int,
        typer.Option(
            min=0, metavar="NUMBER", help="The floor: how many of the fixed workers each draining wagon keeps."
        ),
    ] = 0,
    platform: Annotated[
        str,
        typer.Option(
            metavar="NAME", help=f"Where workers run; it sets --start, --per-pod and --most: {', '.join(PLATFORMS)}."
        ),
    ] = "kubernetes",
    start: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="Seconds from requesting a Pod until its workers work. Default: the platform's.",
        ),
    ] = None,
    per_pod: Annotated[
        int | None, typer.Option(min=1, metavar="NUMBER", help="Workers per Pod. Default: the platform's.")
    ] = None,
    most: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="NUMBER",
            help="The most workers at a time for strategies that request Pods. Default: the platform's.",
        ),
    ] = None,
    partitions: Annotated[
        int,
        typer.Option(
            min=1, metavar="NUMBER", help="Partitions of the Kafka topic: no more Pods than this can share it."
        ),
    ] = 32,
    on_time: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, metavar="SHARE", help="The share of events that the clairvoyant scaler must have on time."
        ),
    ] = 0.99,
    strategy: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Run only this strategy. Can be repeated.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Run all strategies, also the less usual ones.")] = False,
    notes: Annotated[bool, typer.Option("--notes", help="Explain each strategy below the table.")] = False,
    broker: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Run the wagons on this broker, in real time: sqlite:///dir, redis://host:6379 …"
        ),
    ] = None,
    picture: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Write a picture to this file: FILE.png, or FILE.html (one page with the table too). Can be repeated.",
        ),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, metavar="NUMBER", help="Number of processes that simulate strategies in parallel.")
    ] = os.cpu_count() or 1,
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Random seed of the arrivals.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Compare wagons with queues, autoscaling and serverless on the same burst, before you adopt them.

    The wagons are the real switcher, observer and workers, in virtual time (with --broker: in real time), with
    simulated Pods. The alternatives are simulated event by event, configured as their users would.

    [bold]on time[/bold]: share of events done within the promise. [bold]new[/bold]: wait of the newcomers, which are
    the arrivals that one FIFO queue with the first wagon's workers (--workers) would serve late. [bold]old[/bold]: wait
    of all others. [bold]standing[/bold]: workers before and after the burst. [bold]w-s[/bold]: worker-seconds paid for,
    including idle workers and spares; [bold]done[/bold] until the last event is done, [bold]rest[/bold] until only the
    standing workers are left, [bold]extra[/bold] beyond the standing workers.
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
            recorded=recorded_at(source, last, busiest, read_rate, time_field, save_trace, trace=trace),
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
            json_line({"job": _as_json(job), "strategies": rows})
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
    recorded: tuple[Recorded, float] | None = None,
) -> Job:
    """Build the job from the options of a command; None and empty values stand for the scenario's. With `recorded`
    (what was read, and its records a second) the workers are by default as many as are busy for 80 % of the time.
    Without `platform`, workers are added one by one, after 2 s, without a ceiling. Raises UsageError."""
    usual = named(scenario)
    sizes = None
    flow = _flow(trace, recorded and recorded[0], speed, seed)
    if flow is None:
        arrivals = usual.arrivals(events or usual.events, seconds or usual.seconds, seed)
    else:
        name, arrivals, sizes = flow
        early = sum(at < after / speed for at in arrivals)
        if early == len(arrivals):
            raise UsageError(f"{name} has nothing after {after:g} s")
        arrivals = [at - after / speed for at in arrivals[early:]]
        sizes = sizes and sizes[early:]
        keep = len(arrivals) if seconds is None else sum(at <= seconds for at in arrivals)
        arrivals = arrivals[: min(keep, events or keep)]
    if per_size is not None:
        work = services_by_size(sizes, per_size)[: len(arrivals)]
    else:
        work = services(service or usual.service, len(arrivals), seed=seed)
    promise = slo or usual.slo
    enough = math.ceil(recorded[1] * speed * sum(work) / len(work) / 0.8) if recorded else 0
    fixed = workers or enough or usual.workers
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
        title=recorded[0].title if recorded else trace.stem if trace else scenario,
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


def _flow(
    trace: Path | None, recorded: Recorded | None, speed: float, seed: int
) -> tuple[str, list[float], list[float] | None] | None:
    """The name, the arrivals and the sizes of the flow that replaces the scenario; None if none does."""
    if recorded is not None:
        return recorded.title, [at / speed for at in recorded.arrivals], recorded.sizes
    if trace is not None:
        return f"trace {trace}", load_trace(trace, speed=speed, seed=seed), load_sizes(trace)
    return None


def recorded_at(
    source: str | None, last: str, busiest: str, rate: int, field: str, save: Path | None, *, trace: Path | None
) -> tuple[Recorded, float] | None:
    """Read the source of the option of that name, and save its trace. Returns its busiest stretch, and the records a
    second of all that was read; None if no source was given. Raises UsageError, Unavailable, StorageBroken."""
    if source is None:
        if save is not None:
            raise UsageError(f"--save-trace {save}: there is nothing to save without --source")
        return None
    if trace is not None:
        raise UsageError("give --source or --trace, not both")
    found = source_at(source, field=field)
    seconds, stretch = span_given("--last", last), span_given("--busiest", busiest)
    with err().status(Text(f"reading {found.title} …")) as progress:
        recorded = asyncio.run(
            read(
                found,
                last=seconds,
                rate=rate,
                say=lambda number: progress.update(Text(f"reading {found.title}: {number:,} records …")),
            )
        )
    if save is not None:
        recorded.save(save)
    say(f"{recorded.title}: {recorded.summary}")
    mean = recorded.rate
    if recorded.keep_busiest(stretch):
        say(
            f"{recorded.title}: the lab runs the busiest {busiest}, {len(recorded):,} records from "
            f"{local_time(recorded.begins)} on; see --busiest"
        )
    return recorded, mean


def _platform(name: str, start: float | None, per_pod: int | None, most: int | None) -> Platform:
    """The preset, with the values given here in place of its own. Raises UsageError."""
    if name and name not in PLATFORMS:
        raise UsageError(f"no platform {name!r}; there are {', '.join(PLATFORMS)}")
    preset = PLATFORMS.get(name, Platform(about="", start=2.0, per_pod=1, most=_PLENTY))
    given = {"start": start, "per_pod": per_pod, "most": most}
    return msgspec.structs.replace(preset, **{option: value for option, value in given.items() if value is not None})


def _within_reason(arrivals: Sequence[float], work: Sequence[float], workers: int, standing: int) -> None:
    """Raise UsageError if the job needs too many workers or would run too long."""
    if max(workers, standing) > _WORKERS_MOST:
        raise UsageError(f"{max(workers, standing):,} workers; the lab takes up to {_WORKERS_MOST:,}")
    seconds = arrivals[-1] + sum(work) / workers + max(work)
    if not seconds <= _SECONDS_MOST:
        raise UsageError(
            f"the arrivals span {arrivals[-1]:,.6g} s, and {workers} workers need "
            f"{sum(work) / workers:,.6g} s for the work; "
            f"the lab takes up to {_SECONDS_MOST:,} s: make a trace faster with --speed, or cut it with --seconds"
        )


def _as_json(job: Job) -> dict[str, object]:
    settings = {name: getattr(job, name) for name in Job.__struct_fields__ if name not in ("arrivals", "services")}
    return {**settings, "events": len(job.arrivals), "seconds": job.arrivals[-1], "work_s": sum(job.services)}


def _show(job: Job, outcomes: dict[str, Outcome], rows: dict[str, Figures], *, notes: bool) -> None:
    console = out()
    console.print(
        f"[bold]{job.title}[/]: {len(job.arrivals):,} arrivals in {job.arrivals[-1]:,.0f} s, "
        f"{sum(job.services) / len(job.services):.3g} s of work each, {count(job.workers, 'worker')}, "
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
    if verdict := _verdict(job, rows):
        console.print(f"\n{verdict}")
    if not notes:
        console.print("\n[dim]Times in seconds. --notes says what each strategy is; --all has all of them.[/]")
        return
    console.print("\n[dim]Times in seconds.[/]")
    for name, outcome in outcomes.items():
        console.print(Text(f"{name}: {outcome.note}", style="dim"))


def _verdict(job: Job, rows: dict[str, Figures]) -> str:
    """What wagons would have won over one queue; empty if both were not compared."""
    ours = {name: row for name, row in rows.items() if name.startswith("wagons")}
    if "fifo" not in rows or not ours:
        return ""
    queue, best = rows["fifo"], max(ours, key=lambda name: (ours[name].on_time, -ours[name].worker_seconds_done))
    said = f"One queue with {count(job.workers, 'worker')} has {queue.on_time:.1%} on time"
    if best != "wagons" and "wagons" in ours:
        said += f", wagons with the same workers {ours['wagons'].on_time:.1%}"
    more = round((ours[best].worker_seconds_done / queue.worker_seconds_done - 1) * 100)
    cost = f"{abs(more)} % {'more' if more > 0 else 'fewer'}" if more else "as many"
    return f"{said}; {best} has {ours[best].on_time:.1%}, for {cost} worker-seconds."


def _width(column: tuple[str, str]) -> int:
    return max(7, len(column[1]) - 1) + 2
