"""What the shell offers when Tab is pressed: the names of trains, and those of the lab's scenarios."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from contextlib import suppress
from typing import Annotated, Any

import typer

from ..drivers.opening import open_drivers
from .console import DEFAULT_URL

_PATIENCE = 1.0
"""Seconds for the registry to answer: whoever presses Tab waits."""


def trains(ctx: Any, incomplete: str) -> list[str]:
    """The names that begin like this of trains at `--url`, EVENTWAGON_URL or the default. Never raises; empty if the
    registry does not answer in time."""
    url = ctx.params.get("url") or os.environ.get("EVENTWAGON_URL") or DEFAULT_URL
    found: list[str] = []

    def ask() -> None:
        with suppress(BaseException):  # nothing may be printed on the line that somebody types
            found.extend(asyncio.run(_trains(url)))

    logging.disable()
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    return sorted(name for name in found if name.startswith(incomplete))


async def _trains(url: str) -> list[str]:
    async with asyncio.timeout(_PATIENCE), open_drivers(url).registry as registry:
        return list(await registry.trains())


def dead_words(ctx: Any, incomplete: str) -> list[str]:
    """The words of `dead`, and the names of trains. Never raises."""
    verbs = ("list", "show", "retry", "drop", "export")
    return [verb for verb in verbs if incomplete and verb.startswith(incomplete)] + trains(ctx, incomplete)


def scenarios(incomplete: str) -> list[str]:
    """The names of the lab's scenarios that begin like this."""
    from ..lab.scenarios import SCENARIOS

    return [name for name in SCENARIOS if name.startswith(incomplete)]


NAMED = typer.Argument(
    metavar="TARGET",
    help="The train: module:attribute, path/to/file.py:attribute, or the name of a train that runs at the URL.",
    autocompletion=trains,
)
Anchor = Annotated[str, NAMED]
