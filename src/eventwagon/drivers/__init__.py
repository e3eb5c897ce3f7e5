"""From a URL to a broker and a registry; one folder for each technology."""

from __future__ import annotations

from .opening import Address, Drivers, Program, open_drivers, open_orchestrator

__all__ = ["Address", "Drivers", "Program", "open_drivers", "open_orchestrator"]
