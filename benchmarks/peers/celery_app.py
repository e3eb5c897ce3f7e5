# mypy: ignore-errors
"""Celery. Worker: `celery -A … worker --concurrency 8`: one worker, its default pool of processes."""

import time
from contextlib import contextmanager

from celery import Celery

from .common import CALLERS, CONCURRENCY, REDELIVER, SLEEP, TUNED, URL, handled

app = Celery("peers", broker=URL)
app.conf.worker_concurrency = CONCURRENCY
app.conf.task_ignore_result = True  # nobody asks for results here
app.conf.broker_connection_retry_on_startup = True
app.conf.broker_pool_limit = CALLERS  # a connection for each caller, as the others have
if TUNED:
    # what the manual says for tasks that must survive their worker
    app.conf.task_acks_late = True
    app.conf.task_reject_on_worker_lost = True
    app.conf.broker_transport_options = {"visibility_timeout": REDELIVER}  # default: one hour
    if SLEEP:
        app.conf.worker_prefetch_multiplier = 1  # the manual's advice for long tasks; 4 serves short ones better


@app.task(name="handle")
def handle(order):
    if SLEEP:
        time.sleep(SLEEP)
    handled(order["number"])


@contextmanager
def blocking_sender():
    yield handle.delay
