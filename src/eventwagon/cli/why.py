"""`why`: shows the decisions with their figures."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer
from rich.text import Text

from ..contracts.facts import sentence
from ..contracts.registry import Registry
from ..display.text import local_time
from ..errors import BrokerError, RegistryError, UsageError
from ..event import wagon_name
from ..views.journal import entry_as_json, of_wagon
from .completion import NAMED
from .console import DEFAULT_URL, AsJson, Code, Ended, Url, beside, job, json_line, line, out, say
from .looks import run_again
from .target import check_wagon, registered, wagon_number


@job
async def why(
    target: Annotated[
        str | None,
        NAMED,
    ] = None,
    url: Url = DEFAULT_URL,
    last: Annotated[
        int,
        typer.Option(
            "--last", "-n", min=0, metavar="NUMBER", help="Show only this many of the newest entries; 0: all."
        ),
    ] = 0,
    wagon: Annotated[
        str | None,
        typer.Option(
            "--wagon", metavar="WAGON", help="Show only entries about this wagon, by name (orders_v7) or number."
        ),
    ] = None,
    look: Annotated[
        str | None,
        typer.Option("--look", metavar="FILE", help="Replay an observer's looks from this log file; -: stdin."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the journal, oldest first: each decision and each refusal, with its figures.

    With --look it replays what an observer saw in each pass, and what it decided. An observer logs its looks with
    --log-level debug, and reports the last ones when it meets a defect.
    """
    if look is not None:
        if target is not None or wagon is not None:
            raise UsageError("--look FILE takes no TARGET and no --wagon: a look names its train")
        run_again(look, last=last, as_json=as_json)
        return
    if target is None:
        raise UsageError("name the TARGET: module:attribute, or the name of a train that runs at the URL")
    async with registered(target, url) as (registry, name):
        number = wagon_number(wagon, name)
        # a wagon's own entries are counted after they are picked
        entries = [e async for e in registry.entries(name, last=last or None if number is None else None)]
        if number is not None:
            entries = of_wagon(entries, number)[-last if last else 0 :]
            if not entries:
                raise await _nothing_about(registry, name, number)
        if not entries:
            say("the journal is empty")
        console = out()
        for entry in entries:
            if as_json:
                json_line(entry_as_json(entry))
            elif console.is_terminal:
                console.print(beside(Text(local_time(entry.at), "dim"), sentence(entry.fact)))
            else:
                line(f"{local_time(entry.at)}  {sentence(entry.fact)}")


async def _nothing_about(registry: Registry, name: str, number: int) -> Exception:
    """The error: whether the wagon ever existed, where that can be known."""
    more = ""
    with suppress(BrokerError, RegistryError):
        check_wagon((await registry.read(name)).manifest, number)
        more = " any more: there was such a wagon, but the journal keeps only the newest entries (Train(keep=…))"
    return Ended(Code.FAILED, f"the journal has nothing about {wagon_name(name, number)}{more}")
