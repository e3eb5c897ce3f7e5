"""`metrics`: an exporter for trains whose own processes export nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Annotated

import typer

from ..display.redaction import shown
from ..drivers.opening import open_drivers
from ..errors import UsageError
from ..event import check_train_name
from ..metrics.onlooking import onlooking
from ..metrics.serving import LOOPBACK
from ..settings import Settings
from ..views.following import follower
from .console import DEFAULT_URL, job
from .scraped import METRICS_PORT, MetricsHost, Scraped
from .serve import LogLevel, asked_to_end, level_of, set_up_logging

_logger = logging.getLogger("eventwagon.cli")


@job
async def metrics(
    url: Annotated[
        str, typer.Argument(envvar="EVENTWAGON_URL", metavar="URL", help="URL of the broker and registry.")
    ] = DEFAULT_URL,
    train: Annotated[
        list[str] | None, typer.Option("--train", metavar="NAME", help="Only this train; may be given several times.")
    ] = None,
    metrics_port: Annotated[int, METRICS_PORT] = 9464,
    metrics_host: MetricsHost = LOOPBACK,
    every: Annotated[
        float, typer.Option("--every", min=0.1, max=3600.0, metavar="SECONDS", help="Seconds between two looks.")
    ] = 5.0,
    log_level: LogLevel = None,
) -> None:
    """Export the metrics of all trains at the URL, for trains whose own processes export none.

    It reads the manifest, the figures of the broker, the check-ins and the journal, and changes nothing. Processes of
    eventwagon say more with --metrics-port: what they did for each event, and how long calls took. Use one or the other
    for a train, or its figures are counted twice.
    """
    names = [check_train_name(name) for name in train or ()]
    set_up_logging(level_of(log_level))
    drivers, scraped = open_drivers(url), Scraped(metrics_port, metrics_host)
    if scraped.meter is None:
        raise UsageError("nothing is to be exported")
    with asked_to_end() as asked:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(scraped.answering())
            await stack.enter_async_context(onlooking(drivers, scraped.meter, _settings_of, trains=names, every=every))
            _logger.info("looks at the trains at %s every %g s; Ctrl-C ends it", shown(url), every)
            await asked.wait()


def _settings_of(train: str, declared: Mapping[str, str]) -> Settings:
    return follower(train, dict(declared)).settings
