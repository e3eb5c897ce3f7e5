"""The path of earlier releases: see `eventwagon.orchestrators.processes.command`."""

from .processes.command import CheckIn, Command, Http, Line, Ready, Tcp

__all__ = ["CheckIn", "Command", "Http", "Line", "Ready", "Tcp"]
