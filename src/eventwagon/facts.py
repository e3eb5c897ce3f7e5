"""The path of earlier releases: see `eventwagon.contracts.facts`."""

from .contracts.facts import *  # noqa: F403
