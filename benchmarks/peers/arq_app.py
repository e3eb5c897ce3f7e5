# mypy: ignore-errors
"""arq. Worker: `arq ….WorkerSettings`."""

import asyncio
from contextlib import asynccontextmanager

from arq import create_pool
from arq.connections import RedisSettings

from .common import CONCURRENCY, REDELIVER, SLEEP, TUNED, URL, handled


async def handle(ctx, order):
    if SLEEP:
        await asyncio.sleep(SLEEP)
    handled(order["number"])


class WorkerSettings:
    functions = [handle]  # noqa: RUF012
    redis_settings = RedisSettings.from_dsn(URL)
    max_jobs = CONCURRENCY
    keep_result = 0  # nobody asks for results here
    if TUNED:
        poll_delay = 0.005  # default 0.5 s, and each poll starts `max_jobs` at most
        job_timeout = REDELIVER - 10  # a dead worker's job comes back 10 s after this; default 300 s


@asynccontextmanager
async def sender():
    pool = await create_pool(WorkerSettings.redis_settings)
    try:
        # the id is what says which jobs are left
        yield lambda order: pool.enqueue_job("handle", order, _job_id=f"customer {order['number']}")
    finally:
        await pool.aclose()
