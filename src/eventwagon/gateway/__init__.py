"""The gateway: publish over HTTP. `Gateway` is an ASGI application. Needs `eventwagon[gateway]`."""

from __future__ import annotations

from .application import Gateway, Limits

__all__ = ["Gateway", "Limits"]
