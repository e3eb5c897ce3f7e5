"""eventwagon: the Event Wagon Pattern (Alfonso Jose Navarro Escámez, 2025) as an asyncio framework."""

from .breaker import Breaker
from .connection import Connection
from .contracts.reading import Reading
from .errors import EventwagonError, Reject, Retry, Snooze
from .event import Event
from .limits import Age, Lag, Limit, Pressure, Throughput, Volume, Wait
from .runtime.handling import Context
from .settings import Settings
from .train import Train
from .workers import Workers

__all__ = [
    "Age",
    "Breaker",
    "Connection",
    "Context",
    "Event",
    "EventwagonError",
    "Lag",
    "Limit",
    "Pressure",
    "Reading",
    "Reject",
    "Retry",
    "Settings",
    "Snooze",
    "Throughput",
    "Train",
    "Volume",
    "Wait",
    "Workers",
]
