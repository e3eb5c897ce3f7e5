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
from ...limits import Limit, Volume, Wait, parse_limit
from ...limits import slo as promised
from ...workers import parse_workers
from ..console import Code, Ended, ending, err, json_line, line, out
from .burst import Burst, Order
from .live import watching
from .report import figures, report

_EVENTS, _SECONDS = 15_000, 120.0


def demo(
    events: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="NUMBER", help="Number of sign-ups (default 15000); with --trace: only the first ones."
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="SECONDS",
            help="Length of the burst, in seconds (default 120); with --trace: leave out later sign-ups.",
        ),
    ] = None,
    speed: Annotated[
        float,
        typer.Option(
            min=0.01,
            metavar="FACTOR",
            help="Run everything this many times faster: arrivals, handlers, promise and the train's own timers.",
        ),
    ] = 5.0,
    slo: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="SECONDS",
            help="The promise: seconds from a sign-up's arrival until it is handled (default 2).",
        ),
    ] = None,
    limit: Annotated[
        str,
        typer.Option(metavar="LIMIT", help="The limit: when a wagon is full (default: Wait(slo) | Volume(10_000))."),
    ] = "",
    workers: Annotated[
        str, typer.Option(metavar="WORKERS", help="The workers: 8, 'total=8, floor=1' or 'each=4'.")
    ] = "total=8, floor=1",
    service: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="Seconds of work per sign-up: half for the sign-up, a third for the e-mail, a sixth for the CRM.",
        ),
    ] = 0.06,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="CSV file with recorded arrivals. Columns: arrival_s; or interval_start_s and count."
        ),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            metavar="DIRECTORY",
            help="Keep the SQLite files in this directory, so that you can look at them afterwards.",
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
            help="Run on this broker: memory://, sqlite:///dir?sync=normal …",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Random seed of the arrivals.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Run a burst through a train: 15,000 sign-ups in 2 minutes, sign-up → welcome e-mail → CRM update.

    It runs on SQLite in a temporary directory, with handlers that take real time (they sleep). --speed compresses time;
    all figures are in the burst's own time, so that runs at different speeds can be compared.

    [bold]handled[/bold]: all three handlers have finished. [bold]waits[/bold]: from a sign-up's arrival until it is
    handled; arrivals don't slow down if the train does. [bold]on_time[/bold]: share of the published sign-ups that were
    handled within the promise. [bold]newcomers[/bold]: the sign-ups that were handled before their wagon was cut off.
    [bold]lost[/bold]: published, but neither handled nor a dead letter, by id.
    [bold]duplicates[/bold]: handler runs beyond the first for the same event.

    Times of wagons are in seconds since the burst began.
    """
    with ending():
        if url and directory:
            raise UsageError("give --dir or --url, not both")
        full: Limit = parse_limit(limit) if limit else Wait(slo or 2.0) | Volume(10_000)
        arrivals = _arrivals(trace, events, seconds, seed)
        with _place(url, directory) as where:
            order = Order(
                url=where,
                arrivals=arrivals,
                limit=full,
                workers=parse_workers(workers),
                slo=slo or promised(full) or 2.0,
                steps=(service / 2, service / 3, service / 6),
                speed=speed,
                title=trace.name if trace else "Black Friday",
            )
            burst = Burst(order)
            console = err() if as_json else out()
            with asyncio.Runner(loop_factory=loop_factory(speed)) as runner:
                result = runner.run(burst.run(watching(console)))
            if as_json:
                json_line(figures(result))
            else:
                report(result, console)
                if directory:
                    for what in ("status --all", "why"):
                        name, *options = what.split()
                        line(" ".join(("look: eventwagon", name, order.name, *options, "-u", where)))
        if result.lost or result.stalled:
            raise Ended(Code.FAILED, f"the burst came to a stop; {result.lost} sign-ups are missing")


def _arrivals(trace: Path | None, events: int | None, seconds: float | None, seed: int) -> list[float]:
    if trace is None:
        return black_friday(events or _EVENTS, seconds or _SECONDS, seed=seed)
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
