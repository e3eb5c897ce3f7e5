"""Metrics: what trains and processes do, in figures, for Prometheus and OpenTelemetry. See docs/metrics.md."""

from ..contracts.metering import Meter, ProcessFigures, TrainFigures
from .children import gathering
from .instruments import INSTRUMENTS, Instrument
from .measures import Metrics
from .serving import serving

__all__ = ["INSTRUMENTS", "Instrument", "Meter", "Metrics", "ProcessFigures", "TrainFigures", "gathering", "serving"]
