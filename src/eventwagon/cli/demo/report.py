"""The end of the demo. The report and `--json` print the same figures: they are computed once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...contracts.manifest import Wagon
from ...display.redaction import shown
from ...event import Channel, wagon_name
from ...lab.job import Figures, Job, figures
from ...lab.queueing import is_late, most_on_time, oldest_in_time
from ...lab.strategies.rivals import ideal_elastic_fifo, keda
from ...limits import written
from ..console import listing, span
from .burst import Both, Result
from .live import QUEUE, WAGONS, names, rated, share

_ROWS = 10
_LATE = 0.1
"""An event loop that is late by this part of the promise takes part in what is measured."""
_LOSS = 0.03
"""The part of their time that the one queue's workers may lose to the machine and the broker."""
_SHORT = 0.05
"""A loss that delays no sign-up by more than this part of the promise is none."""
_NEAR = 0.05
"""So far the run of the one queue may be from the calculated one, as a share of all events."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one train, or of a calculated one. Waits in seconds of the burst."""

    on_time: float
    p50_s: float
    p99_s: float
    mean_s: float
    worst_s: float
    newcomers_p50_s: float
    newcomers_p99_s: float
    worker_seconds: float
    """What the workers cost, idle or not: those that stand until both trains were done, and further ones from the
    moment they were asked for until they were gone."""


class Real(Row, frozen=True, kw_only=True):
    """The figures of a train that ran."""

    published: int
    handled: int
    dead: int
    lost: int
    """Published, but neither handled nor a dead letter."""
    duplicates: int
    """Handler runs beyond the first for the same event."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is said at the end."""

    both: Both
    newcomers: int
    queue: Real
    wagons: Real
    autoscaled: Row
    ideal: Row
    queue_calculated: float
    """On time in the one queue if neither machine nor broker took any time."""
    best_order: float
    """The largest share on time that any order of work has with the standing workers."""
    time_lost: float
    """The part of their time that the one queue's workers lost to machine and broker."""
    bottleneck: str
    """Why the run says nothing about the trains; empty if it does."""


def make(both: Both) -> Report:
    """All figures, in one place."""
    order, job = both.order, both.job
    count = len(job.arrivals)
    done, _ = oldest_in_time(job.arrivals, job.services, order.standing)
    calculated = sum(not is_late(end - at, job.slo) for end, at in zip(done, job.arrivals, strict=True)) / count
    queue, lost = _real(both, both.queue), _time_lost(both, done)
    return Report(
        both=both,
        newcomers=len(job.behind()),
        queue=queue,
        wagons=_real(both, both.wagons),
        autoscaled=_row(both, figures(job, keda(job))),
        ideal=_row(both, figures(job, ideal_elastic_fifo(job))),
        queue_calculated=calculated,
        best_order=most_on_time(job.arrivals, sum(order.steps), order.standing, job.slo) / count,
        time_lost=lost,
        bottleneck=_bottleneck(both, queue.on_time, calculated, lost),
    )


def _real(both: Both, result: Result) -> Real:
    row = _row(both, figures(both.job, result.outcome))
    return Real(
        **msgspec.structs.asdict(row),
        published=result.published,
        handled=result.handled,
        dead=result.dead,
        lost=result.lost,
        duplicates=result.duplicates,
    )


def _row(both: Both, found: Figures) -> Row:
    given = {name: getattr(found, name) for name in Row.__struct_fields__ if name != "worker_seconds"}
    return Row(**given, worker_seconds=found.standing * both.seconds + found.worker_seconds_extra)


def _time_lost(both: Both, done: Sequence[float]) -> float:
    """The part of their time that the one queue's workers lost, until the sign-up with the longest wait was handled.
    `done`: when each would have been handled if nothing but work took time."""
    finished = both.queue.outcome.finished
    waits = [end - at if math.isfinite(end) else 0.0 for end, at in zip(finished, both.job.arrivals, strict=True)]
    slowest = max(range(len(waits)), key=waits.__getitem__)
    if finished[slowest] - done[slowest] <= _SHORT * both.order.slo:
        return 0.0
    return 1 - done[slowest] / finished[slowest]


def _bottleneck(both: Both, on_time: float, calculated: float, loss: float) -> str:
    order, usage = both.order, both.usage
    if usage.late_p99 > _LATE * order.slo:
        return (
            f"its event loop was up to {usage.late_p99:.2f} s late (p99, in the time of the burst), "
            f"which is more than {_LATE:.0%} of the promise"
        )
    if loss > _LOSS:
        return f"the one queue's workers lost {loss:.1%} of their time to it"
    if abs(on_time - calculated) > _NEAR and both.queue.handled == both.queue.published:
        return (
            f"the one queue had {share(on_time)} on time where the same arrivals, work and workers come to "
            f"{share(calculated)}"
        )
    return ""


# --- for machines -------------------------------------------------------------------------


def as_json(report: Report) -> dict[str, Any]:
    """What `--json` prints."""
    both, order, usage = report.both, report.both.order, report.both.usage
    return {
        "order": {
            "title": order.title,
            "url": shown(order.url),
            "events": len(order.arrivals),
            "seconds": _round(order.arrivals[-1]),
            "service_s": _round(sum(order.steps)),
            "slo_s": order.slo,
            "limit": written(order.limit),
            "workers": repr(order.workers),
            "standing": order.standing,
            "speed": order.speed,
        },
        "newcomers": report.newcomers,
        "one_queue": _rounded(report.queue),
        "wagons": _rounded(report.wagons) | {"train": [_wagon(w, order.name) for w in both.wagons.wagons]},
        "calculated": {
            "autoscaled_queue": _rounded(report.autoscaled),
            "ideal_queue": _rounded(report.ideal),
            "one_queue": {"on_time": _round(report.queue_calculated)},
            "best_order": {"on_time": _round(report.best_order)},
        },
        "machine": {
            "seconds": _round(usage.seconds),
            "cpu_seconds": _round(usage.cpu),
            "cores": usage.cores,
            "late_p99_s": _round(usage.late_p99),
            "late_most_s": _round(usage.late_most),
            "time_lost": _round(report.time_lost),
            "bottleneck": report.bottleneck or None,
        },
    }


def _rounded(row: Row) -> dict[str, Any]:
    return {k: _round(v) if isinstance(v, float) else v for k, v in msgspec.structs.asdict(row).items()}


def _wagon(w: Wagon, name: str) -> dict[str, Any]:
    return {
        "number": w.number,
        "name": str(Channel(name, w.number)),
        "published": w.published,
        "settled": w.settled,
        "reason": w.closed_because,
        "opened_at": _round(w.opened_at),
        "sealed_at": _round(w.sealed_at),
        "drained_at": _round(w.drained_at),
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


# --- for people ---------------------------------------------------------------------------


def show(report: Report, console: Console) -> None:
    """The wagons, the table, the verdict, what is calculated."""
    both, order = report.both, report.both.order
    console.print(_wagons(both.wagons.wagons, order.name, console.width))
    console.print()
    console.print(
        f"[bold]{order.title}[/]: {len(order.arrivals):,} sign-ups in {order.arrivals[-1]:.0f} s, "
        f"{sum(order.steps):.3g} s of work each, to be handled within {order.slo:g} s of their arrival"
    )
    console.print()
    console.print(_table(report))
    console.print()
    for text in _verdict(report):
        console.print(text)
    console.print(_dim(report))


def _table(report: Report) -> Table:
    order = report.both.order
    rows = (report.queue, report.wagons, report.autoscaled, report.ideal)
    queue, wagons = names(order)
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column(Text(f"one queue\n{queue}", QUEUE), justify="right", no_wrap=True)
    table.add_column(Text(f"wagons\n{wagons}", WAGONS), justify="right", no_wrap=True)
    table.add_column(Text("autoscaled\ncalculated", "dim not bold"), justify="right", no_wrap=True)
    table.add_column(Text("ideal\ncalculated", "dim not bold"), justify="right", no_wrap=True)
    table.add_row(
        Text(f"on time (within {order.slo:g} s)", "bold"),
        *(Text(share(row.on_time), f"bold {rated(row.on_time)}") for row in rows[:2]),
        *(Text(share(row.on_time), "dim") for row in rows[2:]),
    )
    for name, field in (
        ("wait, p50", "p50_s"),
        ("wait, p99", "p99_s"),
        ("wait, mean", "mean_s"),
        ("wait, worst", "worst_s"),
        ("newcomers, p50", "newcomers_p50_s"),
        ("newcomers, p99", "newcomers_p99_s"),
    ):
        _add(table, name, [span(getattr(row, field)) for row in rows])
    _add(table, "worker-seconds", [f"{row.worker_seconds:,.0f}" for row in rows])
    for name in ("handled", "dead", "lost", "duplicates"):
        real = [getattr(row, name) for row in rows[:2]]
        if name != "dead" or any(real):
            _add(table, name, [f"{n:,}" for n in real], "bold red" if name == "lost" and any(real) else "")
    return table


def _add(table: Table, name: str, cells: Sequence[str], style: str = "") -> None:
    table.add_row(name, *(Text(c, style if n < 2 else "dim") for n, c in enumerate(cells)))


def _verdict(report: Report) -> list[Text]:
    order, usage = report.both.order, report.both.usage
    queue, wagons = report.queue, report.wagons
    if report.bottleneck:
        slower = order.speed / 2
        return [
            Text(f"The machine or the broker was the bottleneck: {report.bottleneck}.", "bold yellow"),
            Text(f"So the figures say nothing about wagons and queues. Run it with --speed {slower:g}."),
        ]
    head = Text("On time: ", "bold")
    head.append(f"wagons {share(wagons.on_time)}", f"bold {rated(wagons.on_time)}").append(", ")
    head.append(f"one queue {share(queue.on_time)}", f"bold {rated(queue.on_time)}").append(".")
    ratio = wagons.worker_seconds / queue.worker_seconds if queue.worker_seconds else 1.0
    head.append(f" {_comparison(queue.on_time, wagons.on_time, ratio)}", "not bold")
    if order.workers.total:
        price = (
            "The workers are the same, so the mean wait is about the same in any order: wagons choose who waits, "
            f"and the last one waited {span(wagons.worst_s)}, in one queue {span(queue.worst_s)}. No order of work has "
            f"more than {share(report.best_order)} on time."
        )
    else:
        price = (
            f"Wagons cost {ratio:.2f} times the worker-seconds: a wagon that drains keeps its workers beside those of "
            "the next."
        )
    return [head, Text(price), Text(f"It took {usage.seconds:.0f} s and {usage.busy:.1f} of {usage.cores} cores.")]


def _comparison(queue: float, wagons: float, ratio: float) -> str:
    if abs(queue - wagons) < _NEAR:
        if min(queue, wagons) < 0.95:
            return "There is no difference that counts."
        cheaper = ", and one queue is cheaper" if ratio > 1.005 else ""
        return f"There is no difference that counts: the standing workers are enough for this burst{cheaper}."
    if wagons < queue:
        return "Here one queue is better."
    if wagons >= 0.95:
        return "One queue with the same standing workers was overrun, the wagons were not."
    return "Both were overrun, the wagons less."


def _dim(report: Report) -> Text:
    job: Job = report.both.job
    first = f"one queue with the first wagon's {job.workers} workers would serve"
    newcomers = f"the {report.newcomers:,} sign-ups that {first} late"
    if report.newcomers == len(job.arrivals) and not is_late(job.services[0], job.slo):
        newcomers = f"all sign-ups, since {first} none late"
    return Text(
        f"Newcomers: {newcomers}. Calculated, not run: a queue that KEDA scales in Pods of "
        f"{job.per_pod} workers, there {job.start:g} s after they were asked for; and a worker at once for each "
        "sign-up, which nobody has.",
        "dim",
    )


def _wagons(wagons: Sequence[Wagon], train: str, width: int) -> Table:
    """The newest wagons; the older ones summed up."""
    older, newer = wagons[: max(0, len(wagons) - _ROWS)], wagons[-_ROWS:]
    rows: list[list[str | Text]] = []
    if older:
        rows.append(
            [
                f"{wagon_name(train, older[0].number)} … v{older[-1].number}",
                f"{sum(w.published or 0 for w in older):,}",
                f"{_since(older[0]):.1f} s",
                "",
                f"{max(w.drained_at or 0.0 for w in older):.1f} s",
                f"{len(older)} older wagons (see --json)",
            ]
        )
    for w in newer:
        since = _since(w)
        rows.append(
            [
                wagon_name(train, w.number),
                f"{w.published:,}" if w.published is not None else "?",
                f"{since:.1f} s",
                span(w.closed_at - since) if w.closed_at is not None else "",
                f"{w.drained_at:.1f} s" if w.drained_at is not None else "",
                w.closed_because or "still active",
            ]
        )
    return listing(("wagon", ">took", ">active at", ">for", ">drained at", "closed because"), rows, width)


def _since(w: Wagon) -> float:
    return max(0.0, w.active_at if w.active_at is not None else w.opened_at)
