"""A train one of whose events kills the process that handles it."""

from __future__ import annotations

import os
import signal

from eventwagon import Train, Volume, Workers

killers = Train("killers", limit=Volume(50), workers=Workers(each=2), grace=5.0)


@killers.on("killers")
def handle(what: str) -> None:
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
