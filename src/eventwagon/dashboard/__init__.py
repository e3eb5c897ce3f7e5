"""The dashboard: a page that shows the trains at a URL, and steers them. `app` is an ASGI application. Needs
`eventwagon[dashboard]`."""

from __future__ import annotations

from ..errors import UsageError

try:
    from .application import Dashboard, app
except ImportError as e:
    if (e.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
        raise
    raise UsageError("the dashboard needs more packages: pip install 'eventwagon[dashboard]'") from None

__all__ = ["Dashboard", "app"]
