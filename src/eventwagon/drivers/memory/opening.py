"""`memory://` is the caller's own; all callers in this process that name it share `memory://name`."""

from __future__ import annotations

from urllib.parse import unquote

from ...contracts.address import Address, Drivers
from .broker import MemoryBroker
from .registry import MemoryRegistry

_worlds: dict[str, Drivers] = {}
"""The named ones, as long as this process lives."""


def open_memory(address: Address) -> Drivers:
    """See `open_drivers`."""
    address.only()
    name = (unquote(address.host) + address.path).strip("/")
    made = _worlds.get(name) or Drivers(MemoryBroker(clock=address.clock), MemoryRegistry(clock=address.clock))
    return _worlds.setdefault(name, made) if name else made
