"""`--metrics-port`: the process measures what it does, and answers Prometheus; or it sends to OpenTelemetry."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any

import typer

from ..errors import UsageError
from ..metrics import Metrics, gathering, serving
from ..metrics.children import handing_over, is_gathered
from ..tracing.wanted import exporters

_PORT = "EVENTWAGON_METRICS_PORT"


def _port(envvar: str | None) -> Any:
    return typer.Option(
        "--metrics-port",
        envvar=envvar,
        min=1,
        max=65535,
        metavar="PORT",
        help="Answer Prometheus at this port: GET /metrics.",
    )


METRICS_PORT = _port(_PORT)
MetricsPort = Annotated[int | None, METRICS_PORT]
OwnMetricsPort = Annotated[int | None, _port(None)]
"""Of a command that people also run beside the process whose environment says the port, as in a container."""
MetricsHost = Annotated[
    str,
    typer.Option(
        "--metrics-host",
        envvar="EVENTWAGON_METRICS_HOST",
        metavar="ADDRESS",
        help="With --metrics-port: the address to listen on; '' or 0.0.0.0: all of this machine, as in a container. "
        "Default: 127.0.0.1, which only this machine can reach.",
    ),
]
_logger = logging.getLogger("eventwagon.cli")


class Scraped:
    """The metrics of one process of the command line, with those of the processes that it starts. It measures nothing
    if nobody is to get the figures."""

    def __init__(self, port: int | None, host: str) -> None:
        os.environ.pop(_PORT, None)  # the port is this process's, not that of those that it starts
        self._port = port
        self._host = host
        self._hands_over = port is None and is_gathered()
        """The process that started this one exports its figures."""
        self._sends = sends_to_opentelemetry() and not self._hands_over
        self.meter = Metrics() if port is not None or self._sends or self._hands_over else None
        """What the connections are measured by; None: by nothing."""

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        """While entered, the figures can be had. Raises UsageError if the host or the port can't be used, or a package
        is missing."""
        async with AsyncExitStack() as stack:
            if self._hands_over:
                await stack.enter_async_context(handing_over(self.meter))
            if self.meter is not None:
                stack.enter_context(gathering(self.meter))
            if self.meter is not None and self._port is not None:
                await stack.enter_async_context(serving(self.meter, self._port, self._host))
                _logger.info("answers GET /metrics at %s port %d", self._host or "every address,", self._port)
            if self.meter is not None and self._sends:
                await self._send(self.meter, stack)
            yield

    async def _send(self, metrics: Metrics, stack: AsyncExitStack) -> None:
        """Send to OpenTelemetry until the stack is left. If only an endpoint is named, it may be meant for the
        program's own traces: a missing package is then no reason not to run."""
        try:
            from ..metrics.opentelemetry import exporting

            await stack.enter_async_context(exporting(metrics))
        except UsageError as e:
            if os.environ.get("OTEL_METRICS_EXPORTER", "").strip():
                raise
            _logger.warning("no metrics are sent to OpenTelemetry: %s", e)
        else:
            _logger.info("sends metrics to OpenTelemetry")


def sends_to_opentelemetry() -> bool:
    """Whether OpenTelemetry's own environment variables ask for metrics: `otlp` is the exporter of metrics, or an OTLP
    endpoint is named; and neither the SDK nor the exporter is turned off."""
    return exporters(of="METRICS") == ["otlp"]
