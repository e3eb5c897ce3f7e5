"""The demo's results: figures for machines, a table and sentences for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...contracts.manifest import Wagon
from ...event import Channel
from ...lab.queueing import most_on_time, one_queue, percentile
from ..console import listing, span
from .burst import Result

_ROWS = 16


def figures(result: Result) -> dict[str, Any]:
    """What `--json` prints."""
    waits = [result.waits[i] for i in result.newcomers]
    return {
        "published": result.published,
        "handled": result.handled,
        "dead": result.dead,
        "lost": result.lost,
        "duplicates": result.duplicates,
        "on_time": round(result.on_time, 4),
        "newcomers": {"p50_ms": _ms(percentile(waits, 0.5)), "p99_ms": _ms(percentile(waits, 0.99))},
        "wagons": [
            {
                "number": w.number,
                "name": str(Channel(result.order.name, w.number)),
                "published": w.published,
                "settled": w.settled,
                "reason": w.closed_because,
                "opened_at": _round(w.opened_at),
                "sealed_at": _round(w.sealed_at),
                "drained_at": _round(w.drained_at),
            }
            for w in result.wagons
        ],
    }


def report(result: Result, console: Console) -> None:
    """Print the table and the sentences."""
    console.print(_wagons(result.wagons, result.order.name, console.width))
    console.print()
    order = result.order
    ours = [result.waits[i] for i in sorted(result.waits)]
    queued = _queued(result)
    console.print(_waits(result, ours, queued, console.width))
    console.print()
    bad = result.lost or result.handled + result.dead != result.published
    console.print(
        f"[{'bold red' if bad else 'bold'}]{result.handled:,} of {result.published:,} sign-ups handled, "
        f"{result.dead:,} dead, {result.lost:,} lost[/], {result.duplicates:,} duplicates, in {result.seconds:.0f} s "
        f"of burst time ({result.seconds / order.speed:.0f} s at {order.speed:g} times the speed)."
    )
    most = most_on_time(order.arrivals, sum(order.steps), _queue_workers(result), order.slo) / max(1, result.published)
    fresh = [result.waits[i] for i in result.newcomers]
    same = [queued[i] for i in result.newcomers]
    console.print(
        f"[bold]On time[/] (handled within {order.slo:g} s): [bold green]{result.on_time:.0%}[/]. One FIFO queue would "
        f"have had [bold]{_share(queued, order.slo):.0%}[/], the best possible order {most:.0%}."
    )
    console.print(
        f"[bold]Newcomers[/] (the {len(fresh):,} sign-ups handled before their wagon was cut off) waited "
        f"[bold green]{span(percentile(fresh, 0.99))}[/] at p99; the same sign-ups in one FIFO queue: "
        f"[bold]{span(percentile(same, 0.99))}[/]."
    )
    late = sum(w > order.slo for w in ours)
    price = f"The price: the {late:,} that missed the promise waited up to {span(max(ours))}. " if late else ""
    console.print(
        f"{price}The FIFO figures are calculated, not run: the same arrivals, the same work and workers, nothing lost "
        "to the machine.",
        style="dim",
    )


def _queue_workers(result: Result) -> int:
    """The number of workers that a single queue would have: with `each`, those of one wagon."""
    workers = result.order.workers
    return workers.total or workers.own or 1


def _queued(result: Result) -> list[float]:
    """The waits of the same arrivals in one FIFO queue, in seconds. Of its two forms the better one counts: each step
    is queued again, or a worker does all steps of one sign-up."""
    arrivals, steps = result.order.arrivals, result.order.steps
    forms = [one_queue(arrivals, s, _queue_workers(result)) for s in (steps, (sum(steps),))]
    waits = [[done - at for done, at in zip(form, arrivals, strict=True)] for form in forms]
    return min(waits, key=sum)


def _share(waits: Sequence[float], slo: float) -> float:
    return sum(w <= slo for w in waits) / max(1, len(waits))


def _waits(result: Result, ours: Sequence[float], queued: Sequence[float], width: int) -> Table:
    slo = result.order.slo
    fresh = [result.waits[i] for i in result.newcomers]
    rows: tuple[tuple[str, Sequence[float]], ...] = (
        ("newcomers", fresh),
        ("all", ours),
        ("all, until registered only", list(result.registered.values())),
        ("all, in one FIFO queue (calculated)", queued),
    )
    return listing(
        ("wait until handled", ">sign-ups", f">in {slo:g} s", ">p50", ">p99", ">mean"),
        [
            [
                name,
                f"{len(waits):,}",
                f"{_share(waits, slo):.0%}",
                span(percentile(waits, 0.5)),
                span(percentile(waits, 0.99)),
                span(sum(waits) / max(1, len(waits))),
            ]
            for name, waits in rows
        ],
        width,
    )


def _wagons(wagons: Sequence[Wagon], name: str, width: int) -> Table:
    shown: list[Wagon | None] = list(wagons)
    if len(wagons) > _ROWS:
        shown[_ROWS // 2 : -_ROWS // 2] = [None]
    rows: list[list[str | Text]] = []
    for w in shown:
        if w is None:
            rows.append(["…", "", "", "", "", Text(f"{len(wagons) - _ROWS} more (--json has all)", style="dim")])
            continue
        since = w.active_at if w.active_at is not None else w.opened_at
        rows.append(
            [
                str(Channel(name, w.number)) if width >= 100 else f"v{w.number}",
                f"{w.published:,}" if w.published is not None else "?",
                f"{max(0.0, since):.1f} s",
                span(w.closed_at - since) if w.closed_at is not None else "",
                f"{w.drained_at:.1f} s" if w.drained_at is not None else "",
                w.closed_because or "still active",
            ]
        )
    return listing(("wagon", ">took", ">active at", ">for", ">drained at", "closed because"), rows, width)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _round(at: float | None) -> float | None:
    return None if at is None else round(at, 3)
