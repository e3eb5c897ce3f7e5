"""From a URL to the drivers or the orchestrator that it names. It knows none of them: all are found by entry points."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from typing import Any, NamedTuple, cast
from urllib.parse import urlencode

from ..contracts.address import Address, Drivers, options_of
from ..contracts.broker import Broker
from ..contracts.ledger import Ledger, ledger_of
from ..contracts.orchestrator import Orchestrator
from ..contracts.registry import Registry
from ..descriptors import needed, open_one
from ..display.redaction import shown
from ..display.text import said
from ..errors import UsageError
from ..settings import Settings
from ..values import class_name, must_be, split_url

__all__ = [
    "ENTRY_POINTS",
    "ORCHESTRATORS",
    "Address",
    "Drivers",
    "Program",
    "call_entry",
    "find_entry",
    "open_drivers",
    "open_ledger",
    "open_orchestrator",
    "origin",
]

ENTRY_POINTS = "eventwagon.drivers"
"""The entry point group in which a package names its drivers: scheme = function(Address) -> Drivers."""
ORCHESTRATORS = "eventwagon.orchestrators"
"""The same for orchestrators: scheme = function(Address, Program) -> Orchestrator."""


def open_drivers(url: str, *, clock: Callable[[], float] = time.time) -> Drivers:
    """The drivers that `url` names: `sqlite:///relative/dir`, `sqlite:////absolute/dir?sync=normal`, `memory://` (the
    caller's own), `memory://name` (shared by all in this process that name it, in one event loop at a time),
    `redis://host:6379/0`, `redis+sentinel://host,host2/NAME`, `redis+unix:///path`, these three also with `valkey`,
    `kafka://host:9092,host2:9092`, `pulsar://host:6650/tenant/namespace?registry=URL`, `sqs://region/prefix`.

    Each of them takes `registry=URL` (with its own ? and & percent-encoded): the manifest is then kept there. Other
    packages add schemes by an entry point in the group `eventwagon.drivers`. Raises UsageError, and Unavailable if this
    process may open no more files.
    """
    parts = split_url(url)
    given = options_of(url)
    registry_url = given.pop("registry", None)
    if registry_url == "":
        raise Address.of(url).wrong("option registry is empty: give it a URL, or leave it out")
    if registry_url is None:
        address = Address.of(url, clock=clock)
    else:
        # a + is read as a space, which no scheme contains: redis+sentinel://
        scheme, slashes, rest = registry_url.partition("://")
        registry_url = scheme.replace(" ", "+") + slashes + rest
        query = urlencode(given)
        registry = open_drivers(registry_url, clock=clock).registry
        # urlunsplit would remove slashes after a scheme that it does not know
        address = Address.of(url.partition("?")[0] + ("?" + query if query else ""), clock=clock, registry=registry)
    with needed(f"{parts.scheme}: its drivers can't be found"):  # by files of their packages
        entry = find_entry(ENTRY_POINTS, "broker", url, parts.scheme, " (say sqlite:///var/trains)")
        drivers = call_entry(entry, address)
        made_by = origin(entry)
    if not isinstance(drivers, Drivers):
        raise UsageError(f"{entry.name}: {made_by} returns {class_name(drivers)}, not Drivers(broker, registry)")
    for part, contract in ((drivers.broker, Broker), (drivers.registry, Registry)):
        must_be(contract, part, f"{entry.name}: {made_by} returns Drivers whose {contract.__name__.lower()}")
    return drivers if address.registry is None else drivers._replace(registry=address.registry)


def open_ledger(url: str, *, clock: Callable[[], float] = time.time) -> Ledger:
    """The ledger that `url` names: `sqlite:///relative/dir` or `sqlite:////absolute/dir`. Raises UsageError."""
    try:
        ledger = ledger_of(open_drivers(url, clock=clock).broker)
    except UsageError as e:
        raise UsageError(f"ledger: {e}") from None
    if ledger is None:
        raise UsageError(
            f"ledger={shown(url)!r}: no records of wagons can be kept there; give a local directory, as in "
            "ledger='sqlite:///var/ledger'"
        )
    return ledger


class Program(NamedTuple):
    """What an orchestrator's workers run."""

    target: str
    """Its train: `module:attribute`, or `path/to/file.py:attribute`."""
    url: str
    """Where the train runs: its broker and registry."""
    settings: Settings


def open_orchestrator(url: str, program: Program, *, clock: Callable[[], float] = time.time) -> Orchestrator:
    """The orchestrator that `url` names, for the workers of `program`; not entered yet: `subprocess:`, `command:node
    consumer.js?ready=line:attached`, `kubernetes://namespace?secret=NAME&template=FILE`.

    Other packages add schemes by an entry point in the group `eventwagon.orchestrators`. Raises UsageError.
    """
    address = Address.of(url if ":" in url else f"{url}:", clock=clock)
    with needed(f"{address.scheme}: its orchestrator can't be found"):
        entry = find_entry(ORCHESTRATORS, "orchestrator", url, address.scheme)
        made = call_entry(entry, address, program)
        must_be(Orchestrator, made, f"{entry.name}: what {origin(entry)} returns")
    return cast("Orchestrator", made)


def find_entry(group: str, what: str, url: str, scheme: str, hint: str = "") -> EntryPoint:
    """The entry point of this scheme. Built-in ones come first: no other package can replace them."""
    built_in = _built_in(group)
    if scheme in built_in:
        return built_in[scheme]
    others = [entry for entry in entry_points(group=group) if entry.name not in built_in]
    found = [entry for entry in others if entry.name.lower() == scheme]
    if len({entry.value for entry in found}) > 1:
        packages = " and ".join(sorted(entry.dist.name if entry.dist else entry.value for entry in found))
        raise UsageError(f"{scheme}: is the {what} of {packages}; uninstall all but one of them")
    if found:
        return found[0]
    if not built_in:
        raise UsageError(
            f"{scheme}: the {what}s of eventwagon itself are not known to this Python, because eventwagon was not "
            "installed, or an older one: pip install eventwagon, or in a checkout pip install --editable ."
        )
    known = ", ".join(f"{one}:" for one in sorted({*built_in, *(entry.name for entry in others)}))
    raise UsageError(f"{shown(url)!r} names no known {what}; there are {known}{hint}")


@cache
def _built_in(group: str) -> Mapping[str, EntryPoint]:
    """The entry points of this package alone. Reading its metadata takes a few ms; reading that of all packages takes
    much longer. Raises OSError."""
    open_one()  # importlib takes a file that it can't open for a missing one, and remembers that
    try:
        own = distribution("eventwagon").entry_points
    except PackageNotFoundError:
        return {}
    return {entry.name: entry for entry in own.select(group=group)}


def call_entry(entry: EntryPoint, *args: object) -> Any:
    """Call the entry point's function and return its result. Raises UsageError for an extra that is not installed, and
    for everything that the code of another package raises."""
    try:
        return entry.load()(*args)
    except UsageError:
        raise
    except (Exception, SystemExit) as e:
        if (
            isinstance(e, ModuleNotFoundError)
            and not (e.name or "").startswith("eventwagon")
            and (extra := _extra(entry))
        ):
            raise UsageError(
                f"{entry.name}: needs a package that is not installed ({e.name}): pip install '{extra}'"
            ) from None
        if _is_ours(entry):
            raise
        raise UsageError(f"{entry.name}: {origin(entry)} fails: {said(e)}; ask those who wrote it") from e


def _is_ours(entry: EntryPoint) -> bool:
    return entry.dist is not None and entry.dist.name == "eventwagon"


def origin(entry: EntryPoint) -> str:
    """The package that the function comes from."""
    return f"{entry.value} of the package {entry.dist.name if entry.dist else 'that holds it'}"


def _extra(entry: EntryPoint) -> str:
    """What to install for it, as `package[extra]`: an extra has the name of the folder or module that needs it. Empty
    if there is no such extra."""
    if entry.dist is None:
        return ""
    extras = entry.dist.metadata.get_all("Provides-Extra") or []
    found = next((part for part in reversed(entry.module.split(".")) if part in extras), None)
    return f"{entry.dist.name}[{found}]" if found else ""
