"""Runs the demo several times in a row, each time with another seed and another size, and holds each run against the
lab's run of the same order. Not a test: it needs a quiet machine, and a minute for each run.

    python scripts/demo_runs.py              # twenty runs
    python scripts/demo_runs.py --runs 3 --first 7 --workers total
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys

import msgspec

from eventwagon.cli.demo import CUT
from eventwagon.lab.arrivals import black_friday
from eventwagon.lab.experiment import one
from eventwagon.lab.job import Job, figures

FIVE_POINTS = 0.05


class Size(msgspec.Struct, frozen=True):
    """As the default order: the standing workers are what the burst needs on average."""

    seed: int
    seconds: float
    each: int
    service: float
    slo: float

    @property
    def events(self) -> int:
        return round(2 * self.each * self.seconds / self.service)


def size(seed: int) -> Size:
    rng = random.Random(f"demo {seed}")
    each, slo = rng.choice((4, 6, 8, 10, 12)), rng.choice((5.0, 6.0, 8.0))
    return Size(seed, float(rng.randint(40, 70)), each, round(rng.uniform(0.4, 0.6), 2), slo)


def run(of: Size, workers: str) -> dict[str, object]:
    options = {
        "--events": of.events,
        "--seconds": of.seconds,
        "--service": of.service,
        "--slo": of.slo,
        "--seed": of.seed,
        "--workers": workers,
    }
    command = [sys.executable, "-m", "eventwagon", "demo", "--json", *(str(w) for o in options.items() for w in o)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ourselves
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    said: dict[str, object] = json.loads(done.stdout)
    return said


def in_lab(of: Size, *, shared: bool) -> tuple[float, float]:
    """On time in the lab: one queue, wagons."""
    job = Job(
        title="demo",
        arrivals=black_friday(of.events, of.seconds, seed=of.seed),
        services=[of.service] * of.events,
        workers=2 * of.each if shared else of.each,
        each=of.each,
        slo=of.slo,
        limit=f"Wait({of.slo!r}, cut={CUT})",
        floor=1,
        start=0.0,
        most=32 * of.each,
    )
    names = ("fifo", "wagons") if shared else ("fifo_standing", "wagons_each")
    queue, wagons = (figures(job, one(job, name)).on_time for name in names)
    return queue, wagons


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, help="The first seed.")
    parser.add_argument("--workers", choices=("each", "total"), default="each")
    given = parser.parse_args()
    shared = given.workers == "total"
    heads = "seed events s each service promise | queue lab | wagons lab | p99 queue wagons | cost ratio | wagons"
    print(f"{heads} | loop late, load", flush=True)
    kept = told = near = 0
    for seed in range(given.first, given.first + given.runs):
        of = size(seed)
        said = run(of, f"total={2 * of.each}" if shared else f"each={of.each}")
        queue, wagons, machine = (msgspec.convert(said[k], dict) for k in ("one_queue", "wagons", "machine"))
        lab_queue, lab_wagons = in_lab(of, shared=shared)
        bottleneck = machine["bottleneck"]
        kept += wagons["on_time"] > queue["on_time"]
        told += bottleneck is not None
        close = all(
            abs(a - b) <= FIVE_POINTS for a, b in ((queue["on_time"], lab_queue), (wagons["on_time"], lab_wagons))
        )
        near += close
        print(
            f"{seed:>4} {of.events:>6,} {of.seconds:g} {of.each} {of.service:.3f} {of.slo:g} | "
            f"{queue['on_time']:.3f} {lab_queue:.3f} | {wagons['on_time']:.3f} {lab_wagons:.3f} | "
            f"{queue['p99_s']:.1f} {wagons['p99_s']:.1f} | "
            f"{wagons['worker_seconds'] / queue['worker_seconds']:.2f} | {len(wagons['train'])} | "
            f"{machine['late_p99_s']:.3f} {os.getloadavg()[0]:.0f}"
            + ("" if close else " FAR FROM THE LAB")
            + (f" ({bottleneck})" if bottleneck else ""),
            flush=True,
        )
    print(f"wagons ahead in {kept} of {given.runs}; within five points of the lab in {near}; bottleneck told in {told}")


if __name__ == "__main__":
    main()
