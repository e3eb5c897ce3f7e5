"""The command `eventwagon`: one file per job, an edge that only calls the library's public parts."""

from .app import main

__all__ = ["main"]
