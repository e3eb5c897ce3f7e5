"""The command orchestrator: any program serves a wagon, in any language. Linux and macOS."""

from __future__ import annotations

from .orchestrator import Command
from .ready import CheckIn, Http, Line, Ready, Tcp

__all__ = ["CheckIn", "Command", "Http", "Line", "Ready", "Tcp"]
