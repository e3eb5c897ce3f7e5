"""Shared by the orchestrators that run workers in processes of this machine: records, locks, logs, process ends.
Private."""

from __future__ import annotations

from .child import MARGIN, SENT_HOME, Follower, follow
from .logs import in_one
from .orchestrator import Processes, default_directory
from .process import Launch
from .records import RUN, Run, UnitFiles, Want, send, started_by

__all__ = [
    "MARGIN",
    "RUN",
    "SENT_HOME",
    "Follower",
    "Launch",
    "Processes",
    "Run",
    "UnitFiles",
    "Want",
    "default_directory",
    "follow",
    "in_one",
    "send",
    "started_by",
]
