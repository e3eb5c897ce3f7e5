"""The subprocess orchestrator: each wagon in an operating-system process of its own. Linux and macOS."""

from __future__ import annotations

from .orchestrator import Subprocess

__all__ = ["Subprocess"]
