"""`run`, `observe`, `work`: run a train in this process until the process is asked to end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import msgspec
import typer
from rich.logging import RichHandler

from ..display.redaction import shown
from ..display.text import LogFormatter
from ..drivers.opening import Program, open_orchestrator
from ..errors import UsageError
from .console import DEFAULT_URL, Code, Url, err, job, say
from .health import Health
from .target import load_train

Target = Annotated[
    str, typer.Argument(metavar="TARGET", help="The train: module:attribute or path/to/file.py:attribute.")
]
Redeclare = Annotated[
    bool,
    typer.Option(
        "--redeclare",
        envvar="EVENTWAGON_REDECLARE",
        help="If the train was declared with other settings, replace them by this program's.",
    ),
]
LogLevel = Annotated[
    str | None,
    typer.Option(
        "--log-level",
        envvar="EVENTWAGON_LOG_LEVEL",
        metavar="LEVEL",
        help="debug, info, warning or error. Default: the program's own level, or info.",
    ),
]
Revision = Annotated[
    str,
    typer.Option(
        "--revision",
        envvar="EVENTWAGON_REVISION",
        metavar="REVISION",
        help="Revision of this code. It does not serve wagons that were opened for another revision.",
    ),
]
Infrastructure = Annotated[
    str | None,
    typer.Option(
        "--orchestrator",
        envvar="EVENTWAGON_ORCHESTRATOR",
        metavar="URL",
        help="The orchestrator, which starts each wagon's workers: subprocess:, command:PROGRAM, "
        "kubernetes://NAMESPACE …",
    ),
]
HealthPort = Annotated[
    int | None,
    typer.Option(
        "--health-port",
        envvar="EVENTWAGON_HEALTH_PORT",
        min=1,
        max=65535,
        metavar="PORT",
        help="Answer health checks at this port: GET /live (200: the process is not stuck) and GET /ready (200: "
        "it observes, and its workers are attached).",
    ),
]
HealthHost = Annotated[
    str,
    typer.Option(
        "--health-host",
        envvar="EVENTWAGON_HEALTH_HOST",
        metavar="ADDRESS",
        help="With --health-port: the address to listen on. Default: all addresses of this machine.",
    ),
]
_logger = logging.getLogger("eventwagon.cli")


@job
async def run(
    target: Target,
    url: Url = DEFAULT_URL,
    redeclare: Redeclare = False,
    isolate: Annotated[
        bool,
        typer.Option(
            "--isolate",
            help="Run each wagon in its own process, so that a crash affects no other wagon; short for "
            "--orchestrator subprocess:.",
        ),
    ] = False,
    orchestrator: Infrastructure = None,
    health_port: HealthPort = None,
    health_host: HealthHost = "",
    revision: Revision = "",
    log_level: LogLevel = None,
) -> None:
    """Run a train: observe it and handle its events, in this process (with --isolate: in one process per wagon).

    Ctrl-C, SIGTERM or `eventwagon stop` end it gracefully: handlers in flight finish. A second signal ends it at once.
    """
    if isolate and orchestrator is not None:
        raise UsageError(
            f"--isolate means --orchestrator subprocess:, so it can't be combined with --orchestrator {orchestrator}"
        )
    await _serve(
        target,
        url,
        redeclare,
        log_level,
        revision,
        observe=True,
        work=True,
        orchestrator="subprocess:" if isolate else orchestrator,
        health=Health(health_port, health_host),
    )


@job
async def observe(
    target: Target,
    url: Url = DEFAULT_URL,
    redeclare: Redeclare = False,
    orchestrator: Infrastructure = None,
    health_port: HealthPort = None,
    health_host: HealthHost = "",
    revision: Revision = "",
    log_level: LogLevel = None,
) -> None:
    """Observe a train without handling its events: open, switch, seal and remove its wagons.

    Any number of processes may observe a train.
    """
    await _serve(
        target,
        url,
        redeclare,
        log_level,
        revision,
        observe=True,
        work=False,
        orchestrator=orchestrator,
        health=Health(health_port, health_host),
    )


@job
async def work(
    target: Target,
    url: Url = DEFAULT_URL,
    redeclare: Redeclare = False,
    wagon: Annotated[
        int | None,
        typer.Option(
            "--wagon",
            min=1,
            metavar="NUMBER",
            help="Work only for the wagon that is served by the unit with this number; end once no wagon is. "
            "Orchestrators set it.",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, metavar="NUMBER", help="With --wagon: the number of workers.")
    ] = None,
    grace: Annotated[
        float | None,
        typer.Option(
            "--grace",
            min=0,
            metavar="SECONDS",
            help="Seconds that handlers in flight have to finish when the process ends. Default: the train's setting.",
        ),
    ] = None,
    health_port: HealthPort = None,
    health_host: HealthHost = "",
    revision: Revision = "",
    log_level: LogLevel = None,
) -> None:
    """Handle a train's events in this process, without observing the train.

    The train's workers are divided between all processes that work.
    """
    await _serve(
        target,
        url,
        redeclare,
        log_level,
        revision,
        observe=False,
        work=True,
        wagon=wagon,
        workers=workers,
        grace=grace,
        health=Health(health_port, health_host),
    )


async def _serve(
    target: str,
    url: str,
    redeclare: bool,
    log_level: str | None,
    revision: str,
    *,
    observe: bool,
    work: bool,
    orchestrator: str | None = None,
    wagon: int | None = None,
    workers: int | None = None,
    grace: float | None = None,
    health: Health,
) -> None:
    level = level_of(log_level)
    train = load_train(target, revision)
    set_up_logging(level)
    if grace is not None:
        train.settings = msgspec.structs.replace(train.settings, grace=grace)
    infrastructure = None
    if orchestrator is not None:
        settings = msgspec.structs.replace(train.settings, handler_timeout=train.longest_timeout)
        infrastructure = open_orchestrator(orchestrator, Program(target, url, settings))
        work = False
    does = " and ".join(name for name, on in (("observes", observe), ("works for", work)) if on)
    with asked_to_end() as asked:
        async with (
            health,
            train.connect(url, redeclare=redeclare, orchestrator=infrastructure) as c,
            c.running(observe=observe, work=work, wagon=wagon, workers=workers),
            health.watching(c, observes=observe, works=work),
            asyncio.TaskGroup() as tasks,
        ):
            _logger.info("%s %s train %s at %s; Ctrl-C ends it", c.name, does, train.name, shown(url))
            waits = [tasks.create_task(asked.wait()), tasks.create_task(c.stopped())]
            if wagon is not None:
                waits.append(tasks.create_task(c.released(wagon)))
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            why = "asked to" if asked.is_set() else "the train's processes were asked to"
            if not waits[0].done() and not waits[1].done():
                why = f"wagon {wagon} needs no workers any more"
            _logger.info("ending: %s; handlers in flight have %g s", why, train.settings.grace)
            health.leave()
            for task in waits:
                task.cancel()
    _logger.info("ended")


@contextmanager
def asked_to_end() -> Iterator[asyncio.Event]:
    """Yield an event that the first SIGINT or SIGTERM sets. A second signal ends the process at once."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if asked.is_set():
            say("ended at once; claimed events are delivered again when their claims expire")
            sys.stderr.flush()
            os._exit(Code.INTERRUPTED)
        asked.set()

    signals = (signal.SIGINT, signal.SIGTERM)
    with suppress(NotImplementedError):  # Windows: Ctrl-C cancels, which is graceful too
        for s in signals:
            loop.add_signal_handler(s, on_signal)
    try:
        yield asked
    finally:
        with suppress(NotImplementedError):
            for s in signals:
                loop.remove_signal_handler(s)


def level_of(text: str | None) -> int | None:
    """The number of the log level with this name, in upper or lower case; None for None. Raises UsageError."""
    number = logging.getLevelNamesMapping().get(text.upper()) if text is not None else None
    if text is not None and number is None:
        raise UsageError(f"log level {text!r}: give debug, info, warning or error")
    return number


def set_up_logging(level: int | None) -> None:
    """Log to stderr, one line per record, at `level` (None: info). If the program, which must be loaded before, has set
    up logging itself, its handlers stay, and its levels too unless `level` is given."""
    logger = logging.getLogger("eventwagon")
    is_set_up = logger.hasHandlers()
    if level is not None or not (is_set_up or logger.level):
        logger.setLevel(logging.INFO if level is None else level)
    if is_set_up:
        return
    handler: logging.Handler
    if sys.stderr.isatty():
        handler = RichHandler(console=err(), show_path=False, omit_repeated_times=False, log_time_format="%H:%M:%S")
        handler.setFormatter(LogFormatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(LogFormatter("%(asctime)s %(levelname)-7s %(message)s"))
    logging.getLogger().addHandler(handler)
