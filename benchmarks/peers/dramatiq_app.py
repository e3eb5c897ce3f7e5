# mypy: ignore-errors
"""Dramatiq. Worker: `dramatiq … --processes 1 --threads 8`."""

import time
from contextlib import contextmanager

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from .common import REDELIVER, SLEEP, TUNED, URL, handled

# A dead worker's messages are found by a maintenance that each command starts by chance: with the default, one in a
# thousand, a quiet queue waits for many minutes.
tuned = {"heartbeat_timeout": REDELIVER * 1000, "maintenance_chance": 50_000} if TUNED else {}
broker = RedisBroker(url=URL, **tuned)
dramatiq.set_broker(broker)


@dramatiq.actor
def handle(order):
    if SLEEP:
        time.sleep(SLEEP)
    handled(order["number"])


@contextmanager
def blocking_sender():
    yield handle.send
