"""Channels as Apache Pulsar topics: one non-partitioned persistent topic each, with one Shared subscription."""

from __future__ import annotations

from .broker import PulsarBroker

__all__ = ["PulsarBroker"]
