"""What the SQLite broker and the SQLite registry share: opening files, one thread per file, errors. Private."""

from __future__ import annotations

from .actor import Actor, Files
from .inspection import inspect
from .op import CLOCK_SLACK, DeadFile, Op, Parked, Turn
from .place import Place
from .storage import Format

__all__ = ["CLOCK_SLACK", "Actor", "DeadFile", "Files", "Format", "Op", "Parked", "Place", "Turn", "inspect"]
