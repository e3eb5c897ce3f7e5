"""From a URL to the drivers for Redis."""

from __future__ import annotations

from ...contracts.address import Address, Drivers
from .broker import RedisBroker
from .registry import RedisRegistry


def open_redis(address: Address) -> Drivers:
    """See `open_drivers`. Raises UsageError."""
    return Drivers(
        RedisBroker.from_url(address.url, clock=address.clock), RedisRegistry.from_url(address.url, clock=address.clock)
    )
