"""`gateway`: publishes what comes over HTTP, and gives events to consumers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..connection import Connection, check_runnable
from ..contracts.facts import Listener, log
from ..contracts.metering import Meter
from ..errors import UsageError
from ..hosts import named_by
from ..metrics.serving import LOOPBACK
from ..tracing.exporting import exporting
from ..train import Train
from ..values import is_loopback
from .console import DEFAULT_URL, Url, ending, line, say
from .http import first_end, listen, server, serving
from .scraped import MetricsHost, OwnMetricsPort, Scraped
from .serve import LogLevel, asked_to_end, level_of, set_up_logging
from .target import load_train, reached

if TYPE_CHECKING:
    from ..gateway.keys import Key

_logger = logging.getLogger("eventwagon.gateway")
_CONNECTIONS = 10_000
"""Fewer where this process may not open so many files."""
_GRACE = 10
"""Seconds that open requests have at the end."""
_LOOK = 2.0
"""Seconds between two looks whether the file of keys has changed."""


def gateway(
    target: Annotated[
        list[str],
        typer.Argument(
            metavar="TRAIN…", help="The trains that may be published to: names, or programs (module:attribute)."
        ),
    ],
    url: Url = DEFAULT_URL,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, metavar="PORT", help="Port to listen on; 0: any free one.")
    ] = 8080,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Address to listen on. Any other than a loopback address needs --keys. Default: 127.0.0.1, which only "
            "this machine can reach.",
        ),
    ] = LOOPBACK,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="Without --keys: a name under which it may be asked, besides localhost and loopback addresses, as by "
            "a proxy that passes names on. May be given several times; '*': any.",
        ),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file of the keys that may publish, as --new-key prints them. It is read again "
            "when it changes. Default: everybody may publish.",
        ),
    ] = None,
    new_key: Annotated[
        str,
        typer.Option(
            "--new-key",
            metavar="NAME",
            help="Make a key for these trains (with --work, one that may work), print it and its lines for --keys, and "
            "end.",
        ),
    ] = "",
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate chain in PEM, to serve HTTPS.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its private key in PEM.")] = None,
    work: Annotated[
        bool,
        typer.Option(
            "--work",
            help="Work for the trains, which must be programs: give their events to consumers over HTTP, in place "
            "of their handlers. Keys need `work = true`.",
        ),
    ] = False,
    wagon: Annotated[
        int | None,
        typer.Option(
            "--wagon",
            min=1,
            metavar="NUMBER",
            help="With --work: only for the wagon that is served by the unit with this number; end once no wagon is.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            metavar="NUMBER",
            help="With --wagon: the number of workers, which is the most deliveries that are out at a time.",
        ),
    ] = None,
    most_body: Annotated[
        int, typer.Option("--max-body", min=1024, metavar="BYTES", help="The largest body that is taken.")
    ] = 4_194_304,
    most_events: Annotated[
        int, typer.Option("--max-events", min=1, metavar="NUMBER", help="The most events of a batch.")
    ] = 1000,
    metrics_port: OwnMetricsPort = None,
    metrics_host: MetricsHost = LOOPBACK,
    log_level: LogLevel = None,
) -> None:
    """Publish CloudEvents that come over HTTP: POST /trains/TRAIN/events.

    It answers 202 once the events are stored, and describes itself at /openapi.json. SIGTERM lets open requests finish.
    With --work programs in any language handle the events: POST /trains/TRAIN/receive and /settle.
    """
    with ending():
        if new_key:
            _print_key(new_key, target, work=work)
            return
        asyncio.run(
            _serve(
                target,
                url,
                port,
                host,
                allow_host or [],
                keys,
                (tls_cert, tls_key),
                (most_body, most_events),
                _work(wagon, workers, work=work),
                Scraped(metrics_port, metrics_host),
                level_of(log_level),
            )
        )


@dataclass(frozen=True)
class _Work:
    """How the process works for the trains."""

    wagon: int | None
    workers: int | None


def _work(wagon: int | None, workers: int | None, *, work: bool) -> _Work | None:
    if work:
        return _Work(wagon, workers)
    if wagon is not None or workers is not None:
        raise UsageError("--wagon and --workers go with --work")
    return None


def _print_key(name: str, targets: list[str], *, work: bool) -> None:
    from ..gateway.keys import new_key

    trains = [load_train(each).name if ":" in each else each for each in targets]
    key, lines = new_key(name, trains, work=work)
    say(f"the key, shown this once: {key}")  # apart from its lines, which go into a file
    for each in lines.splitlines():
        line(each)


async def _serve(
    targets: list[str],
    url: str,
    port: int,
    host: str,
    allow_host: Sequence[str],
    keys: Path | None,
    tls: tuple[Path | None, Path | None],
    most: tuple[int, int],
    work: _Work | None,
    scraped: Scraped,
    level: int | None,
) -> None:
    if keys is None and not is_loopback(host):
        raise UsageError(f"--host {host!r} can be reached from elsewhere: give --keys (see --new-key)")
    try:
        from ..gateway import Gateway, Limits, RemoteHandlers
        from ..gateway.keys import load_keys
    except ModuleNotFoundError as e:
        raise UsageError(f"the gateway needs {e.name}: pip install 'eventwagon[gateway]'") from None
    config = _tls(*tls)
    trains = [load_train(each) if ":" in each else None for each in targets]
    if work is not None:
        _check_work(targets, trains, work)
    set_up_logging(level)
    known = _Keys(keys, load_keys) if keys else None
    listening = listen(host, port)
    with exporting("eventwagon gateway"), asked_to_end() as asked, contextlib.closing(listening):
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(scraped.answering())
            remote = [] if work is None else [RemoteHandlers(train) for train in trains if train is not None]
            listeners = () if work is None else (log,)
            connections = [
                await stack.enter_async_context(_opened(target, train, url, listeners, scraped.meter))
                for target, train in zip(targets, trains, strict=True)
            ]
            served = Gateway(
                connections,
                keys=known.current if known else None,
                limits=Limits(body=most[0], events=most[1]),
                remote=remote,
                hosts=[*allow_host, *named_by(host)] if keys is None or allow_host else None,
            )
            http = server(served, connections=_CONNECTIONS, grace=_GRACE, **config)
            task = await stack.enter_async_context(serving(http, listening))
            at = f"[{host}]" if ":" in host else host
            names = ", ".join(each.train.name for each in connections)
            scheme = "https" if config else "http"
            does = "publishes to" if work is None else "publishes to and works for"
            async with _working(connections, work) as unneeded:
                line(f"{scheme}://{at}:{listening.getsockname()[1]}/ {does} {names}; Ctrl-C ends it")
                await first_end((task, *unneeded), asked.wait(), *([known.follow()] if known else []))
                served.end()  # before the workers leave: what is out has their grace to be settled


def _check_work(targets: Sequence[str], trains: Sequence[Train | None], work: _Work) -> None:
    """Raise UsageError unless all are programs that can work."""
    for target, train in zip(targets, trains, strict=True):
        if train is None:
            raise UsageError(f"--work needs the train's program as TRAIN: module:attribute, not {target!r}")
        check_runnable(train, observe=False, work=True)
    names = [train.name for train in trains if train is not None]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"train {twice[0]!r} is there twice")
    if work.wagon is not None and len(targets) > 1:
        raise UsageError(f"--wagon is for one train, not for {', '.join(targets)}")


@contextlib.asynccontextmanager
async def _working(
    connections: Sequence[Connection], work: _Work | None
) -> AsyncIterator[Sequence[asyncio.Task[object]]]:
    """While entered, this process works for the trains. Yields tasks; if one ends, no train needs it any more, or one
    was stopped."""
    if work is None:
        yield ()
        return
    async with contextlib.AsyncExitStack() as stack:
        waits: list[asyncio.Task[object]] = []
        for c in connections:
            await stack.enter_async_context(c.running(observe=False, work=True, wagon=work.wagon, workers=work.workers))
            waits.append(asyncio.create_task(c.stopped()))
            if work.wagon is not None:
                waits.append(asyncio.create_task(c.released(work.wagon)))
        try:
            yield waits
        finally:
            for each in waits:
                each.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


@contextlib.asynccontextmanager
async def _opened(
    target: str, train: Train | None, url: str, listeners: tuple[Listener, ...], meter: Meter | None
) -> AsyncIterator[Connection]:
    """A program's train may be founded by publishing to it; a mere name must be one that exists."""
    async with (
        train.connect(url, listeners=listeners, meter=meter) if train else reached(target, url, meter=meter) as c
    ):
        yield c


class _Keys:
    """The keys in a file, which may change."""

    def __init__(self, path: Path, load: Callable[[Path], dict[str, Key]]) -> None:
        self._path = path
        self._load = load
        self._mark = self._marked()
        self._keys = load(path)

    def current(self) -> Mapping[str, Key]:
        """The keys, by their hash."""
        return self._keys

    async def follow(self) -> None:
        """Read the file again whenever it changes. One that can't be read changes nothing, and is logged."""
        while True:
            await asyncio.sleep(_LOOK)
            mark = self._marked()
            if mark == self._mark:
                continue
            self._mark = mark
            try:
                self._keys = await asyncio.to_thread(self._load, self._path)
                _logger.info("the keys were read again: there are %d", len(self._keys))
            except UsageError as e:
                _logger.warning("%s; the keys from before stay", e)

    def _marked(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def _tls(cert: Path | None, key: Path | None) -> dict[str, Any]:
    """The server's options for HTTPS; none for HTTP. Raises UsageError."""
    if cert is None and key is None:
        return {}
    if cert is None or key is None:
        raise UsageError("give --tls-cert and --tls-key together")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except (OSError, ssl.SSLError, ValueError) as e:
        why = getattr(e, "strerror", None) or e
        raise UsageError(
            f"--tls-cert {cert} --tls-key {key}: {why}; give PEM files, the key without a password"
        ) from None
    return {"ssl_certfile": str(cert), "ssl_keyfile": str(key)}
