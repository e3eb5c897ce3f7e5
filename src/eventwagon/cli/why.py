"""`why` and `dead`: show the decisions with their figures, and the events that could not be handled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from ..contracts.facts import encode_entry, sentence
from ..contracts.registry import Registry
from ..display.text import count as counted
from ..display.text import local_time
from ..errors import EventwagonError, UsageError
from ..event import Event, wagon_name
from ..views.journal import concerns
from ..views.letters import began, figure, letter_of
from .completion import NAMED, Anchor
from .console import DEFAULT_URL, AsJson, Code, Ended, Url, beside, job, json_line, line, out, say
from .looks import run_again
from .target import reached, registered, wagon_number

_SHOWN = 200
"""The most characters that are shown of a dead letter's data."""


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
            entries = [e for e in entries if concerns(e, number)][-last if last else 0 :]
        if not entries:
            if number is not None:
                raise Ended(
                    Code.FAILED,
                    f"the journal has nothing about {wagon_name(name, number)}{await _once(registry, name, number)}",
                )
            say("the journal is empty")
        console = out()
        for entry in entries:
            if as_json:
                json_line(msgspec.Raw(encode_entry(entry)))
            elif console.is_terminal:
                console.print(beside(Text(local_time(entry.at), "dim"), sentence(entry.fact)))
            else:
                line(f"{local_time(entry.at)}  {sentence(entry.fact)}")


async def _once(registry: Registry, name: str, number: int) -> str:
    """The rest of a sentence: whether the wagon ever existed; empty if that is unknown."""
    try:
        following = (await registry.read(name)).manifest.next_number
    except EventwagonError:
        return ""
    if 1 <= number < following:
        return " any more: there was such a wagon, but the journal keeps only the newest entries (Train(keep=…))"
    return (
        f": there was no such wagon, the newest is {wagon_name(name, following - 1)}"
        if following > 1
        else ": there is no wagon yet"
    )


@job
async def dead(target: Anchor, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the dead letters of a train: which event failed, where and why."""
    async with reached(target, url) as c:
        console = out()
        count = 0
        seen: set[str] = set()
        async for event in c.dead_letters():
            if event.id in seen:  # moved twice by a crash
                continue
            seen.add(event.id)
            count += 1
            if as_json:
                json_line(letter_of(event))
                continue
            at, head, *rest = _describe(event, c.train.name)
            if console.is_terminal:
                console.print(beside(Text(at), head))
                for text in rest:
                    console.print(beside(Text("  "), text))
            else:
                line(f"{at}  {head}")
                for text in rest:
                    line(f"  {text}")
        if not as_json:
            line(counted(count, "dead letter"))


def _describe(event: Event, train: str) -> tuple[str, ...]:
    """A dead letter for a person: the time, the event, the reason, and the beginning of its data."""
    x = event.extensions
    where = f"{wagon_name(train, x.get('deadwagon', '?'))} {x.get('deadchannel') or 'ingress'}"
    subject = f", subject {event.subject}" if event.subject is not None else ""
    chain_began = began(event)
    chain = f", of a chain that began {local_time(chain_began)}" if chain_began is not None else ""
    return (
        local_time(figure(x.get("deadat"), event.time)),
        f"{where}, {_attempts(x)}  {event.id}{subject}{chain}",
        x.get("deadbecause", ""),
        f"{event.type} {data_shown(event.data)}",
    )


def data_shown(data: bytes) -> str:
    """The beginning of an event's data, for a person."""
    text = data[: 4 * _SHOWN].decode(errors="backslashreplace")[:_SHOWN]
    return text + (f" … ({len(data):,} bytes)" if len(data) > 4 * _SHOWN or len(text) == _SHOWN else "")


def _attempts(extensions: Mapping[str, str]) -> str:
    number = figure(extensions.get("deadattempts"), -1.0)
    return counted(int(number), "attempt") if number >= 0 else "? attempts"
