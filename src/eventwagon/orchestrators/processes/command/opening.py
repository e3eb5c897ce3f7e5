"""Opens the orchestrator at `command:node consumer.js?ready=line:attached`."""

from __future__ import annotations

from ....contracts.address import Address
from ....contracts.broker import Named
from ....drivers.opening import Program, open_drivers
from .orchestrator import Command


def open_command(address: Address, program: Program) -> Command:
    """See `open_orchestrator`. Raises UsageError."""
    stores = open_drivers(program.url, clock=address.clock)
    return Command.from_url(
        address.url,
        broker_url=program.url,
        names=stores.broker.name_of if isinstance(stores.broker, Named) else None,
        registry=stores.registry,
        grace=program.settings.grace,
    )
