"""From `pulsar://host:6650/tenant/namespace?registry=URL` to its drivers."""

from __future__ import annotations

from ...contracts.address import Address, Drivers
from .broker import PulsarBroker


def open_pulsar(address: Address) -> Drivers:
    """See `open_drivers`. Raises UsageError."""
    broker = PulsarBroker.from_url(address.url, clock=address.clock)
    if address.registry is None:
        raise address.wrong("Pulsar keeps no manifests; name a registry: &registry=redis://host:6379")
    return Drivers(broker, address.registry)
