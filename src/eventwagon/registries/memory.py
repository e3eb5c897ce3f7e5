"""The path of earlier releases: see `eventwagon.drivers.memory`."""

from ..drivers.memory import MemoryRegistry

__all__ = ["MemoryRegistry"]
