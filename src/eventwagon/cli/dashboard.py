"""`dashboard`: serves the page that shows the trains at a URL."""

from __future__ import annotations

import contextlib
import socket
from typing import Annotated

import typer

from ..display.redaction import shown
from ..errors import UsageError
from ..hosts import named_by
from ..values import is_loopback
from .console import DEFAULT_URL, Url, job, line
from .http import first_end, listen, server, serving
from .serve import LogLevel, asked_to_end, level_of, set_up_logging

_CONNECTIONS = 1_000


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
    hosts = [*(allow_host or ()), *named_by(host)]
    served = app(url, token=token, payloads=payloads, hosts=hosts, trains=train or ())
    listening = listen(host, port)
    at = f"[{host}]" if ":" in host else host or socket.gethostname()
    with asked_to_end() as asked, contextlib.closing(listening):
        async with served, serving(server(served, connections=_CONNECTIONS), listening) as task:
            mode = "read-only" if token is None else "log in with the token"
            where = f"http://{at}:{listening.getsockname()[1]}/"
            line(f"{where} shows the trains at {shown(url)} ({mode}); Ctrl-C ends it")
            await first_end((task,), asked.wait())
            await served.close()  # streams would go on
