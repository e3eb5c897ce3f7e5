"""eventwagon: the Event Wagon Pattern (Alfonso Jose Navarro Escámez, 2025) as an asyncio framework."""

from .breaker import Breaker
from .connection import Connection
from .errors import EventwagonError, Reject, Retry, Snooze
from .event import Event
from .limits import Age, Lag, Limit, Pressure, Throughput, Volume, Wait
from .reading import Reading
from .settings import Settings
from .train import Train
from .worker import Context
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
