"""`later`: shows the events that wait for their time, and cancels them; and the options of `publish` for them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from ..connection import Connection
from ..contracts.timetable import CHANNEL, Waiting
from ..display.text import count, local_time
from ..errors import UsageError
from ..event import Event
from ..times import When, when
from ..values import shown
from ..views.letters import data_of
from ..views.schedules import schedules_of
from .completion import Anchor
from .console import DEFAULT_URL, AsJson, Code, Ended, Url, beside, job, json_line, line, out, span
from .schedules import schedule_lines
from .target import reached
from .why import data_shown

After = Annotated[
    float | None,
    typer.Option("--after", min=0.0, metavar="SECONDS", help="Publish them so many seconds from now."),
]
At = Annotated[
    str | None,
    typer.Option("--at", metavar="TIME", help="Publish them at this time, say 2027-01-31T18:00:00+01:00."),
]


@job
async def later(
    target: Anchor,
    url: Url = DEFAULT_URL,
    cancel: Annotated[
        list[str] | None,
        typer.Option("--cancel", metavar="ID", help="Cancel the event with this id. May be given several times."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the events of a train that wait for their time (published with --at or --after, or emitted for later), the
    earliest first; with --cancel, cancel some of them.

    The train's schedules follow, each with its last tick on record, and the next if TARGET names the program; as JSON
    `status --json` has them.

    An event whose publishing has begun can't be cancelled any more: then it exits with 1.
    """
    async with reached(target, url) as c:
        if cancel:
            await _cancel(c, cancel)
            return
        console, waiting = out(), await c.later()
        async for event in c.later_events():
            if as_json:
                json_line(_as_json(event))
            elif console.is_terminal:
                console.print(beside(Text(local_time(event.time)), _described(event)))
            else:
                line(f"{local_time(event.time)}  {_described(event)}")
        if as_json:
            return
        line(told(waiting))
        for each in schedule_lines(await schedules_of(c, waiting.now), waiting.now):
            console.print(each) if console.is_terminal else line(each.plain)


async def _cancel(c: Connection, ids: list[str]) -> None:
    late = [name for name in ids if not await c.cancel(name)]
    if len(late) < len(ids):
        line(f"cancelled {count(len(ids) - len(late), 'event')}")
    if late:
        raise Ended(
            Code.FAILED, f"not cancelled, since they don't wait or are being published already: {', '.join(late)}"
        )


def told(waiting: Waiting) -> str:
    """How many events wait, and when the next is due."""
    if waiting.next_at is None:
        return "later: no event waits"
    return (
        f"later: {count(waiting.count, 'event')} waiting, the next in {span(max(0.0, waiting.next_at - waiting.now))}"
    )


def _described(event: Event) -> str:
    return f"{event.extensions.get(CHANNEL) or 'ingress'}  {event.id}  {event.type} {data_shown(event.data)}"


def _as_json(event: Event) -> dict[str, object]:
    found = msgspec.structs.asdict(event)
    extensions = {name: value for name, value in event.extensions.items() if name != CHANNEL}
    return {
        **found,
        "channel": event.extensions.get(CHANNEL, ""),
        "extensions": extensions,
        "data": data_of(event.data),
    }


def asked(at: str | None, after: float | None) -> When | None:
    """When `publish` is to publish; None: now. Raises UsageError."""
    moment: datetime | float | None = None
    if at is not None:
        try:
            moment = datetime.fromisoformat(at)
        except ValueError:
            raise UsageError(f"--at {shown(at)}: write a time with its zone, say 2027-01-31T18:00:00+01:00") from None
        if moment.tzinfo is None:
            raise UsageError(f"--at {shown(at)}: add its time zone: {at}Z for UTC, or {at}+01:00")
    return when(moment, after)
