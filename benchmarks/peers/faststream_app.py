# mypy: ignore-errors
"""FastStream on Redis streams with a consumer group. Worker: `faststream run …:app`."""

import asyncio
from contextlib import asynccontextmanager

from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub

from .common import CONCURRENCY, REDELIVER, SLEEP, TUNED, URL, handled

broker = RedisBroker(URL)
app = FastStream(broker)


async def handle(order: dict) -> None:
    if SLEEP:
        await asyncio.sleep(SLEEP)
    handled(order["number"])


read = StreamSub("peers", group="peers", consumer="worker", max_records=2 * CONCURRENCY)
broker.subscriber(stream=read, max_workers=CONCURRENCY)(handle)
if TUNED:
    # The manual's way to what a dead consumer left: a second subscriber that claims (Redis below 8.4). Without it
    # nobody comes back for that.
    left = StreamSub("peers", group="peers", consumer="claimer", min_idle_time=REDELIVER * 1000, polling_interval=1000)
    broker.subscriber(stream=left)(handle)


@asynccontextmanager
async def sender():
    await broker.connect()
    try:
        yield lambda order: broker.publish(order, stream="peers")
    finally:
        await broker.stop()
