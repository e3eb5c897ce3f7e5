"""Events and manifests in the memory of one process: for tests and the first steps."""

from __future__ import annotations

from .broker import MemoryBroker
from .registry import MemoryRegistry

__all__ = ["MemoryBroker", "MemoryRegistry"]
