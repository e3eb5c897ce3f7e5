"""Apache Pulsar: a non-partitioned persistent topic for each channel, with one Shared subscription. No registry."""

from __future__ import annotations

from .broker import PulsarBroker

__all__ = ["PulsarBroker"]
