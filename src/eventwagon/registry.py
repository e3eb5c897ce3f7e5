"""The path of earlier releases: see `eventwagon.contracts.registry`."""

from .contracts.registry import *  # noqa: F403
