"""Opens the orchestrators at `lambda://region/prefix/function` and `ecs://region/prefix/cluster`."""

from __future__ import annotations

from ...contracts.address import Address
from ...drivers.opening import Program, open_drivers
from .mappings import LambdaMappings
from .services import ECSServices


def open_lambda(address: Address, program: Program) -> LambdaMappings:
    """See `open_orchestrator`. Raises UsageError."""
    return LambdaMappings.from_url(address.url)


def open_ecs(address: Address, program: Program) -> ECSServices:
    """See `open_orchestrator`. Raises UsageError."""
    registry = open_drivers(program.url, clock=address.clock).registry
    return ECSServices.from_url(address.url, program.target, registry=registry)
