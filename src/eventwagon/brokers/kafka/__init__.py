"""Events in Kafka: a topic for each channel, a log of claims for each wagon."""

from .broker import KafkaBroker

__all__ = ["KafkaBroker"]
