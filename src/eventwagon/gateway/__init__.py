"""The gateway: publish and work over HTTP. `Gateway` is an ASGI application. Needs `eventwagon[gateway]`."""

from __future__ import annotations

from .application import Gateway, Limits
from .remote import RemoteHandlers

__all__ = ["Gateway", "Limits", "RemoteHandlers"]
