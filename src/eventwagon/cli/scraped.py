"""`--metrics-port`: the process measures what it does, and answers Prometheus; or it exports to OpenTelemetry."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from ..metrics import Metrics, serving

_logger = logging.getLogger("eventwagon.cli")

_SWITCHES_ON = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")


class Scraped:
    """The metrics of one process of the command line. It measures nothing if nobody is to get the figures."""

    def __init__(self, port: int | None, host: str) -> None:
        self._port = port
        self._host = host
        self._sends = sends_to_opentelemetry()
        self.meter = Metrics() if port is not None or self._sends else None
        """What the connections are measured by; None: by nothing."""

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        """While entered, the figures can be had. Raises UsageError if the host or the port can't be used, or a package
        is missing."""
        async with AsyncExitStack() as stack:
            if self.meter is not None and self._port is not None:
                await stack.enter_async_context(serving(self.meter, self._port, self._host))
                _logger.info("answers GET /metrics at %s port %d", self._host or "every address,", self._port)
            if self.meter is not None and self._sends:
                from ..metrics.opentelemetry import exporting

                await stack.enter_async_context(exporting(self.meter))
            yield


def sends_to_opentelemetry() -> bool:
    """Whether OpenTelemetry's own environment variables ask for metrics: an OTLP endpoint is named, or `otlp` as the
    exporter of metrics, and neither the SDK nor the exporter is turned off."""
    exporter = os.environ.get("OTEL_METRICS_EXPORTER", "").strip().lower()
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return False
    return exporter == "otlp" or any(os.environ.get(name) for name in _SWITCHES_ON)
