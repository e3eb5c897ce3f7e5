"""From `sqs://region/prefix` to its drivers."""

from __future__ import annotations

from ...contracts.address import Address, Drivers
from .broker import SQSBroker
from .registry import DynamoDBRegistry


def open_sqs(address: Address) -> Drivers:
    """See `open_drivers`. Raises UsageError."""
    return Drivers(
        SQSBroker.from_url(address.url, clock=address.clock),
        DynamoDBRegistry.from_url(address.url, clock=address.clock),
    )
