"""Publishes with one framework, in its own virtualenv: `python -m benchmarks.peers.publish MODULE` with a plan on
stdin.

A plan is JSON: `numbers`, and for a burst `arrivals` (seconds from the beginning, one for each number). Without
arrivals 50 callers publish one event after the other, as fast as they can. What came of it is the last line of stdout.
A module has `sender()`, an async context manager with an async function, or `blocking_sender()`, a context manager with
one that is called in threads.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .common import CALLERS, Order, order

Outcome = dict[str, Any]
WARM = range(-CALLERS, 0)
"""Published first and not counted: connections are open then."""


def main() -> None:
    module = importlib.import_module(f"{__package__}.{sys.argv[1]}")
    plan = json.load(sys.stdin)
    outcome = asyncio.run(_async(module, plan)) if hasattr(module, "sender") else _blocking(module, plan)
    print(json.dumps(outcome))


async def _async(module: Any, plan: Any) -> Outcome:
    async with module.sender() as send:
        note = _Notes()

        async def one(number: int) -> None:
            try:
                await send(order(number))
            except Exception as e:  # noqa: BLE001 - each framework has its own; an event not accepted is a figure
                note.error(e)
            else:
                note.accepted.append(number)

        async def caller(numbers: list[int]) -> None:
            for number in numbers:
                await one(number)

        async def all_of(numbers: list[int]) -> None:
            await asyncio.gather(*(caller(numbers[first::CALLERS]) for first in range(CALLERS)))

        if plan.get("warm", True):
            await all_of(list(WARM))
        note.start()
        if arrivals := plan.get("arrivals"):
            async with asyncio.TaskGroup() as tasks:
                for number, at in zip(plan["numbers"], arrivals, strict=True):
                    await asyncio.sleep(note.until(at))
                    tasks.create_task(one(number))
        else:
            await all_of(plan["numbers"])
        return note.outcome()


def _blocking(module: Any, plan: Any) -> Outcome:
    with module.blocking_sender() as send, ThreadPoolExecutor(CALLERS) as pool:
        note = _Notes()

        def one(number: int) -> None:
            try:
                send(order(number))
            except Exception as e:  # noqa: BLE001 - as above
                note.error(e)
            else:
                note.accepted.append(number)

        def caller(numbers: list[int]) -> None:
            for number in numbers:
                one(number)

        def all_of(numbers: list[int]) -> None:
            list(pool.map(caller, [numbers[first::CALLERS] for first in range(CALLERS)]))

        if plan.get("warm", True):
            all_of(list(WARM))
        note.start()
        if arrivals := plan.get("arrivals"):
            for number, at in zip(plan["numbers"], arrivals, strict=True):
                time.sleep(note.until(at))
                pool.submit(one, number)
            pool.shutdown()
        else:
            all_of(plan["numbers"])
        return note.outcome()


class _Notes:
    """What was accepted and when the clock began."""

    def __init__(self) -> None:
        self.accepted: list[int] = []
        self.errors: list[str] = []
        self.lag = 0.0
        self._lock = threading.Lock()

    def start(self) -> None:
        self.accepted.clear()
        self.begin = time.time()

    def until(self, at: float) -> float:
        """Seconds until this arrival is due; how far behind the schedule the sender is, is kept."""
        left = self.begin + at - time.time()
        self.lag = max(self.lag, -left)
        return max(0.0, left)

    def error(self, e: Exception) -> None:
        with self._lock:
            self.errors.append(repr(e))

    def outcome(self) -> Outcome:
        return {
            "begin": self.begin,
            "seconds": time.time() - self.begin,
            "accepted": self.accepted,
            "lag": self.lag,
            "errors": len(self.errors),
            "error": next(iter(self.errors), None),
        }


Send = Callable[[Order], Awaitable[object]]

if __name__ == "__main__":
    main()
