"""Metrics for OpenTelemetry: the same instruments as for Prometheus, handed to an exporter of its SDK.

Needs `eventwagon[otel]`. They don't pass through a MeterProvider: recording a handling there costs as much CPU time as
a whole event. So its views do not apply.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

from ..background import in_daemon
from ..display.text import said
from ..errors import UsageError
from ..runtime.bulkhead import Bulkhead
from ..runtime.observed import own_version
from ..values import real, shown
from .instruments import Instrument
from .measures import Family, Labels, Metrics
from .series import Histogram as Series

try:
    from opentelemetry.sdk.metrics.export import (
        AggregationTemporality,
        Gauge,
        Histogram,
        HistogramDataPoint,
        Metric,
        MetricExporter,
        MetricExportResult,
        MetricsData,
        NumberDataPoint,
        ResourceMetrics,
        ScopeMetrics,
        Sum,
    )
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
except ModuleNotFoundError as e:
    raise UsageError(
        f"metrics for OpenTelemetry need a package that is not installed ({e.name}): pip install 'eventwagon[otel]'"
    ) from None

__all__ = ["data_of", "exporting"]

_EVERY = "OTEL_METRIC_EXPORT_INTERVAL"
_AT_THE_END = 10.0
"""Seconds for the last export, and for shutting the exporter down."""
_CUMULATIVE = AggregationTemporality.CUMULATIVE


@asynccontextmanager
async def exporting(
    metrics: Metrics,
    exporter: MetricExporter | None = None,
    *,
    every: float | None = None,
    resource: Resource | None = None,
) -> AsyncIterator[None]:
    """While entered, hand the metrics to `exporter` every so many seconds, and a last time at the end; then shut it
    down.

    Without an exporter they go to an OTLP endpoint over HTTP, as OpenTelemetry's environment variables say
    (`OTEL_EXPORTER_OTLP_ENDPOINT`; a collector on this machine if there are none). `every`: default
    `OTEL_METRIC_EXPORT_INTERVAL` (in milliseconds), or 60 s. `resource`: default that of the environment
    (`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`). The exporter is called in a thread. What it raises is logged and
    ends nothing. Raises UsageError.
    """
    if exporter is not None and not isinstance(exporter, MetricExporter):
        raise UsageError(f"exporting: {shown(exporter)} is no MetricExporter of OpenTelemetry's SDK")
    seconds = _interval() if every is None else real("every", every)
    to = exporter or _otlp()
    whose = resource or Resource.create()
    bulkhead = Bulkhead("metrics")

    def export() -> None:
        data = data_of(metrics, whose)
        if data is not None and to.export(data) is not MetricExportResult.SUCCESS:
            bulkhead.warn("export", "an export to OpenTelemetry failed: its own log says why")

    async def safely(step: Callable[[], object], what: str, within: float | None = None) -> None:
        try:
            async with asyncio.timeout(within):
                await in_daemon(step, "eventwagon metrics")
        except TimeoutError:
            bulkhead.warn(what, f"{what} has not ended within {within} s, and is left alone")
        except Exception as e:  # noqa: BLE001 - an exporter may fail in any way
            bulkhead.report(what, e)

    async def once(within: float | None = None) -> None:
        await safely(export, "an export to OpenTelemetry", within)

    async def again() -> None:
        while True:
            await asyncio.sleep(seconds)
            await once()

    running = asyncio.create_task(again())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await once(_AT_THE_END)
        await safely(to.shutdown, "shutting down the exporter to OpenTelemetry", _AT_THE_END)


def _interval() -> float:
    text = os.environ.get(_EVERY, "").strip()
    try:
        return real(_EVERY, float(text) / 1000) if text else 60.0
    except ValueError:
        raise UsageError(f"{_EVERY}={text}: give a number of milliseconds") from None


def _otlp() -> MetricExporter:
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    except ModuleNotFoundError as e:
        raise UsageError(
            f"OTLP needs a package that is not installed ({e.name}): pip install 'eventwagon[otel]'"
        ) from None

    try:
        return OTLPMetricExporter()
    except Exception as e:  # noqa: BLE001 - whatever is wrong with OpenTelemetry's own variables
        raise UsageError(f"OTLP can't be set up as the environment says: {said(e)}") from None


def data_of(metrics: Metrics, resource: Resource) -> MetricsData | None:
    """The present figures as an exporter takes them: totals since the metrics were made. None: there are none yet."""
    start, now = int(metrics.since * 1e9), int(metrics.now * 1e9)
    found = [_metric(family, start, now) for family in metrics.collect()]
    if not found:
        return None
    scope = ScopeMetrics(InstrumentationScope("eventwagon", own_version()), found, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _metric(family: Family, start: int, now: int) -> Metric:
    instrument = family.instrument
    data: Sum | Gauge | Histogram
    match instrument.kind:
        case "counter":
            data = Sum(list(_numbers(family, start, now)), _CUMULATIVE, is_monotonic=True)
        case "gauge":
            data = Gauge(list(_numbers(family, None, now)))
        case "histogram":
            data = Histogram(list(_histograms(family, start, now)), _CUMULATIVE)
    return Metric(instrument.name, instrument.help, instrument.unit, data)


def _numbers(family: Family, start: int | None, now: int) -> Iterator[NumberDataPoint]:
    for labels, value in family.series.items():
        if not isinstance(value, Series):
            yield NumberDataPoint(_attributes(family.instrument, labels), start or 0, now, float(value))


def _histograms(family: Family, start: int, now: int) -> Iterator[HistogramDataPoint]:
    for labels, value in family.series.items():
        if isinstance(value, Series):
            counts, attributes = tuple(value.counts), _attributes(family.instrument, labels)
            yield HistogramDataPoint(
                attributes,
                start,
                now,
                count=sum(counts),
                sum=value.sum,
                bucket_counts=counts,
                explicit_bounds=family.instrument.bounds,
                min=value.low,
                max=value.high,
            )


def _attributes(instrument: Instrument, labels: Labels) -> dict[str, str]:
    """An empty value means that the attribute does not apply."""
    return {name: value for name, value in zip(instrument.labels, labels, strict=True) if value}
