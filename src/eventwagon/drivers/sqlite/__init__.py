"""SQLite files: embedded, durable, exact. A file for each wagon, and one for the manifest."""

from __future__ import annotations

from .broker import SQLiteBroker
from .registry import SQLiteRegistry

__all__ = ["SQLiteBroker", "SQLiteRegistry"]
