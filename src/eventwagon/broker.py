"""The path of earlier releases: see `eventwagon.contracts.broker`."""

from .contracts.broker import *  # noqa: F403
