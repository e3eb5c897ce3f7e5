"""`plan`: finds the settings that suit your traffic, and prints them as code."""

from __future__ import annotations

import os
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from ..errors import UsageError
from ..lab.experiment import one
from ..lab.job import Job, figures
from ..lab.page import cell
from ..lab.planning import (
    KINDS,
    MOST,
    Promise,
    Trial,
    best,
    cheapest_kind,
    of_kind,
    one_queue,
    promise,
    run,
    search,
    with_workers,
)
from ..lab.queueing import percentile
from ..lab.sources.reading import RATE
from .console import AsJson, ending, err, json_line, line, listing, out, span
from .lab import (
    Busiest,
    Events,
    Last,
    ReadRate,
    SaveTrace,
    Scenario,
    Seconds,
    ServicePerSize,
    Slo,
    Source,
    Speed,
    TimeField,
    Trace,
    Wagons,
    make_job,
    recorded_at,
)


def plan(
    scenario: Scenario = "black-friday",
    trace: Trace = None,
    source: Source = None,
    last: Last = "24h",
    busiest: Busiest = "1h",
    read_rate: ReadRate = RATE,
    time_field: TimeField = "",
    save_trace: SaveTrace = None,
    speed: Speed = 1.0,
    events: Events = None,
    seconds: Seconds = None,
    service: Annotated[
        str,
        typer.Option(
            metavar="SECONDS", help="Seconds of work per event, in the forms that lab takes. Default: the scenario's."
        ),
    ] = "",
    service_per_size: ServicePerSize = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="NUMBER", help="Number of workers that serve your one queue today. Default: the scenario's."
        ),
    ] = None,
    slo: Slo = None,
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
    wagons: Wagons = 500,
    processes: Annotated[
        int, typer.Option(min=1, metavar="NUMBER", help="Number of processes that try candidates in parallel.")
    ] = os.cpu_count() or 1,
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Random seed.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Find the cheapest settings that keep the promise for your traffic, and print them as code.

    Each candidate runs through the real switcher, observer and workers in virtual time. The cheapest of each kind are
    compared: workers shared by all wagons, a fixed number for each wagon, workers that follow the traffic (Elastic);
    beside them one queue without wagons. [bold]cost[/bold]: of the traffic, in worker-seconds × --price; [bold]calm
    hour[/bold]: of an hour without events; [bold]peak[/bold]: most workers at a time; [bold]new p99[/bold]: the p99 of
    the newcomers, the arrivals that today's one queue (--workers) serves late.
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
            recorded=recorded_at(source, last, busiest, read_rate, time_field, save_trace, trace=trace),
        )
        job = msgspec.structs.replace(job, most=most or job.most)
        if job.most < job.per_pod:
            raise UsageError(f"--most {job.most} is less than a Pod of {job.per_pod} workers; see --per-pod")
        wanted = promise(job, on_time)
        if not wanted.ceiling:
            raise UsageError(
                f"nothing to plan: no event can be on time. The promise is {job.slo:g} s, and the work alone takes at "
                f"least {min(job.services):.3g} s, for 99 of 100 events up to {percentile(job.services, 0.99):.3g} s: "
                "see --slo, --service"
            )
        if not as_json:
            _show_promise(out(), job, wanted)
        tried: list[Trial] = []
        with err().status("…") as progress:
            for candidate in search(job, wanted, price, processes=processes):
                tried.append(candidate)
                progress.update(f"{len(tried)} tried; best so far: {best(tried, wanted.aim).short}")
        found = _Found(job, wanted, tried, price)
        if as_json:
            json_line(found.as_json())
        else:
            _show(out(), found)


class _Found:
    """What came of the search."""

    def __init__(self, job: Job, wanted: Promise, tried: list[Trial], price: float) -> None:
        self.job = job
        self.wanted = wanted
        self.tried = tried
        self.today = run("fifo", job, price, job.workers)
        self.kinds = {kind: best(some, wanted.aim) for kind in KINDS if (some := of_kind(tried, kind))}
        """The best of each."""
        self.best = cheapest_kind(list(self.kinds.values()), wanted.aim)
        enough = one_queue(job, wanted.aim)
        self.one_queue = (
            None if enough is None else run("fifo", msgspec.structs.replace(job, workers=enough), price, job.workers)
        )
        """The fewest workers of one queue that keep the promise."""
        elastic = self.kinds.get("wagons_elastic")
        self.keda = None if elastic is None else run("keda", elastic.job, price, job.workers)
        """One queue, with the standing workers and the ceiling of the elastic wagons."""
        self.same_workers = with_workers(tried, job.workers)
        self.possible = figures(job, one(job, "optimum")).on_time
        """The share that today's workers could have on time in any order."""

    def as_json(self) -> dict[str, object]:
        """For machines."""
        fixed = [trial for kind, trial in self.kinds.items() if kind != "wagons_elastic"]
        same = self.same_workers
        return {
            "promise": self.wanted,
            "recommended": _json_of(self.best),
            "fixed": _json_of(best(fixed, self.wanted.aim)) if fixed else None,
            "elastic": _json_of(self.kinds.get("wagons_elastic")),
            "kinds": {kind: _json_of(trial) for kind, trial in self.kinds.items()},
            "same_workers": same and {**(_json_of(same) or {}), "optimum": self.possible},
            "today": _json_of(self.today),
            "one_queue": _json_of(self.one_queue),
            "keda": _json_of(self.keda),
            "tried": [_json_of(candidate) for candidate in self.tried],
        }


def _json_of(trial: Trial | None) -> dict[str, object] | None:
    if trial is None:
        return None
    return {
        "strategy": trial.strategy,
        "settings": trial.code if trial.strategy in KINDS else f"{trial.job.workers} workers",
        "cost": trial.cost,
        "calm_hour": trial.calm_hour,
        "live_wagons": trial.live,
        "figures": trial.figures,
    }


def _show_promise(console: Console, job: Job, wanted: Promise) -> None:
    """Before the search, so that nobody waits for what can't be."""
    most, limit = min(MOST, job.most), "--most" if job.most <= MOST else "plan looks no further"
    count, work = len(job.arrivals), sum(job.services) / len(job.services)
    console.print(
        f"[bold]{job.title}[/]: {count:,} event{'s' if count > 1 else ''} in {job.arrivals[-1]:,.0f} s, {work:.3g} s "
        f"of work each; {wanted.asked:.1%} of them should be done within {job.slo:g} s."
    )
    if wanted.refuted:
        why = [f"{wanted.too_long:,} events take longer than {job.slo:g} s of work alone"] if wanted.too_long else []
        possible = 1 - wanted.too_long / len(job.arrivals)
        if wanted.ceiling < possible - 1e-9:
            why.append(f"with {_workers(most)} at a time: {limit}")
        by_age = f", oldest first {wanted.oldest_first:.1%}" if wanted.oldest_first < wanted.ceiling else ""
        console.print(
            f"[bold yellow]Nothing can keep this promise[/]: at most {wanted.ceiling:.1%} of the events can be on time "
            f"({'; '.join(why)}){by_age}. This is a plan for {wanted.aim:.1%}."
        )
    elif wanted.aim < wanted.asked:
        console.print(
            f"[bold yellow]This promise is unlikely to be kept[/]: with {_workers(most)} at a time ({limit}) "
            f"{wanted.oldest_first:.1%} of the events can be on time oldest first, and up to {wanted.ceiling:.1%} only "
            f"by leaving out long ones. This is a plan for {wanted.aim:.1%}."
        )
    least = f"{_workers(wanted.least)} at a time"
    if job.same_work:
        console.print(f"No order of work has {wanted.aim:.1%} on time with fewer than {least}.\n")
    else:
        console.print(f"Oldest first, leaving out what would be late, {wanted.aim:.1%} on time take {least}.\n")


_NAMES = {
    "wagons": "wagons, shared",
    "wagons_each": "wagons, own",
    "wagons_elastic": "wagons, elastic",
}
_WHAT = {
    "wagons": "workers shared by all wagons",
    "wagons_each": "wagons with workers of their own",
    "wagons_elastic": "workers that follow the traffic",
}
_HEAD = ("", ">on time", ">new p99", ">peak", ">cost", ">calm hour", "workers")


def _show(console: Console, found: _Found) -> None:
    rows = [("one queue, as today", found.today)]
    if found.one_queue is not None and found.one_queue.job.workers != found.job.workers:
        rows.append(("one queue, resized", found.one_queue))
    if found.keda is not None:
        rows.append(("one queue, KEDA", found.keda))
    rows += [(_NAMES[kind], trial) for kind, trial in found.kinds.items()]
    cells = [_cells(name, trial, found) for name, trial in rows]
    console.print(listing(_HEAD, cells, console.width))
    for name, kind in _NAMES.items():
        if (trial := found.kinds.get(name)) is None:
            console.print(f"{kind}: --most {found.job.most:,} is too few for a wagon and the next one")
        elif trial is found.best:
            _recommend(console, found)
    others = [trial for trial in found.kinds.values() if trial is not found.best]
    if others:
        console.print("\nThe others, best first:")
    for trial in sorted(others, key=lambda other: (other.figures.on_time < found.wanted.aim, other.cost)):
        misses = trial.figures.on_time < found.wanted.aim
        comment = f"  # only {trial.figures.on_time:.1%} on time" if misses else ""
        line(f"    Train({trial.job.title!r}, {trial.code}){comment}")
    _show_today(console, found)


def _cells(name: str, trial: Trial, found: _Found) -> list[str | Text]:
    row, job = trial.figures, trial.job
    keeps = row.on_time >= found.wanted.aim
    workers = {
        "keda": f"{row.standing} to {job.most}" if row.standing < job.most else f"{job.most}",
        "fifo": str(job.workers),
        "wagons": str(job.workers),
        "wagons_each": f"{job.each} each{_spares(job.spares)}",
        "wagons_elastic": f"{job.each} to {job.most}{_spares(job.spares)}",
    }[trial.strategy]
    return [
        Text(name, "bold" if trial is found.best else ""),
        Text(f"{row.on_time:.1%}", "green" if keeps else "yellow"),
        cell("newcomers_p99_s", row.newcomers_p99_s),
        f"{row.peak:,}",
        _money(trial.cost),
        _money(trial.calm_hour),
        workers,
    ]


def _recommend(console: Console, found: _Found) -> None:
    trial, wanted = found.best, found.wanted
    row, job = trial.figures, trial.job
    which = f"the cheapest with {wanted.aim:.1%} on time"
    if wanted.aim >= wanted.asked:
        which = "the cheapest that keep the promise"
    if row.on_time < wanted.aim:
        which = f"none tried has {wanted.aim:.1%} on time, these come nearest"
    console.print(f"\n[bold]Recommended[/]: {_WHAT[trial.strategy]}, {which}")
    line(f"    Train({job.title!r}, {trial.code})")
    ceiling = {
        "wagons": "",
        "wagons_each": f" It may have {job.wagons} wagons, {_workers(job.wagons * job.each)}.",
        "wagons_elastic": f" It may have {_workers(job.most)}.",
    }[trial.strategy]
    console.print(
        f"On time {found.today.figures.on_time:.1%} → [bold]{row.on_time:.1%}[/], newcomers' p99 "
        f"{found.today.figures.newcomers_p99_s:,.1f} s → [bold]{row.newcomers_p99_s:,.1f} s[/]; {row.switches} "
        f"switches; {trial.live} {'wagons' if trial.live > 1 else 'wagon'} and {_workers(row.peak)} at its peak."
        f"{ceiling}"
    )
    for other in found.kinds.values():
        saved = trial.calm_hour - other.calm_hour
        if saved > 0 and other.cost > trial.cost and other.figures.on_time >= wanted.aim:
            calm = (other.cost - trial.cost) / saved * 3600
            console.print(
                f"With more than {span(calm)} of calm after each such traffic, {_WHAT[other.strategy]} are cheaper."
            )
    queue = found.one_queue
    if queue is not None and queue.cost <= trial.cost * 1.01:
        console.print(
            f"One queue with {_workers(queue.job.workers)} has as many on time for no more: what wagons add here is "
            "isolation, not time."
        )
    elif found.today.figures.on_time >= wanted.aim and found.job.workers <= found.job.most:
        console.print(
            f"Today's one queue with {_workers(found.job.workers)} keeps the promise too: what wagons add here is "
            "isolation, not time."
        )


def _show_today(console: Console, found: _Found) -> None:
    same = found.same_workers
    if same is None or found.today.figures.on_time >= found.wanted.aim or found.job.workers > found.job.most:
        return
    order = "no order of work could have more than" if found.job.same_work else "the best order by age would have"
    console.print(
        f"\nIf there can't be more than today's {_workers(same.job.workers)} ({order} {found.possible:.1%} on time): "
        f"{found.today.figures.on_time:.1%} → [bold]{same.figures.on_time:.1%}[/] on time, with "
        f"{same.figures.switches} switches and up to {same.live} wagons"
    )
    line(f"    Train({same.job.title!r}, {same.code})")


def _money(cost: float) -> str:
    return f"{float(f'{cost:.4g}'):,.12g}"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count:,} workers"


def _spares(count: int) -> str:
    return ", spare" if count else ""
