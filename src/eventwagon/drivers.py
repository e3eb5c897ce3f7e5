"""From a URL to the drivers that it names."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import NamedTuple, cast, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from .broker import Broker
from .errors import UsageError
from .registry import Registry

ENTRY_POINTS = "eventwagon.drivers"
"""The entry point group in which a package names its drivers: scheme = function(Address) -> Drivers."""


class Address(NamedTuple):
    """A URL, taken apart. `options` are its query, each given once."""

    url: str
    scheme: str
    host: str
    path: str
    options: dict[str, str]
    clock: Callable[[], float]

    def only(self, *known: str) -> dict[str, str]:
        """The options, or UsageError naming those that the driver does not know."""
        unknown = self.options.keys() - set(known)
        if unknown:
            raise UsageError(
                f"{self.url}: unknown option {', '.join(sorted(unknown))}; {self.scheme} knows {', '.join(known) or 'none'}"
            )
        return self.options


class Drivers(NamedTuple):
    """Where a train's events and its manifest are kept. Neither is entered yet."""

    broker: Broker
    registry: Registry


def _memory(address: Address) -> Drivers:
    from .brokers.memory import MemoryBroker
    from .registries.memory import MemoryRegistry

    address.only()
    return Drivers(MemoryBroker(clock=address.clock), MemoryRegistry(clock=address.clock))


def _sqlite(address: Address) -> Drivers:
    from ._sqlite.storage import Sync
    from .brokers.sqlite import SQLiteBroker
    from .registries.sqlite import SQLiteRegistry

    options = address.only("sync")
    sync = options.get("sync", "full")
    if sync not in get_args(Sync):
        raise UsageError(
            f"{address.url}: sync={sync!r}; give full (each event on disk) or normal (the disk's own time)"
        )
    directory = address.host + address.path if address.host else address.path.removeprefix("/")
    if address.host or not directory:
        raise UsageError(
            f"{address.url}: write sqlite:///relative/directory or sqlite:////absolute/directory (three or four slashes)"
        )
    return Drivers(
        SQLiteBroker(directory, sync=cast("Sync", sync), clock=address.clock),
        SQLiteRegistry(directory, clock=address.clock),
    )


_BUILT_IN: dict[str, Callable[[Address], Drivers]] = {"memory": _memory, "sqlite": _sqlite}


def open_drivers(url: str, *, clock: Callable[[], float] = time.time) -> Drivers:
    """The drivers that `url` names: `sqlite:///relative/dir`, `sqlite:////absolute/dir?sync=normal`, `memory://`.

    Further schemes come from packages with an entry point in the group `eventwagon.drivers`. Raises UsageError.
    """
    parts = urlsplit(url)
    address = Address(
        url,
        parts.scheme,
        parts.netloc,
        unquote(parts.path),
        dict(parse_qsl(parts.query, keep_blank_values=True)),
        clock,
    )
    if make := _BUILT_IN.get(parts.scheme):
        return make(address)
    others = {e.name: e for e in entry_points(group=ENTRY_POINTS)}
    if entry := others.get(parts.scheme):
        drivers = entry.load()(address)
        if not isinstance(drivers, Drivers):
            raise UsageError(f"{url}: {entry.value} did not return Drivers")
        return drivers
    known = ", ".join(f"{scheme}:" for scheme in sorted({*_BUILT_IN, *others}))
    raise UsageError(f"{url!r} names no known broker; there are {known} (say sqlite:///var/trains)")
