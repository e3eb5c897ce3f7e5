"""From a URL to the drivers for Kafka."""

from __future__ import annotations

from ...contracts.address import Address, Drivers
from .broker import KafkaBroker
from .registry import KafkaRegistry


def open_kafka(address: Address) -> Drivers:
    """See `open_drivers`. Raises UsageError."""
    return Drivers(
        KafkaBroker.from_url(address.url, clock=address.clock), KafkaRegistry.from_url(address.url, clock=address.clock)
    )
