"""`why` and `dead`: show the decisions with their figures, and the events that could not be handled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from ..contracts.facts import (
    DeliveryPaused,
    DeliveryResumed,
    Entry,
    Switched,
    WagonOpened,
    WagonRemoved,
    encode_entry,
    sentence,
)
from ..contracts.registry import Registry
from ..display.text import count as counted
from ..display.text import local_time
from ..errors import EventwagonError, UsageError
from ..event import DEATH, Event, born, wagon_name
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
            entries = [e for e in entries if _concerns(e, number)][-last if last else 0 :]
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


def _concerns(entry: Entry, number: int) -> bool:
    match entry.fact:
        case Switched(old=old, new=new):
            return number in (old, new)
        case WagonOpened(number=n, unit=unit):
            return number in (n, unit)
        case DeliveryPaused(number=None) | DeliveryResumed(number=None):
            return True
        case WagonRemoved(wagon=wagon):
            return wagon.number == number
        case fact:
            return getattr(fact, "number", None) == number


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
                json_line(_letter(event))
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
    began = _began(event)
    chain = f", of a chain that began {local_time(began)}" if began is not None else ""
    return (
        local_time(_number(x.get("deadat"), event.time)),
        f"{where}, {_attempts(x)}  {event.id}{subject}{chain}",
        x.get("deadbecause", ""),
        f"{event.type} {data_shown(event.data)}",
    )


def _began(event: Event) -> float | None:
    """When the event was published from which this one of an inner channel came, by the time in its id; None if it is
    not of an inner channel, or its id has no time."""
    has_time = len(event.id) == 36 and event.id[14] == "7"
    return born(event) if event.extensions.get("deadchannel") and has_time else None


def data_shown(data: bytes) -> str:
    """The beginning of an event's data, for a person."""
    text = data[: 4 * _SHOWN].decode(errors="backslashreplace")[:_SHOWN]
    return text + (f" … ({len(data):,} bytes)" if len(data) > 4 * _SHOWN or len(text) == _SHOWN else "")


def _attempts(extensions: Mapping[str, str]) -> str:
    number = _number(extensions.get("deadattempts"), -1.0)
    return counted(int(number), "attempt") if number >= 0 else "? attempts"


def _letter(event: Event) -> dict[str, object]:
    x = event.extensions
    return {
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "subject": event.subject,
        "time": event.time,
        "began": _began(event),
        "content_type": event.content_type,
        "extensions": {name: value for name, value in x.items() if name not in DEATH},
        "because": x.get("deadbecause", ""),
        "channel": x.get("deadchannel", ""),
        "wagon": int(_number(x.get("deadwagon"), 0)),
        "attempts": int(_number(x.get("deadattempts"), 0)),
        "at": _number(x.get("deadat"), 0.0),
        "data": data_of(event.data),
    }


def data_of(data: bytes) -> object:
    """JSON unchanged, but on one line; anything else as bytes, which are encoded in Base64."""
    try:
        data.decode()
        return msgspec.Raw(msgspec.json.format(data, indent=-1))
    except (ValueError, RecursionError):
        return data


def _number(text: str | None, otherwise: float) -> float:
    """`text` as a number, or `otherwise`: another program may have written the dead letter, with anything in it."""
    try:
        number = float(text or "")
    except ValueError:
        return otherwise
    return number if math.isfinite(number) else otherwise
