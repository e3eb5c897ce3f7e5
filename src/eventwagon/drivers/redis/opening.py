"""From a URL to the drivers for Redis."""

from __future__ import annotations

from ...contracts.address import Address, Drivers
from .broker import RedisBroker
from .registry import RedisRegistry
from .server import Server


def open_redis(address: Address) -> Drivers:
    """See `open_drivers`. Raises UsageError."""
    server = Server.at_address(address)
    return Drivers(RedisBroker(server, clock=address.clock), RedisRegistry(server, clock=address.clock))
