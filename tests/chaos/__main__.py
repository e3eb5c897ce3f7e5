"""`python -m tests.chaos`: a long run, by a plan's number."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from .run import Chaos, ChaosFailed

URL = "EVENTWAGON_CHAOS_URL"
"""A train of its own is made there: not the URL of a train in use."""


def main() -> int:
    """0 when nothing was lost or left over."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--switches", type=int, default=200, help="how many at least (default 200)")
    parser.add_argument("--plan", type=int, default=None, help="the plan's number (default: a new one)")
    parser.add_argument("--volume", type=int, default=80, help="events in a wagon (default 80)")
    parser.add_argument(
        "--workers", choices=("subprocess", "work"), default="subprocess", help="a process per wagon, or shared ones"
    )
    parser.add_argument(
        "--url",
        default=os.environ.get(URL),
        help=f"broker and registry (default: {URL} of the environment, or SQLite in the directory)",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=60.0,
        help="seconds without a switch that count as a hang: more on a busy machine",
    )
    parser.add_argument("--directory", default=None, help="where (default: a temporary directory; kept on failure)")
    given = parser.parse_args()
    plan = given.plan if given.plan is not None else random.randrange(1_000_000)
    directory = Path(given.directory or tempfile.mkdtemp(prefix="eventwagon-chaos-"))
    print(f"plan {plan} in {directory}", flush=True)
    chaos = Chaos(
        directory,
        url=given.url,
        switches=given.switches,
        plan=plan,
        isolated=given.workers == "subprocess",
        volume=given.volume,
        patience=given.patience,
    )
    try:
        verdict = asyncio.run(chaos.run(say=lambda line: print(line, flush=True)))
    except ChaosFailed as failure:
        print(f"FAILED, kept in {directory}\n{failure}", file=sys.stderr)
        return 1
    print(verdict)
    if not verdict.good:
        print(f"FAILED, kept in {directory}", file=sys.stderr)
        return 1
    if given.directory is None:
        shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
