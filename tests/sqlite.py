"""Channels on SQLite, and events for them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from eventwagon.drivers.sqlite import SQLiteBroker
from eventwagon.event import Channel, Event, new_ids

INGRESS = Channel("signups", 1)
INNER = Channel("signups", 1, "welcome")
DEAD = Channel("signups", 0, "dead")


def events(count: int) -> list[Event]:
    now = time.time()
    return [Event(id=i, type="t", source="s", time=now, data=b"x" * 100) for i in new_ids(count, now)]


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def broker_with(directory: Path, *channels: Channel, **options: Any) -> AsyncIterator[SQLiteBroker]:
    async with SQLiteBroker(directory, **options) as broker:
        for channel in channels:
            await broker.create(channel)
        yield broker
