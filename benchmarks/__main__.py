"""`python -m benchmarks`: run them and say what came out."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sqlite3
import sys
import tempfile
from statistics import median
from typing import Any

import apsw
from rich.console import Console
from rich.table import Table

from .kit import Line, Run
from .listing import BENCHMARKS, Result, measure


def main() -> int:
    arguments = _parser().parse_args()
    how = Run(arguments.quick, arguments.dir)
    console, progress = Console(), Console(stderr=True)
    if not console.is_terminal:  # into a file or a pipe: as wide as the tables want to be
        console = Console(width=180)
    results = []
    for name in arguments.only or BENCHMARKS:
        with progress.status(f"{name}: {BENCHMARKS[name].question} …"):
            results.append(measure(name, how))
        if not arguments.json:
            _show(results[-1], console)
    if arguments.json:
        json.dump({"machine": _machine(), "benchmarks": [_plain(r) for r in results]}, sys.stdout, indent=1)
        print()
    else:
        _sum_up(results, console)
    return 1 if any(r.error for r in results) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="eventwagon against the bare tools. A missed aim is told; it is no error.",
    )
    parser.add_argument(
        "--only", action="append", choices=list(BENCHMARKS), help="this one; may be given several times"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer and shorter rounds: about two minutes, rougher figures"
    )
    parser.add_argument("--json", action="store_true", help="for machines, with the figures of every round")
    parser.add_argument(
        "--dir",
        default=tempfile.gettempdir(),
        help="where files are made (default %(default)s); on a disk in memory FULL costs nothing and means nothing",
    )
    return parser


def _show(result: Result, console: Console) -> None:
    console.print(f"[bold]{result.benchmark.name}[/] {result.benchmark.question} ({result.seconds:.0f} s)")
    if result.error:
        console.print(f"[red]failed: {result.error}[/]\n")
        return
    table = Table()
    table.add_column("ours")
    table.add_column("against")
    for heading in ("unit", "ours", "theirs", "ratio", "min … max", "aim", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in result.lines:
        table.add_row(line.what, line.against, *_figures(line))
    console.print(table)
    for line in result.lines:
        if line.note:
            console.print(f"  [dim]{line.what}: {line.note}[/]")
    console.print()


def _figures(line: Line) -> list[str]:
    ratios = line.ratios
    return [
        line.unit,
        _number(median(line.ours)),
        _number(median(line.theirs)),
        f"{median(ratios):.2f}×",
        f"{min(ratios):.2f} … {max(ratios):.2f}" if len(ratios) > 1 else "",
        str(line.aim or ""),
        {None: "", True: "[green]reached[/]", False: "[red]missed[/]"}[line.reached],
    ]


def _number(value: float) -> str:
    if value >= 1000:
        return f"{round(value, 2 - int(math.log10(value))):,.0f}"  # three digits are more than can be known
    return f"{value:.3g}"


def _sum_up(results: list[Result], console: Console) -> None:
    verdicts = [line.reached for r in results for line in r.lines]
    machine = _machine()
    console.print(
        f"{verdicts.count(True)} aims reached, {verdicts.count(False)} missed, in "
        f"{sum(r.seconds for r in results):.0f} s on {machine['cores']} cores; Python {machine['python']}, SQLite "
        f"{machine['sqlite_apsw']} (apsw) and {machine['sqlite_stdlib']} (sqlite3)",
        highlight=False,
    )


def _machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "sqlite_apsw": apsw.sqlite_lib_version(),
        "sqlite_stdlib": sqlite3.sqlite_version,
    }


def _plain(result: Result) -> dict[str, Any]:
    return {
        "name": result.benchmark.name,
        "question": result.benchmark.question,
        "seconds": round(result.seconds, 1),
        "error": result.error or None,
        "lines": [
            {
                "what": line.what,
                "against": line.against,
                "unit": line.unit,
                "ours": line.ours,
                "theirs": line.theirs,
                "ratio": {"min": min(line.ratios), "median": median(line.ratios), "max": max(line.ratios)},
                "aim": None if line.aim is None else str(line.aim),
                "aim_of": None if line.aim is None else line.aim.of,
                "reached": line.reached,
                "note": line.note or None,
            }
            for line in result.lines
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
