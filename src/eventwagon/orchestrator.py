"""The path of earlier releases: see `eventwagon.contracts.orchestrator`."""

from .contracts.orchestrator import *  # noqa: F403
