"""The outbox: an event is stored in your own database, in your own transaction, and published once that is committed.

`eventwagon bridge 'postgresql://…?table=outbox' TRAIN` publishes what is in it. See docs/outbox.md.
"""

from __future__ import annotations

from .adding import add, add_async
from .table import create_table

__all__ = ["add", "add_async", "create_table"]
