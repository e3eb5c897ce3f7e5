"""`run`, `observe`, `work`: run a train in this process until the process is asked to end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated

import msgspec
import typer
from rich.logging import RichHandler

from ..connection import check_runnable
from ..contracts.orchestrator import Orchestrator
from ..display.json_lines import LOG_FORMAT, JsonFormatter, is_in_use
from ..display.redaction import shown
from ..display.text import LogFormatter
from ..drivers.opening import Program, open_orchestrator
from ..errors import UsageError
from ..event import wagon_name
from ..metrics.serving import LOOPBACK
from ..policy.record import find_looks
from ..tracing.exporting import exporting
from ..train import Train
from .console import DEFAULT_URL, Code, Url, err, job, say
from .health import Health
from .scraped import MetricsHost, MetricsPort, Scraped
from .target import load_trains

Target = Annotated[
    str, typer.Argument(metavar="TARGET", help="The train: module:attribute or path/to/file.py:attribute.")
]
Targets = Annotated[
    list[str],
    typer.Argument(
        metavar="TARGET…",
        help="The trains: module:attribute, path/to/file.py:attribute, or a module or file (its trains with handlers).",
    ),
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
        help="Level of eventwagon's own log: debug, info, warning or error; libraries keep theirs, which is warning. "
        "Default: the program's own level, or info.",
    ),
]
LogFormat = Annotated[
    str,
    typer.Option(
        "--log-format",
        envvar=LOG_FORMAT,
        metavar="FORMAT",
        help="text, or json: one object a line, with the event that is handled and its trace.",
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
    targets: Targets,
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
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = LOOPBACK,
    revision: Revision = "",
    log_level: LogLevel = None,
    log_format: LogFormat = "text",
) -> None:
    """Run trains: observe them and handle their events, in this process (with --isolate: in one process per wagon).

    Ctrl-C and SIGTERM end it gracefully, `eventwagon stop` for one train: handlers in flight finish. A second signal
    ends it at once.
    """
    if isolate and orchestrator is not None:
        raise UsageError(
            f"--isolate means --orchestrator subprocess:, so it can't be combined with --orchestrator {orchestrator}"
        )
    how = _Options(
        url=url,
        redeclare=redeclare,
        scraped=Scraped(metrics_port, metrics_host),
        orchestrator="subprocess:" if isolate else orchestrator,
    )
    await _serve(targets, revision, log_level, log_format, Health(health_port, health_host), how)


@job
async def observe(
    targets: Targets,
    url: Url = DEFAULT_URL,
    redeclare: Redeclare = False,
    orchestrator: Infrastructure = None,
    health_port: HealthPort = None,
    health_host: HealthHost = "",
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = LOOPBACK,
    revision: Revision = "",
    log_level: LogLevel = None,
    log_format: LogFormat = "text",
) -> None:
    """Observe trains without handling their events: open, switch, seal and remove their wagons.

    Any number of processes may observe a train.
    """
    how = _Options(
        url=url, redeclare=redeclare, scraped=Scraped(metrics_port, metrics_host), work=False, orchestrator=orchestrator
    )
    await _serve(targets, revision, log_level, log_format, Health(health_port, health_host), how)


@job
async def work(
    targets: Targets,
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
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = LOOPBACK,
    revision: Revision = "",
    log_level: LogLevel = None,
    log_format: LogFormat = "text",
) -> None:
    """Handle the events of trains in this process, without observing the trains.

    A train's workers are divided between all processes that work.
    """
    how = _Options(
        url=url,
        redeclare=redeclare,
        scraped=Scraped(metrics_port, metrics_host),
        observe=False,
        wagon=wagon,
        workers=workers,
        grace=grace,
    )
    await _serve(targets, revision, log_level, log_format, Health(health_port, health_host), how)


@dataclass(frozen=True, kw_only=True)
class _Options:
    """How each of the trains is run."""

    url: str
    redeclare: bool
    scraped: Scraped
    observe: bool = True
    work: bool = True
    orchestrator: str | None = None
    wagon: int | None = None
    workers: int | None = None
    grace: float | None = None


async def _serve(
    targets: Sequence[str], revision: str, log_level: str | None, log_format: str, health: Health, how: _Options
) -> None:
    level, as_json = level_of(log_level), is_json(log_format)
    trains = load_trains(targets, revision)
    set_up_logging(level, as_json=as_json)
    if how.wagon is not None and len(trains) > 1:
        raise UsageError(f"--wagon is for one train, not for {', '.join(trains)}")
    prepared: list[tuple[Train, Orchestrator | None]] = []
    for target, train in trains.items():
        check_runnable(train, observe=how.observe, work=how.work and how.orchestrator is None)  # before any is declared
        if how.grace is not None:
            train.settings = msgspec.structs.replace(train.settings, grace=how.grace)
        settings = msgspec.structs.replace(train.settings, handler_timeout=train.longest_timeout)
        program = Program(target, how.url, settings)
        prepared.append((train, None if how.orchestrator is None else open_orchestrator(how.orchestrator, program)))
    health.expect([train.name for train, _ in prepared])
    names = sorted(train.name for train, _ in prepared)
    with exporting(names[0] if len(names) == 1 else "eventwagon"), asked_to_end() as asked:
        async with health, how.scraped.answering():
            if len(prepared) == 1:  # its errors come without a group around them
                await _run(*prepared[0], how, health, asked)
            else:
                async with asyncio.TaskGroup() as tasks:
                    for train, infrastructure in prepared:
                        tasks.create_task(_run(train, infrastructure, how, health, asked))
    _logger.info("ended")


async def _run(
    train: Train, infrastructure: Orchestrator | None, how: _Options, health: Health, asked: asyncio.Event
) -> None:
    """Run one train until `asked` is set, or the train, or its wagon, no longer needs this process."""
    observe, work, wagon = how.observe, how.work and infrastructure is None, how.wagon
    does = " and ".join(name for name, on in (("observes", observe), ("works for", work)) if on)
    async with (
        train.connect(how.url, redeclare=how.redeclare, orchestrator=infrastructure, meter=how.scraped.meter) as c,
        c.running(observe=observe, work=work, wagon=wagon, workers=how.workers),
        health.watching(c, observes=observe, works=work),
        asyncio.TaskGroup() as tasks,
    ):
        _logger.info("%s %s train %s at %s; Ctrl-C ends it", c.name, does, train.name, shown(how.url))
        waits = [tasks.create_task(asked.wait()), tasks.create_task(c.stopped())]
        if wagon is not None:
            waits.append(tasks.create_task(c.released(wagon)))
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        why = "asked to" if asked.is_set() else "the train's processes were asked to"
        if not waits[0].done() and not waits[1].done():
            why = f"{wagon_name(train.name, wagon)} needs no workers any more"
        rest = f"; handlers in flight have {train.settings.grace:g} s" if work else ""
        _logger.info("%s: ending: %s%s", train.name, why, rest)
        if asked.is_set():
            health.leave()
        for task in waits:
            task.cancel()


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


def is_json(text: str) -> bool:
    """Whether the log format with this name, in upper or lower case, is JSON. Raises UsageError."""
    if text.strip().lower() not in ("", "text", "json"):
        raise UsageError(f"log format {text!r}: give text or json")
    return text.strip().lower() == "json"


class _TerminalFormatter(LogFormatter):
    """Leaves out the words of looks at DEBUG, which would fill the screen and can't be copied from it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's name
        text = super().formatMessage(record)
        for word in find_looks(text) if record.levelno <= logging.DEBUG else ():
            text = text.replace(word, f"({len(word):,} characters, written only to a file or pipe)")
        return text


def set_up_logging(level: int | None, *, as_json: bool = False) -> None:
    """Log to stderr, one line per record, at `level` (None: info). If the program, which must be loaded before, has set
    up logging itself, its handlers stay, and its levels too unless `level` is given. The processes that this one starts
    log in the same format."""
    os.environ[LOG_FORMAT] = "json" if as_json else "text"
    logger = logging.getLogger("eventwagon")
    is_set_up = logger.hasHandlers()
    if level is not None or not (is_set_up or logger.level):
        logger.setLevel(logging.INFO if level is None else level)
    if is_set_up:
        if as_json and not is_in_use():
            _logger.warning("the program has set up logging itself, without eventwagon.JsonFormatter: that stays")
        return
    handler: logging.Handler
    if as_json:
        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter())
    elif sys.stderr.isatty():
        handler = RichHandler(console=err(), show_path=False, omit_repeated_times=False, log_time_format="%H:%M:%S")
        handler.setFormatter(_TerminalFormatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(LogFormatter("%(asctime)s %(levelname)-7s %(message)s"))
    logging.getLogger().addHandler(handler)
