"""From `sqlite:///relative/directory?sync=normal` to its drivers."""

from __future__ import annotations

from typing import cast, get_args

from ...contracts.address import Address, Drivers
from .broker import SQLiteBroker
from .registry import SQLiteRegistry
from .storage import Sync


def open_sqlite(address: Address) -> Drivers:
    """See `open_drivers`. Raises UsageError."""
    address.only("sync")
    sync = cast("Sync", address.choice("sync", "full", get_args(Sync)))
    directory = address.host + address.path if address.host else address.path.removeprefix("/")
    if not directory.isprintable():
        raise address.wrong(f"the directory {directory!a} holds what no name of a directory should")
    if directory.endswith(":memory:"):
        raise address.wrong("for events in memory only, write memory://")
    if address.host or not directory or not address.url.lower().startswith("sqlite://"):
        raise address.wrong(
            "write sqlite:///relative/directory or sqlite:////absolute/directory (three or four slashes)"
        )
    return Drivers(
        SQLiteBroker(directory, sync=sync, clock=address.clock), SQLiteRegistry(directory, clock=address.clock)
    )
