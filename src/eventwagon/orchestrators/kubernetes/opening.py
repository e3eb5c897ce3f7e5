"""Opens the orchestrator at `kubernetes://namespace?secret=NAME&template=FILE`."""

from __future__ import annotations

from ...contracts.address import Address
from ...drivers.opening import Program, open_drivers
from .orchestrator import Kubernetes


def open_kubernetes(address: Address, program: Program) -> Kubernetes:
    """See `open_orchestrator`. Raises UsageError."""
    options = address.only("secret", "template", "image", "per_pod", "context")
    return Kubernetes(
        program.target,
        registry=open_drivers(program.url, clock=address.clock).registry,
        secret=options.get("secret", ""),
        template=options.get("template"),
        image=options.get("image", ""),
        per_pod=address.whole("per_pod", 1, least=0),
        handler_timeout=program.settings.handler_timeout,
        namespace=address.host,
        context=options.get("context", ""),
    )
