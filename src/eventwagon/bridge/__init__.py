"""The bridge: reads a flow that others write, and publishes each record into a train. See docs/bridge.md."""

from .mapping import Rules, Unmapped, event_of
from .opening import open_source
from .runner import Bridge
from .source import Begin, Lag, Record, Source

__all__ = ["Begin", "Bridge", "Lag", "Record", "Rules", "Source", "Unmapped", "event_of", "open_source"]
