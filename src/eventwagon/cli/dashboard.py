"""`dashboard`: serves the page that shows the trains at a URL."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from ..display.redaction import shown
from ..errors import UsageError
from ..values import is_loopback
from .console import DEFAULT_URL, Url, job, line
from .serve import LogLevel, asked_to_end, level_of, set_up_logging

_logger = logging.getLogger("eventwagon.cli")
_CONNECTIONS = 1_000
"""Further ones are closed at once, or get 503; fewer where this process may not open so many files."""
_BACKLOG = 100
"""Connections that are accepted in one go."""
_SPARE = 64
"""Files that are left for everything else."""
_SILENT = 30.0
"""Seconds that a connection has for its first request, and for each further one."""
_GRACE = 3
"""Seconds that open requests have at the end."""
_CLOSING = 30.0
"""Seconds that a client has to take the rest of an answer whose connection is closing."""


@job
async def dashboard(
    train: Annotated[
        list[str] | None, typer.Argument(metavar="TRAIN…", help="Only the trains with these names; default: all.")
    ] = None,
    url: Url = DEFAULT_URL,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, metavar="PORT", help="Port to listen on; 0: any free one.")
    ] = 8000,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Address to listen on. Any other than a loopback address needs a token. Default: 127.0.0.1, which "
            "only this machine can reach.",
        ),
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="EVENTWAGON_DASHBOARD_TOKEN",
            metavar="TEXT",
            show_envvar=True,
            help="Who logs in with it may read and steer, nobody else can do either. Default: everybody may read, "
            "nobody can steer. Others see options of the command line: use the environment.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="A name under which browsers reach it, besides localhost, loopback addresses and --host: behind a "
            "proxy its public name. May be given several times; '*': any.",
        ),
    ] = None,
    payloads: Annotated[bool, typer.Option("--payloads", help="Show the data of dead letters.")] = False,
    log_level: LogLevel = None,
) -> None:
    """Serve a page that shows all trains at the URL live, and steers them: wagons, waits, the journal, dead letters.

    It reads once a second for all browsers together, and only while one looks. Behind a proxy, let that end TLS.
    """
    if token is None and not is_loopback(host):
        raise UsageError(
            f"--host {host!r} can be reached from elsewhere: give a token (EVENTWAGON_DASHBOARD_TOKEN), or leave the "
            "host out and reach it through a tunnel"
        )
    from ..dashboard import app

    set_up_logging(level_of(log_level))
    names = [*(allow_host or ()), *([] if host in ("", "0.0.0.0", "::") else [f"[{host}]" if ":" in host else host])]  # noqa: S104
    served = app(url, token=token, payloads=payloads, hosts=names, trains=train or ())
    listening = _listen(host, port)
    at = f"[{host}]" if ":" in host else host or socket.gethostname()
    with asked_to_end() as asked, contextlib.closing(listening):
        async with served:
            server = _server(served)
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            ending = asyncio.create_task(asked.wait())
            try:
                mode = "read-only" if token is None else "log in with the token"
                where = f"http://{at}:{listening.getsockname()[1]}/"
                line(f"{where} shows the trains at {shown(url)} ({mode}); Ctrl-C ends it")
                await asyncio.wait((serving, ending), return_when=asyncio.FIRST_COMPLETED)
                await served.close()  # streams would go on
                server.should_exit = True
                await serving
            finally:
                ending.cancel()
                serving.cancel()
                await asyncio.gather(ending, serving, return_exceptions=True)


def _listen(host: str, port: int) -> socket.socket:
    """Raises UsageError."""
    try:
        family, *_, place = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(place[:2], family=family, backlog=256)
    except (OSError, UnicodeError) as e:
        raise UsageError(f"--host {host!r} --port {port}: {getattr(e, 'strerror', None) or e}") from None


def _server(served: Any) -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        _closing: Mapping[Any, float] = {}
        """Connections that are closing: since when."""
        _silent: Mapping[Any, float] = {}
        """Connections without a request, with the one before: since when."""

        async def on_tick(self, counter: int) -> bool:
            """Ten times a second."""
            self._abort_closing()
            self._abort_silent()
            return await super().on_tick(counter)

        def _abort_silent(self) -> None:
            """Cut off those that only hold a connection open."""
            now = time.monotonic()
            cycles = [(c, getattr(c, "cycle", None)) for c in self.server_state.connections]  # of its newest request
            silent = [(c, cycle) for c, cycle in cycles if cycle is None or cycle.response_complete]
            self._silent = {each: self._silent.get(each, now) for each in silent}
            for (connection, _), since in self._silent.items():
                if now - since >= _SILENT:
                    connection.transport.abort()

        def _abort_closing(self) -> None:
            """Cut off clients that never read: a connection closes only once they have taken what is left."""
            now = time.monotonic()
            transports = [getattr(each, "transport", None) for each in self.server_state.connections]
            self._closing = {t: self._closing.get(t, now) for t in transports if t is not None and t.is_closing()}
            for transport, since in self._closing.items():
                if now - since >= _CLOSING:
                    transport.abort()

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Signals are the command's."""
            yield

    config = uvicorn.Config(
        served,
        access_log=False,
        lifespan="off",
        log_config=None,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE,
        backlog=_BACKLOG,
    )
    config.load()
    config.http_protocol_class = _bounded(config.http_protocol_class, _most_connections())
    return Server(config)


def _bounded(protocol: Any, most: int) -> Any:
    """The same protocol, which closes further connections at once: an event loop that can't open another file logs that
    thousands of times a second, and answers nobody."""

    def connection_made(self: Any, transport: Any) -> None:
        protocol.connection_made(self, transport)
        if len(self.connections) > most:
            transport.abort()

    return type("Bounded", (protocol,), {"connection_made": connection_made})


def _most_connections() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return _CONNECTIONS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # what was accepted in two rounds is not known to the protocol yet
    return _CONNECTIONS if files == resource.RLIM_INFINITY else max(8, min(_CONNECTIONS, files - _SPARE - 2 * _BACKLOG))
