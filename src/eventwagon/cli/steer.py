"""`switch`, `drain`, `pause`, `resume`, `stop`, `remove`: an operator steers a train."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated

import typer

from ..connection import Connection
from ..contracts.registry import Member, process_of
from ..display.redaction import shown
from ..display.text import count
from ..errors import BrokerError, UsageError
from ..event import wagon_name
from ..values import check_revision
from ..views.steering import (
    NotConfirmed,
    Outcome,
    code,
    does,
    drained,
    given_up,
    heeded,
    in_the_way,
    in_wagons,
    resumed,
    switched,
)
from ..views.train import describe_pause
from .completion import Anchor
from .console import DEFAULT_URL, Code, Ended, Url, job, line, say
from .serve import Infrastructure
from .target import reached, reached_if_known, wagon_number
from .waiting import interruptible, until

Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="The reason, recorded in the journal.")]
By = Annotated[
    str | None,
    typer.Option(
        "--by",
        envvar="EVENTWAGON_BY",
        metavar="NAME",
        help="Your name, recorded in the journal. Default: this user at this host.",
    ),
]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.0, metavar="SECONDS", help="Seconds to wait until it is done.")
]

_WITHDRAW = "`eventwagon switch {} --withdraw` withdraws it"


@job
async def switch(
    target: Anchor,
    url: Url = DEFAULT_URL,
    revision: Annotated[
        str | None,
        typer.Option(
            "--revision",
            metavar="REVISION",
            help="Revision of the next wagons' code: an image's tag, a function's version, a path.",
        ),
    ] = None,
    watch_errors: Annotated[
        str | None,
        typer.Option(
            "--watch-errors",
            metavar="SHARE",
            help="Switch back if a larger share of the new wagon's handlings fails: 2% or 0.02.",
        ),
    ] = None,
    withdraw: Annotated[
        bool,
        typer.Option("--withdraw", help="Withdraw a requested switch that is not made yet. The train keeps its code."),
    ] = False,
    reason: Reason = "by hand",
    by: By = None,
    timeout: Timeout = 30.0,
) -> None:
    """Switch to the next wagon now, without waiting for the limit, and wait until it is done.

    With --revision the next wagon runs other code, and the old wagon drains with the old code. To go back, switch
    again; with --watch-errors the train does so by itself.

    If a switch is not done in time, its request stays until it is done, given up, replaced by a switch to another
    revision, or withdrawn (--withdraw).
    """
    if withdraw and (revision is not None or watch_errors is not None):
        raise UsageError("--withdraw takes no --revision and no --watch-errors: it withdraws any requested switch")
    if revision is not None:
        check_revision(revision)
    watch = None if watch_errors is None else share(watch_errors)
    if watch is not None and revision is None:
        raise UsageError("--watch-errors needs --revision: only new code is watched")
    async with reached(target, url) as c:
        if withdraw:
            done = await c.withdraw_switch(reason, by=by)
            active = c.manifest.active
            goes_on = (
                "" if active is None else f"; {wagon_name(c.train.name, active.number)} goes on{code(active.revision)}"
            )
            line(("the switch is withdrawn" if done else "no switch was requested") + goes_on)
            return
        old, new = await _switched(c, reason, by, timeout, revision, watch)
        line(switched(c, old, new, revision))


def share(text: str) -> float:
    """Parse a share above 0 and at most 1, written `2%` or `0.02`. Raises UsageError."""
    with suppress(ValueError):
        value = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
        if 0 < value <= 1:
            return value
    raise UsageError(f"--watch-errors {text!r}: write a share above 0 and at most 1, as 2% or 0.02")


@job
async def drain(
    target: Anchor,
    url: Url = DEFAULT_URL,
    reason: Reason = "drain, by hand",
    by: By = None,
    timeout: Timeout = 300.0,
) -> None:
    """Switch now, then wait until all earlier events are handled and their wagons are removed.

    Meanwhile it says how many events are left in which wagons. Ctrl-C ends the waiting only: the train goes on
    draining.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    async with reached(target, url) as c:
        await _warn_without(c, "work", "no event is handled until one is")
        for wagon in c.manifest.wagons:
            if c.manifest.pause_of(wagon) is not None:
                say(f"{wagon_name(c.train.name, wagon.number)} is paused: it drains once it is resumed")
        old, _ = await _switched(c, reason, by, timeout)
        watch = f"`eventwagon status {c.train.name} --watch` shows it"
        goes_on = f"{c.train.name} goes on draining while processes run it; {watch}"
        await until(c.wait_drained(old), deadline, "draining", partial(in_wagons, c, old), goes_on=goes_on)
        line(drained(c, old))


OneWagon = Annotated[
    str | None,
    typer.Option("--wagon", metavar="WAGON", help="Only this wagon, by name (orders_v7) or number; others go on."),
]


@job
async def pause(
    target: Anchor,
    url: Url = DEFAULT_URL,
    wagon: OneWagon = None,
    publishing: Annotated[
        bool,
        typer.Option("--publishing", help="Refuse publishers too (TrainPaused). Default: new events are still stored."),
    ] = False,
    reason: Reason = "by hand",
    by: By = None,
    timeout: Timeout = 5.0,
) -> None:
    """Stop handing out events until `resume`, and wait until every process has stopped.

    Handlers in flight finish; prefetched events are given back, which counts no attempt. The pause is stored in the
    manifest, so restarts do not end it. While a whole train is paused, its limit switches no wagons.
    """
    async with reached(target, url) as c:
        number = wagon_number(wagon, c.train.name)
        what = c.train.name if number is None else wagon_name(c.train.name, number)
        before = c.manifest.own_pause(number)
        await c.pause(reason, wagon=number, publishing=publishing, by=by)
        if before is not None:
            say(f"{what} was paused already, {describe_pause(before, time.time())}")
        try:
            _tell(await heeded(c, number, timeout))
        except NotConfirmed as e:
            raise Ended(Code.NOT_IN_TIME, str(e)) from None
        except BrokerError as e:
            raise Ended(
                Code.FAILED, f"{what} is paused, but it can't be known which processes have stopped handing out: {e}"
            ) from e


def _tell(outcome: Outcome) -> None:
    for note in outcome.notes:
        say(note)
    line(outcome.text)


@job
async def resume(
    target: Anchor, url: Url = DEFAULT_URL, wagon: OneWagon = None, reason: Reason = "by hand", by: By = None
) -> None:
    """End the pause of a train or, with --wagon, the pause of that wagon alone. Neither ends the other.

    Waiting events are handed out at once, including retries that became due during the pause. Limits apply again.
    """
    async with reached(target, url) as c:
        number = wagon_number(wagon, c.train.name)
        outcome = resumed(c, number, await c.resume(reason, wagon=number, by=by))
        line(outcome.text)
        for note in outcome.notes:
            say(note)


@job
async def stop(
    target: Anchor, url: Url = DEFAULT_URL, reason: Reason = "by hand", by: By = None, timeout: Timeout = 60.0
) -> None:
    """Ask every process that runs the train to end gracefully, and wait until all have ended.

    New events are still stored; they are handled when a process runs again.
    """
    deadline = asyncio.get_running_loop().time() + timeout
    async with reached(target, url) as c:
        before, unknown = await _alive(c)
        await c.request_stop(reason, by=by)
        if unknown is not None:
            raise Ended(
                Code.FAILED, f"all processes are asked to end, but which are alive can't be known: {unknown}"
            ) from unknown

        async def gone() -> None:
            while await c.members():  # noqa: ASYNC110 - members have no watch to wait for
                await asyncio.sleep(0.1)

        async def left() -> str:
            return f"{_processes(await c.members())} left"

        await until(gone(), deadline, "ending", left, goes_on="the processes go on ending")
        line(f"{_processes(before)} ended" if before else "no process was alive")


def _processes(members: Sequence[Member]) -> str:
    return count(len({process_of(m) for m in members}), "process", "processes")


@job
async def remove(
    target: Anchor,
    url: Url = DEFAULT_URL,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="End all processes of the train, then delete it with its events and dead letters. This can't be "
            "undone.",
        ),
    ] = False,
    orchestrator: Infrastructure = None,
    reason: Reason = "by hand",
    by: By = None,
    timeout: Annotated[
        float,
        typer.Option("--timeout", min=0.0, metavar="SECONDS", help="With --force: seconds that processes have to end."),
    ] = 60.0,
) -> None:
    """Delete a train: its channels, dead letters, journal and manifest; with --orchestrator also its workers' units.

    It is refused while events or dead letters are left, or processes of the train are alive; --force deletes them. If
    it was interrupted, run it again. If there is no such train, it exits with 1; with --force, with 0.
    """
    async with reached_if_known(target, url, orchestrator=orchestrator) as (c, known):
        name = c.train.name
        done = await c.remove(reason, force=force, timeout=max(timeout, 0.001), by=by)
        if not done.existed and not done.channels:
            there = f"; there are: {', '.join(known)}" if known else ""
            nothing = f"there is no train {name!r} at {shown(url)}: nothing to remove{there}"
            if not force:
                raise Ended(Code.FAILED, nothing)
            line(nothing)
            return
        units = f", {count(done.units, 'unit')} of workers" if done.units else ""
        later = f", {count(done.later, 'event')} for later" if done.later else ""
        replays = f", {count(done.replays, 'replay or undo', 'replays and undos')}" if done.replays else ""
        line(
            f"{name} is removed: {count(done.channels, 'channel')}{later}{replays}{units}, its journal and its manifest"
        )


async def _switched(
    c: Connection, reason: str, by: str | None, timeout: float, revision: str | None = None, watch: float | None = None
) -> tuple[int, int]:
    await _warn_without(c, "observe", "the switch is requested, and made once one is")
    old = await c.request_switch(reason, revision=revision, watch_errors=watch, by=by)
    try:
        with interruptible(f"the switch stays requested; {_WITHDRAW.format(c.train.name)}"):
            async with asyncio.timeout(timeout):
                new = await c.wait_answered()
        if new == old:
            raise Ended(Code.FAILED, await given_up(c))
        return old, new
    except TimeoutError:
        raise Ended(
            Code.NOT_IN_TIME,
            f"not switched within {timeout:g} s; the request stays. {await in_the_way(c)}`eventwagon why "
            f"{c.train.name}` says more, {_WITHDRAW.format(c.train.name)}",
        ) from None


async def _alive(c: Connection) -> tuple[Sequence[Member], BrokerError | None]:
    """The train's live processes; if the registry can't list them, none and its error, since a command by hand must not
    depend on them."""
    try:
        return await c.members(), None
    except BrokerError as e:
        return (), e


async def _warn_without(c: Connection, role: str, then: str) -> None:
    members, unknown = await _alive(c)
    if unknown is not None:
        say(f"which processes are alive can't be known: {unknown}")
    elif not any(does(m, role) for m in members):
        who = {"observe": "observer", "work": "worker"}[role]
        say(f"no {who} of train {c.train.name} is alive: {then} (eventwagon run, or {role})")
