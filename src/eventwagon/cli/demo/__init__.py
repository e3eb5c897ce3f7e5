"""`demo`: the pattern's own example, a burst of sign-ups, live in the terminal."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ...errors import UsageError
from ...lab.arrivals import black_friday, load_trace
from ...lab.pace import loop_factory
from ...limits import Limit, Wait, parse_limit
from ...limits import slo as promised
from ...workers import parse_workers
from ..console import Code, Ended, ending, err, json_line, line, out
from .burst import Burst, Order
from .live import watching
from .report import as_json as report_as_json
from .report import make, show

EVENTS, SECONDS = 2_000, 60.0
SERVICE = 0.48
WORKERS = "each=8"
"""With a spare 16 workers stand: what the burst needs on average, and half of what its rush needs. That is the case
that wagons are for. With `each=16` one queue does as well, for less."""
SLO = 5.0
CUT = 0.65
"""Of the promise: the mark of the default limit. It cuts late rather than often, so that few wagons come."""
SPEED = 2.0
"""Two cores carry it with room to spare: it takes less than one of them."""


def demo(
    events: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="NUMBER", help="Number of sign-ups (default 2000); with --trace: only its first ones."
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="SECONDS",
            help="Seconds within which they arrive (default 60); with --trace: only its first seconds.",
        ),
    ] = None,
    speed: Annotated[
        float,
        typer.Option(
            min=0.01,
            metavar="FACTOR",
            help="Run everything this many times faster: arrivals, handlers, promise and the train's own timers.",
        ),
    ] = SPEED,
    slo: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="SECONDS",
            help="The promise: seconds from a sign-up's arrival until it is handled (default 5).",
        ),
    ] = None,
    limit: Annotated[
        str, typer.Option(metavar="LIMIT", help="When a wagon is full (default: Wait(slo, cut=0.65)).")
    ] = "",
    workers: Annotated[
        str,
        typer.Option(
            metavar="WORKERS", help="The workers: 'each=8' of every wagon, or 'total=8', 'total=8, floor=0' for all."
        ),
    ] = WORKERS,
    service: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="Seconds of work per sign-up: half for the sign-up, a third for the e-mail, a sixth for the CRM.",
        ),
    ] = SERVICE,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV with real arrivals: a column arrival_s, or interval_start_s and count."),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir", metavar="DIRECTORY", help="Keep the SQLite files in this directory, to look at afterwards."
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            "--broker",
            "-u",
            envvar="EVENTWAGON_DEMO_URL",
            metavar="URL",
            help="Run it on this broker: memory://, sqlite:///dir?sync=normal …",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Random seed of the arrivals.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Run a burst through two trains at once, one queue and wagons: 2,000 sign-ups in a minute.

    Each sign-up is followed by a welcome e-mail and a CRM update. Both trains run for real, on the same broker, in this
    process, with the same standing workers: the one queue has as many as the active wagon and its spare together. It
    runs on SQLite in a temporary directory, with handlers that take real time (they sleep). --speed compresses time;
    all figures are in the time of the burst, so that runs of different speeds compare.

    [bold]waits[/bold]: from a sign-up's arrival until all three handlers have finished; arrivals don't slow down when a
    train does. [bold]on time[/bold]: share of all sign-ups that were handled within the promise.
    [bold]newcomers[/bold]: those that one queue with the first wagon's workers would serve late, the same for all.
    [bold]worker-seconds[/bold]: what the workers cost until both trains were done, idle or not, and further ones until
    they were gone. [bold]lost[/bold]: published, but neither handled nor a dead letter. [bold]duplicates[/bold]:
    handler runs beyond the first for the same event.
    """
    with ending():
        if url and directory:
            raise UsageError("give --dir or --url, not both")
        full: Limit = parse_limit(limit) if limit else Wait(slo or SLO, cut=CUT)
        arrivals = _arrivals(trace, events, seconds, seed)
        with _place(url, directory) as where:
            order = Order(
                url=where,
                arrivals=arrivals,
                limit=full,
                workers=parse_workers(workers),
                slo=slo or promised(full) or SLO,
                steps=(service / 2, service / 3, service / 6),
                speed=speed,
                title=trace.name if trace else "Black Friday",
            )
            burst = Burst(order)
            console = err() if as_json else out()
            with asyncio.Runner(loop_factory=loop_factory(speed)) as runner:
                both = runner.run(burst.run(watching(console)))
            report = make(both)
            if as_json:
                json_line(report_as_json(report))
            else:
                show(report, console)
                if directory:
                    for what in ("status --all", "why"):
                        name, *options = what.split()
                        line(" ".join(("look: eventwagon", name, order.name, *options, "-u", where)))
        for name, result in (("one queue", both.queue), ("wagons", both.wagons)):
            if result.lost or result.stalled:
                raise Ended(Code.FAILED, f"{name}: the burst came to a stop; {result.lost} sign-ups are missing")


def _arrivals(trace: Path | None, events: int | None, seconds: float | None, seed: int) -> list[float]:
    if trace is None:
        return black_friday(events or EVENTS, seconds or SECONDS, seed=seed)
    arrivals = load_trace(trace, seed=seed)
    if seconds is not None:
        arrivals = [a for a in arrivals if a <= seconds]
    return arrivals[:events]


@contextmanager
def _place(url: str | None, directory: Path | None) -> Iterator[str]:
    if url:
        yield url
    elif directory:
        yield f"sqlite:///{directory}"
    else:
        with tempfile.TemporaryDirectory(prefix="eventwagon-demo-", ignore_cleanup_errors=True) as made:
            yield f"sqlite:///{made}"
