"""The path of earlier releases: see `eventwagon.drivers.memory`."""

from ..drivers.memory import MemoryBroker

__all__ = ["MemoryBroker"]
