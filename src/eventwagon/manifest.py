"""The path of earlier releases: see `eventwagon.contracts.manifest`."""

from .contracts.manifest import *  # noqa: F403
