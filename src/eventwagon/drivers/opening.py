"""From a URL to the drivers that it names."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import NamedTuple, cast, get_args
from urllib.parse import parse_qsl, unquote, urlencode, urlunsplit

from ..contracts.broker import Broker, Named
from ..contracts.orchestrator import Orchestrator
from ..contracts.registry import Registry
from ..errors import UsageError
from ..settings import Settings
from ..values import split_url

ENTRY_POINTS = "eventwagon.drivers"
"""The entry point group in which a package names its drivers: scheme = function(Address) -> Drivers."""
ORCHESTRATORS = "eventwagon.orchestrators"
"""That for orchestrators: scheme = function(Address, Program) -> Orchestrator."""


class Address(NamedTuple):
    """A URL, taken apart. `options` are its query, each given once. `url` is whole but for the option `registry`."""

    url: str
    scheme: str
    host: str
    path: str
    options: dict[str, str]
    clock: Callable[[], float]
    registry: Registry | None = None
    """The one that the URL's option `registry` names: it takes the place of the driver's own."""

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


_worlds: dict[str, Drivers] = {}
"""What stands at `memory://name`, for as long as this process lives."""


def _memory(address: Address) -> Drivers:
    """`memory://` is a world of the caller's own; `memory://name` is one in this process, whoever names it."""
    from .memory.broker import MemoryBroker
    from .memory.registry import MemoryRegistry

    address.only()
    name = (unquote(address.host) + address.path).strip("/")
    made = _worlds.get(name) or Drivers(MemoryBroker(clock=address.clock), MemoryRegistry(clock=address.clock))
    return _worlds.setdefault(name, made) if name else made


def _sqlite(address: Address) -> Drivers:
    from .sqlite.broker import SQLiteBroker
    from .sqlite.registry import SQLiteRegistry
    from .sqlite.storage import Sync

    options = address.only("sync")
    sync = options.get("sync", "full")
    if sync not in get_args(Sync):
        raise UsageError(
            f"{address.url}: sync={sync!r}; give full (each event on disk) or normal (the disk's own time)"
        )
    directory = address.host + address.path if address.host else address.path.removeprefix("/")
    if not directory.isprintable():
        raise UsageError(f"sqlite: the directory {directory!a} holds what no name of a directory should")
    if directory.endswith(":memory:"):
        raise UsageError(f"{address.url}: what is to be in memory only is memory:// here")
    if address.host or not directory or not address.url.lower().startswith("sqlite://"):
        raise UsageError(
            f"{address.url}: write sqlite:///relative/directory or sqlite:////absolute/directory (three or four slashes)"
        )
    return Drivers(
        SQLiteBroker(directory, sync=cast("Sync", sync), clock=address.clock),
        SQLiteRegistry(directory, clock=address.clock),
    )


def _redis(address: Address) -> Drivers:
    from .redis.broker import RedisBroker
    from .redis.registry import RedisRegistry

    return Drivers(
        RedisBroker.from_url(address.url, clock=address.clock), RedisRegistry.from_url(address.url, clock=address.clock)
    )


def _kafka(address: Address) -> Drivers:
    from .kafka.broker import KafkaBroker
    from .kafka.registry import KafkaRegistry

    return Drivers(
        KafkaBroker.from_url(address.url, clock=address.clock), KafkaRegistry.from_url(address.url, clock=address.clock)
    )


def _pulsar(address: Address) -> Drivers:
    from .pulsar.broker import PulsarBroker

    broker = PulsarBroker.from_url(address.url, clock=address.clock)
    if address.registry is None:
        raise UsageError(f"{address.url}: Pulsar keeps no manifests; name a registry: &registry=redis://host:6379")
    return Drivers(broker, address.registry)


def _sqs(address: Address) -> Drivers:
    from .aws.broker import SQSBroker
    from .aws.registry import DynamoDBRegistry

    return Drivers(
        SQSBroker.from_url(address.url, clock=address.clock),
        DynamoDBRegistry.from_url(address.url, clock=address.clock),
    )


_REDIS = (
    *("redis", "rediss", "valkey", "valkeys"),
    *("redis+sentinel", "rediss+sentinel", "valkey+sentinel", "valkeys+sentinel"),
    *("redis+unix", "valkey+unix", "unix"),
)
_BUILT_IN: dict[str, Callable[[Address], Drivers]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    **dict.fromkeys(_REDIS, _redis),
    "kafka": _kafka,
    "pulsar": _pulsar,
    "pulsar+ssl": _pulsar,
    "sqs": _sqs,
}
_EXTRAS = {
    **dict.fromkeys(_REDIS, "redis"),
    "kafka": "kafka",
    "pulsar": "pulsar",
    "pulsar+ssl": "pulsar",
    "sqs": "aws",
}


def open_drivers(url: str, *, clock: Callable[[], float] = time.time) -> Drivers:
    """The drivers that `url` names: `sqlite:///relative/dir`, `sqlite:////absolute/dir?sync=normal`, `memory://` (the
    caller's own), `memory://name` (the same for all in this process that name it, in one event loop at a time),
    `redis://host:6379/0`, `redis+sentinel://host,host2/NAME`, `redis+unix:///path`, all three with `valkey` too,
    `kafka://host:9092,host2:9092`, `pulsar://host:6650/tenant/namespace?registry=URL`, `sqs://region/prefix`.

    Any of them takes `registry=URL` (with its own ? and & percent-encoded): the manifest is then kept there. Further
    schemes come from packages with an entry point in the group `eventwagon.drivers`. Raises UsageError.
    """
    parts = split_url(url)
    given = parse_qsl(parts.query, keep_blank_values=True)
    elsewhere = next((value for name, value in given if name == "registry"), None)
    if elsewhere is not None:  # a + in a query is a blank, which no scheme has: redis+sentinel://
        scheme, slashes, rest = elsewhere.partition("://")
        elsewhere = scheme.replace(" ", "+") + slashes + rest
    options = [(name, value) for name, value in given if name != "registry"]
    address = Address(
        url if elsewhere is None else urlunsplit(parts._replace(query=urlencode(options))),
        parts.scheme,
        parts.netloc,
        unquote(parts.path),
        dict(options),
        clock,
        None if elsewhere is None else open_drivers(elsewhere, clock=clock).registry,
    )
    try:
        drivers = _maker(url, parts.scheme)(address)
    except ModuleNotFoundError as e:
        raise _not_installed(parts.scheme, _EXTRAS.get(parts.scheme), e) from None
    if not isinstance(drivers, Drivers):
        raise UsageError(f"{url}: the driver of {parts.scheme}: did not return Drivers")
    return drivers if address.registry is None else drivers._replace(registry=address.registry)


class Program(NamedTuple):
    """What an orchestrator's workers run."""

    target: str
    """Its train: `module:attribute`, or `path/to/file.py:attribute`."""
    url: str
    """Where the train runs: its broker and registry."""
    settings: Settings


def _subprocess(address: Address, program: Program) -> Orchestrator:
    from ..orchestrators.processes.subprocess.orchestrator import Subprocess

    options = address.only("logs")
    return Subprocess(program.target, url=program.url, grace=program.settings.grace, logs=options.get("logs"))


def _command(address: Address, program: Program) -> Orchestrator:
    from ..orchestrators.processes.command.orchestrator import Command

    stores = open_drivers(program.url, clock=address.clock)
    return Command.from_url(
        address.url,
        broker_url=program.url,
        names=stores.broker.name_of if isinstance(stores.broker, Named) else None,
        registry=stores.registry,
        grace=program.settings.grace,
    )


def _kubernetes(address: Address, program: Program) -> Orchestrator:
    from ..orchestrators.kubernetes import Kubernetes

    options = address.only("secret", "template", "image", "per_pod", "context")
    per_pod = options.get("per_pod", "1")
    if not per_pod.isdigit():
        raise UsageError(f"{address.url}: per_pod={per_pod!r}; give a whole number of workers")
    return Kubernetes(
        program.target,
        registry=open_drivers(program.url, clock=address.clock).registry,
        secret=options.get("secret", ""),
        template=options.get("template"),
        image=options.get("image", ""),
        per_pod=int(per_pod),
        handler_timeout=program.settings.handler_timeout,
        namespace=address.host,
        context=options.get("context", ""),
    )


def _lambda(address: Address, program: Program) -> Orchestrator:
    from ..orchestrators.aws import LambdaMappings

    return LambdaMappings.from_url(address.url)


def _ecs(address: Address, program: Program) -> Orchestrator:
    from ..orchestrators.aws import ECSServices

    registry = open_drivers(program.url, clock=address.clock).registry
    return ECSServices.from_url(address.url, program.target, registry=registry)


_ORCHESTRATORS: dict[str, Callable[[Address, Program], Orchestrator]] = {
    "subprocess": _subprocess,
    "command": _command,
    "kubernetes": _kubernetes,
    "lambda": _lambda,
    "ecs": _ecs,
}
_ORCHESTRATORS_EXTRAS = {
    "subprocess": "processes",
    "command": "processes",
    "kubernetes": "kubernetes",
    "lambda": "aws",
    "ecs": "aws",
}


def open_orchestrator(url: str, program: Program, *, clock: Callable[[], float] = time.time) -> Orchestrator:
    """The orchestrator that `url` names, for the workers of `program`; not entered yet: `subprocess:`,
    `command:node consumer.js?ready=line:attached`, `kubernetes://namespace?secret=NAME&template=FILE`.

    Further schemes come from packages with an entry point in the group `eventwagon.orchestrators`. Raises UsageError.
    """
    parts = split_url(url if ":" in url else f"{url}:")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    address = Address(url, parts.scheme, parts.netloc, unquote(parts.path), options, clock)
    others = {e.name: e for e in entry_points(group=ORCHESTRATORS)}
    make = _ORCHESTRATORS.get(parts.scheme)
    if make is None and (entry := others.get(parts.scheme)):
        make = cast("Callable[[Address, Program], Orchestrator]", entry.load())
    if make is None:
        known = ", ".join(f"{one}:" for one in sorted({*_ORCHESTRATORS, *others}))
        raise UsageError(f"{url!r} names no known orchestrator; there are {known}")
    try:
        return make(address, program)
    except ModuleNotFoundError as e:
        raise _not_installed(parts.scheme, _ORCHESTRATORS_EXTRAS.get(parts.scheme), e) from None


def _not_installed(scheme: str, extra: str | None, error: ModuleNotFoundError) -> Exception:
    """What is to be raised: a driver's own package is missing, or something that is no matter of ours."""
    if extra is None or (error.name or "").startswith("eventwagon"):
        return error
    return UsageError(
        f"{scheme}: needs a package that is not installed ({error.name}): pip install 'eventwagon[{extra}]'"
    )


def _maker(url: str, scheme: str) -> Callable[[Address], Drivers]:
    if make := _BUILT_IN.get(scheme):
        return make
    others = {e.name: e for e in entry_points(group=ENTRY_POINTS)}
    if entry := others.get(scheme):
        return cast("Callable[[Address], Drivers]", entry.load())
    known = ", ".join(f"{one}:" for one in sorted({*_BUILT_IN, *others}))
    raise UsageError(f"{url!r} names no known broker; there are {known} (say sqlite:///var/trains)")
