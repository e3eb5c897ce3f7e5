"""Events in SQLite files: embedded, durable, exact. One file per wagon."""

from __future__ import annotations

from .broker import SQLiteBroker

__all__ = ["SQLiteBroker"]
