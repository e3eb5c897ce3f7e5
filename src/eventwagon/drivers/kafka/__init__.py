"""Kafka: a topic for each channel, a log of claims for each wagon, a log for the manifest."""

from __future__ import annotations

from .broker import KafkaBroker
from .registry import KafkaRegistry

__all__ = ["KafkaBroker", "KafkaRegistry"]
