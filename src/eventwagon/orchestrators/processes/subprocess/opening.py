"""Opens the orchestrator at `subprocess:?logs=DIRECTORY`."""

from __future__ import annotations

from ....contracts.address import Address
from ....drivers.opening import Program
from .orchestrator import Subprocess


def open_subprocess(address: Address, program: Program) -> Subprocess:
    """See `open_orchestrator`. Raises UsageError."""
    options = address.only("logs")
    return Subprocess(program.target, url=program.url, grace=program.settings.grace, logs=options.get("logs"))
