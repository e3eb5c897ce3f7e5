"""The path of earlier releases: see `eventwagon.orchestrators.processes.subprocess`."""

from .processes.subprocess import Subprocess

__all__ = ["Subprocess"]
