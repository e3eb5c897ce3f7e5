# mypy: ignore-errors
"""Taskiq on Redis streams, the broker that its manual recommends where tasks must not get lost.

Worker: `taskiq worker …:broker --workers 1 --max-async-tasks 8`.
"""

import asyncio
from contextlib import asynccontextmanager

from taskiq_redis import RedisStreamBroker

from .common import REDELIVER, SLEEP, TUNED, URL, handled

# default: ten minutes, and a lock that a killed worker may leave for ever
tuned = {"idle_timeout": REDELIVER * 1000, "unacknowledged_lock_timeout": 10.0} if TUNED else {}
broker = RedisStreamBroker(URL, **tuned)


@broker.task(task_name="handle")
async def handle(order: dict) -> None:
    if SLEEP:
        await asyncio.sleep(SLEEP)
    handled(order["number"])


@asynccontextmanager
async def sender():
    await broker.startup()
    try:
        yield handle.kiq
    finally:
        await broker.shutdown()
