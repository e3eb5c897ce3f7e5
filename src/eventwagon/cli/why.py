"""`why` and `dead`: what was decided, on which figures, and what could not be handled."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.markup import escape

from ..event import Event
from ..facts import Entry, Switched, WagonOpened, WagonRemoved, encode_entry, sentence
from .console import DEFAULT_URL, Anchor, AsJson, Url, job, line, local_time, out, say
from .target import reached, registered


@job
async def why(
    target: Anchor,
    url: Url = DEFAULT_URL,
    last: Annotated[int, typer.Option("--last", "-n", min=0, help="Only so many of the newest entries; 0: all.")] = 0,
    wagon: Annotated[int | None, typer.Option("--wagon", help="Only what concerns the wagon of this number.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what was decided and what was refused, each with its figures: the journal, oldest first."""
    async with registered(target, url) as (registry, name):
        # a wagon's own entries are counted after they are picked
        entries = [e async for e in registry.entries(name, last=last or None if wagon is None else None)]
        if wagon is not None:
            entries = [e for e in entries if _concerns(e, wagon)][-last if last else 0 :]
        if not entries:
            say(f"the journal has nothing about wagon {wagon}" if wagon is not None else "the journal is empty")
        console = out()
        for entry in entries:
            if as_json:
                line(encode_entry(entry).decode())
            elif console.is_terminal:
                console.print(f"[dim]{local_time(entry.at)}[/dim]  {escape(sentence(entry.fact))}")
            else:
                line(f"{local_time(entry.at)}  {sentence(entry.fact)}")


def _concerns(entry: Entry, number: int) -> bool:
    match entry.fact:
        case Switched(old=old, new=new):
            return number in (old, new)
        case WagonOpened(number=n, unit=unit):
            return number in (n, unit)
        case WagonRemoved(wagon=wagon):
            return wagon.number == number
        case fact:
            return getattr(fact, "number", None) == number


@job
async def dead(target: Anchor, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the dead letters of a train: which event, where and why it died."""
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
                line(msgspec.json.encode(_letter(event)).decode())
            else:
                x = event.extensions
                where = f"wagon {x.get('deadwagon', '?')} {x.get('deadchannel') or 'ingress'}"
                head = (
                    f"{local_time(float(x.get('deadat', event.time)))}  {where}, {x.get('deadattempts', '?')} attempts"
                )
                console.print(f"{head}  [dim]{event.id}[/dim]", soft_wrap=True)
                console.print(f"  {escape(x.get('deadbecause', ''))}", soft_wrap=True)
                console.print(
                    f"  {event.type} {escape(event.data[:200].decode(errors='replace'))}", soft_wrap=True, style="dim"
                )
        if not as_json:
            line(f"{count:,} dead letters")


def _letter(event: Event) -> dict[str, object]:
    try:
        data: object = msgspec.json.decode(event.data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        data = event.data  # as Base64
    x = event.extensions
    return {
        "id": event.id,
        "type": event.type,
        "subject": event.subject,
        "time": event.time,
        "because": x.get("deadbecause", ""),
        "channel": x.get("deadchannel", ""),
        "wagon": int(x.get("deadwagon", 0)),
        "attempts": int(x.get("deadattempts", 0)),
        "at": float(x.get("deadat", 0)),
        "data": data,
    }
