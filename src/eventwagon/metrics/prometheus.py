"""Metrics for Prometheus: a collector for any registry of prometheus_client, and the text of one scrape.

Needs `eventwagon[prometheus]`.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import UsageError
from .instruments import Instrument, prometheus_name
from .measures import Family, Metrics
from .series import Histogram

try:
    from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError as e:
    raise UsageError(
        f"metrics for Prometheus need a package that is not installed ({e.name}): pip install 'eventwagon[prometheus]'"
    ) from None

__all__ = ["PrometheusCollector", "scrape"]


class PrometheusCollector(Collector):
    """The metrics as a collector, for programs that serve their own: `REGISTRY.register(PrometheusCollector(metrics))`.

    In several processes that share one endpoint (prometheus_client's multiprocess mode) it is not supported.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering it collects nothing."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The present figures. From any thread."""
        return (_family(family) for family in self._metrics.collect())


def scrape(metrics: Metrics, accept: str = "") -> tuple[bytes, str]:
    """The answer to one scrape and its content type. `accept`: the header of that name, by which Prometheus asks for a
    format; one that can't be read asks for none."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(PrometheusCollector(metrics))
    try:
        encode, content_type = choose_encoder(accept)
    except Exception:  # noqa: BLE001 - prometheus_client compares versions that are no numbers
        encode, content_type = choose_encoder("")
    return encode(registry), content_type


def _family(family: Family) -> Metric:
    instrument = family.instrument
    name, labels = instrument.in_prometheus, [prometheus_name(label) for label in instrument.labels]
    match instrument.kind:
        case "counter":
            counter = CounterMetricFamily(name.removesuffix("_total"), instrument.help, labels=labels)
            for values, value in family.series.items():
                counter.add_metric(values, _number(value))
            return counter
        case "gauge":
            gauge = GaugeMetricFamily(name, instrument.help, labels=labels)
            for values, value in family.series.items():
                gauge.add_metric(values, _number(value))
            return gauge
        case "histogram":
            return _histogram(instrument, name, labels, family)


def _histogram(instrument: Instrument, name: str, labels: list[str], family: Family) -> Metric:
    histogram = HistogramMetricFamily(name, instrument.help, labels=labels)
    for values, value in family.series.items():
        assert isinstance(value, Histogram)  # noqa: S101 - for the type checker
        counts, total, buckets = list(value.counts), 0, []
        for bound, count in zip((*instrument.bounds, float("inf")), counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else repr(bound), total))
        histogram.add_metric(values, buckets, sum_value=value.sum)
    return histogram


def _number(value: float | Histogram) -> float:
    assert not isinstance(value, Histogram)  # noqa: S101 - for the type checker
    return float(value)
