"""What every framework's program here shares. The standard library only: it runs in each one's own virtualenv.

What a program is told comes by environment: PEER_URL (the Redis), PEER_LOG (where handled events are noted), PEER_SLEEP
(seconds that the handler takes), PEER_TUNED ("1": tuned, else the framework's defaults).
"""

from __future__ import annotations

import os
import time
from typing import TypedDict


class Order(TypedDict):
    """About 200 bytes as JSON."""

    number: int
    name: str
    address: str


URL = os.environ.get("PEER_URL", "redis://127.0.0.1:6379/0")
SLEEP = float(os.environ.get("PEER_SLEEP", "0"))
TUNED = os.environ.get("PEER_TUNED", "1") == "1"
CONCURRENCY = 8
CALLERS = 50
REDELIVER = 20
"""Seconds after which a tuned framework gives a dead worker's events to another: the same for all."""

_log = os.open(os.environ.get("PEER_LOG", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def order(number: int) -> Order:
    """The event of that number."""
    return {"number": number, "name": f"customer {number}", "address": "x" * 150}


def handled(number: int) -> None:
    """Note that the handler is done with this event: one write, whole even from several processes."""
    os.write(_log, b"%d %.6f\n" % (number, time.time()))
