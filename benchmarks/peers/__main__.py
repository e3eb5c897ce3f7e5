"""`python -m benchmarks.peers`: run them and say what came out."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from ..places import place
from .frameworks import PEERS, VARIANTS, Installed, NotInstalled, installed, ours
from .measures import BURST, LOSSES, Burst, Losses, Steady, burst, losses, steady
from .processes import Trouble, end_all

_MEASURES = ("steady", "burst", "losses")


class Figures(msgspec.Struct, kw_only=True):
    """What was measured of one framework. None: not asked for, or it failed (`errors`)."""

    name: str
    version: str
    how: str
    steady: Steady | None = None
    burst: Burst | None = None
    losses_tuned: Losses | None = None
    losses_defaults: Losses | None = None
    errors: list[str] = []
    load: list[float] = []
    """The machine's load average over a minute, before each measurement."""


def main() -> int:
    arguments = _parser().parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end_all)
    console, progress = Console(), Console(stderr=True)
    participants = _participants(arguments.only, arguments.server, progress)
    results = [_measured(at, arguments, progress) for at in participants]
    if arguments.json:
        json.dump({"machine": _machine(), "frameworks": msgspec.to_builtins(results)}, sys.stdout, indent=1)
        print()
    else:
        _show(results, arguments.quick, console)
    return 1 if any(r.errors for r in results) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description="eventwagon and other frameworks: the same work on the same server, one worker, eight at a time.",
    )
    parser.add_argument("--server", choices=("Redis", "Kafka"), default="Redis", help="on which (default %(default)s)")
    parser.add_argument("--only", action="append", choices=list(PEERS), help="this one; may be given several times")
    parser.add_argument(
        "--measure", action="append", choices=_MEASURES, help="this measurement; may be given several times"
    )
    parser.add_argument("--quick", action="store_true", help="3,000 events for 10,000, and losses when tuned only")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--dir", default=tempfile.gettempdir(), help="where files are made (default %(default)s)")
    return parser


def _participants(only: Sequence[str] | None, server: str, progress: Console) -> list[Installed]:
    found = [ours(), *map(ours, VARIANTS)]
    for name in only or [name for name, framework in PEERS.items() if framework.server == server]:
        with progress.status(f"{name}: its virtualenv …"):
            try:
                found.append(installed(PEERS[name]))
            except NotInstalled as e:
                progress.print(f"left out: {e}", markup=False)
    return found


def _measured(at: Installed, arguments: argparse.Namespace, progress: Console) -> Figures:
    figures = Figures(name=at.framework.name, version=at.version, how=at.framework.how, errors=[], load=[])
    wanted = set(arguments.measure or _MEASURES)
    if at.framework in VARIANTS:
        wanted &= {"burst"}
    if arguments.server == "Kafka":
        wanted -= {"losses"}  # what is left in a Kafka topic says nothing of what was handled
    count = 3_000 if arguments.quick else 10_000
    work: dict[str, Callable[[str, Path], Any]] = {}
    if "steady" in wanted:
        work["steady"] = partial(steady, at, count=count)
    if "burst" in wanted:
        work["burst"] = partial(burst, at)
    if "losses" in wanted:
        work["losses_tuned"] = partial(losses, at, tuned=True)
        if not arguments.quick:
            work["losses_defaults"] = partial(losses, at, tuned=False)
    for name, measure in work.items():
        figures.load.append(round(os.getloadavg()[0], 1))
        began = time.monotonic()
        with progress.status(f"{at.framework.name} {at.version}: {name} …"):
            try:
                setattr(figures, name, asyncio.run(_on(arguments.server, measure, arguments.dir)))
            except Trouble as e:
                figures.errors.append(f"{name}: {e}")
                progress.print(f"failed: {e}", markup=False)
        progress.print(f"{at.framework.name}: {name}, {time.monotonic() - began:.0f} s", highlight=False)
    return figures


async def _on(server: str, measure: Callable[[str, Path], Any], base: str) -> Any:
    """On a server of its own, empty."""
    with tempfile.TemporaryDirectory(prefix="eventwagon-peers-", dir=base) as name:
        async with place(server, Path(name)) as url:
            if url is None:
                raise Trouble(f"no {server} to measure on: make servers")
            return await asyncio.to_thread(measure, url, Path(name))


def _show(results: Sequence[Figures], quick: bool, console: Console) -> None:
    machine = _machine()
    loads = [load for r in results for load in r.load] or [0.0]
    console.print(
        f"{machine['date']}, {machine['cores']} cores, Python {machine['python']}; load before each measurement "
        f"{min(loads):g} to {max(loads):g}",
        highlight=False,
    )
    for result in results:
        console.print(f"  [bold]{result.name}[/] {result.version}: {result.how}", highlight=False)
    _steady(results, 3_000 if quick else 10_000, console)
    _burst(results, console)
    _losses(results, console)
    console.print("(…×): eventwagon ÷ that one. Rates: more is better; seconds: less is better.", highlight=False)


def _steady(results: Sequence[Figures], count: int, console: Console) -> None:
    table = _table(f"{count:,} events, an empty handler: events/s", "published, 50 callers", "worked off", "end to end")
    base = results[0].steady
    for r in results:
        if r.steady:
            rows = [
                (r.steady.published, base.published if base else None),
                (r.steady.worked_off, base.worked_off if base else None),
                (r.steady.end_to_end, base.end_to_end if base else None),
            ]
            table.add_row(r.name, *(_against(value, mine, r.name, ",.0f") for value, mine in rows))
    _print(table, console)


def _burst(results: Sequence[Figures], console: Console) -> None:
    newcomers = next((r.burst.newcomers for r in results if r.burst), 0)
    table = _table(
        f"{BURST:,} events in 12 s, 0.08 s each, promise 2 s; {newcomers:,} newcomers (late in one FIFO queue)",
        "at once",
        "on time",
        "newcomers p50, s",
        "newcomers p99, s",
        "others p99, s",
        "mean, s",
        "worst, s",
        "lost",
    )
    base = results[0].burst
    for r in results:
        if b := r.burst:
            table.add_row(
                r.name,
                str(b.at_once),
                _against(100 * b.on_time, 100 * base.on_time if base else None, r.name, ".1f", "%"),
                f"{b.newcomers_p50:.2f}",
                _against(b.newcomers_p99, base.newcomers_p99 if base else None, r.name, ".2f"),
                f"{b.old_p99:.2f}",
                _against(b.mean, base.mean if base else None, r.name, ".2f"),
                f"{b.worst:.2f}",
                str(b.lost),
            )
    _print(table, console)


def _losses(results: Sequence[Figures], console: Console) -> None:
    table = _table(
        f"{LOSSES} events, the worker killed (SIGKILL) in the middle and started again",
        "lost",
        "not within 60 s",
        "twice",
        "all after, s",
        "defaults: lost",
        "not within 60 s",
        "twice",
        "all after, s",
    )
    for r in results:
        if r.losses_tuned or r.losses_defaults:
            table.add_row(r.name, *_lost(r.losses_tuned), *_lost(r.losses_defaults))
    _print(table, console)


def _lost(losses: Losses | None) -> tuple[str, ...]:
    if losses is None:
        return ("", "", "", "")
    after = "" if losses.seconds is None else f"{losses.seconds:.1f}"
    return (str(losses.lost), str(losses.later), str(losses.twice), after)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _print(table: Table, console: Console) -> None:
    if table.row_count:
        console.print(table)


def _against(value: float, mine: float | None, name: str, form: str, unit: str = "") -> str:
    """The value, and in brackets ours ÷ theirs."""
    ratio = f" ({mine / value:.2f}×)" if mine and value and not name.startswith("eventwagon") else ""
    return f"{value:{form}}{unit}{ratio}"


def _machine() -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "load": os.getloadavg(),
    }


if __name__ == "__main__":
    sys.exit(main())
