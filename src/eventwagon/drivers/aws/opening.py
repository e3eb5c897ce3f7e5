"""From `sqs://region/prefix` to its drivers."""

from __future__ import annotations

from ...contracts.address import Address, Drivers
from .broker import SQSBroker
from .place import place_of
from .registry import DynamoDBRegistry


def open_sqs(address: Address) -> Drivers:
    """See `open_drivers`. Raises UsageError."""
    place = place_of(address)
    return Drivers(SQSBroker(place, clock=address.clock), DynamoDBRegistry(place, clock=address.clock))
