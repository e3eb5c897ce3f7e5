"""Calls of brokers and registries that wait no longer than a publisher would."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..errors import Unavailable

T = TypeVar("T")


async def in_time(call: Callable[[], Awaitable[T]], seconds: float, step: str) -> T:
    """What the call returns. Raises Unavailable if that takes longer than `seconds`, so that it is told and tried again
    like any other outage; `step` says what was done."""
    try:
        async with asyncio.timeout(seconds):
            return await call()
    except TimeoutError:
        raise Unavailable(f"{step}: no answer within {seconds:g} s") from None
