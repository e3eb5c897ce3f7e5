"""Trains one of whose events kills the process that handles it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from eventwagon import BatchContext, Train, Volume, Workers

KILLS = 7

killers = Train("killers", limit=Volume(50), workers=Workers(each=2), grace=5.0)


@killers.on("killers")
def handle(what: str) -> None:
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


batches = Train("batches", limit=Volume(50), workers=Workers(each=1), attempts=3, visibility=2.0, grace=5.0)


@batches.on("batches", batch=10, within=0.3)
def handle_all(some: list[int], ctx: BatchContext) -> None:
    with (Path(os.environ["CALLS"]) / "calls").open("a") as file:
        file.write(f"{ctx.attempt} {' '.join(map(str, some))}\n")
    if KILLS in some:
        os.kill(os.getpid(), signal.SIGKILL)
