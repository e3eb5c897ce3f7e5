"""`replay`: past events of a train are handled once more, in a wagon of their own."""

from __future__ import annotations

from typing import Annotated

import typer

from ..connection import Connection
from ..contracts.replay import PastEvents
from ..display.text import count as counted
from ..errors import UsageError
from ..event import DEAD, wagon_name
from ..policy.letters import moment
from ..views.replays import JobView, job_of, replay_in_words
from .completion import Anchor
from .console import DEFAULT_URL, AsJson, Url, job, json_line, line, paragraph
from .steer import By, Reason
from .target import reached, wagon_number
from .times import time_given


@job
async def replay(
    target: Anchor,
    wagon: Annotated[
        str | None,
        typer.Argument(
            metavar="[WAGON]", help="The wagon, by name (orders_v7) or number; without it, lists the replays."
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    channel: Annotated[
        str | None,
        typer.Option("--channel", metavar="NAME", help="The events of this inner channel. Default: the ingress's."),
    ] = None,
    ids: Annotated[list[str] | None, typer.Option("--id", metavar="ID", help="Only these events.")] = None,
    event_type: Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Only events of this type.")] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", metavar="KEY", help="Only events of this subject.")
    ] = None,
    outcome: Annotated[
        str | None, typer.Option("--outcome", metavar="OUTCOME", help="Only what was handled, or dead.")
    ] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help="Events of that time or later.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Events before that time.")] = None,
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="REVISION", help="The code that handles them. Default: that of new wagons."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", metavar="N", help="Publish at most N events per second.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the events.")] = False,
    cancel: Annotated[
        int | None, typer.Option("--cancel", metavar="NUMBER", help="Publish nothing more of this replay.")
    ] = None,
    reason: Reason = "by hand",
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Have the archived events of a wagon handled once more, with their ids and times, in a wagon of their own.

    The train does it, and this command may end: an observer opens a wagon, publishes the events to it, and removes it
    in the end. The wagon never takes new events. One replay runs at a time. With --json, for the list and for
    --dry-run, each replay is one line.
    """
    given = [
        name
        for name, value in {
            "--channel": channel,
            "--id": ids,
            "--type": event_type,
            "--subject": subject,
            "--outcome": outcome,
            "--since": since,
            "--until": until,
            "--revision": revision,
            "--rate": rate,
            "--dry-run": dry_run or None,
        }.items()
        if value is not None and value != []
    ]
    if given and (wagon is None or cancel is not None):
        raise UsageError(f"{', '.join(given)}: give the WAGON whose events are meant, without --cancel")
    if wagon == DEAD:
        raise UsageError(
            f"dead letters are replayed by wagon: give the WAGON and --outcome dead; `eventwagon dead retry "
            f"{target}` publishes them again at once"
        )
    if as_json and (cancel is not None or (wagon is not None and not dry_run)):
        raise UsageError("--json goes with the list of replays, or with a WAGON and --dry-run")
    async with reached(target, url) as c:
        name = c.train.name
        if cancel is not None:
            if wagon is not None:
                raise UsageError("--cancel takes no WAGON: give the replay's number")
            done = await c.replays.cancel(cancel, reason, by=by)
            line(
                f"replay {cancel} is cancelled" if done else f"no replay {cancel} runs or waits: nothing was cancelled"
            )
            return
        number = wagon_number(wagon, name, "WAGON")
        if number is None:
            _list(c, as_json)
            return
        of = PastEvents(
            wagon=number,
            channel="" if channel in (None, name) else channel or "",
            ids=tuple(ids or ()),
            type=event_type,
            subject=subject,
            outcome=outcome,
            since=None if since is None else moment("--since", time_given("--since", since)),
            until=None if until is None else moment("--until", time_given("--until", until)),
        )
        if dry_run:
            count = await c.replays.preview(of)
            if as_json:
                json_line(JobView(kind="replay", wagon=number, count=count, channel=of.channel or name))
            else:
                line(f"{counted(count, 'event')} of {wagon_name(name, number)} would be replayed")
            return
        made = await c.replays.request(of, reason, revision=revision, rate=rate, by=by)
        paragraph(
            f"replay {made.number} is requested, for {counted(made.count, 'event')} of {wagon_name(name, number)}: "
            f"`eventwagon replay {name}` shows how far it is"
        )


def _list(c: Connection, as_json: bool) -> None:
    standing = c.replays.standing
    if as_json:
        for each in standing:
            json_line(job_of(each, c.manifest))
        return
    if not standing:
        paragraph(f"nothing is replayed now; `eventwagon why {c.train.name}` tells of replays that are over")
    for each in standing:
        paragraph(replay_in_words(each, c.manifest))
