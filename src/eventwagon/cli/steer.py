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
from ..contracts.facts import SwitchGivenUp, SwitchWithdrawn, sentence
from ..contracts.lifecycle import State
from ..contracts.registry import Member
from ..display.redaction import shown
from ..display.text import count
from ..errors import BrokerError, UsageError
from ..event import DEAD, wagon_name
from ..values import check_revision
from .completion import Anchor
from .console import DEFAULT_URL, Code, Ended, Url, job, line, say
from .serve import Infrastructure
from .status import describe_pause
from .target import reached, reached_if_known, wagon_number
from .waiting import in_wagons, interruptible, until

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
                "" if active is None else f"; {wagon_name(c.train.name, active.number)} goes on{_code(active.revision)}"
            )
            line(("the switch is withdrawn" if done else "no switch was requested") + goes_on)
            return
        old, new = await _switched(c, reason, by, timeout, revision, watch)
        line(
            f"switched from {wagon_name(c.train.name, old)} to {wagon_name(c.train.name, new)}"
            + (f", revision {revision}" if revision else "")
        )


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
        line(f"every wagon up to {wagon_name(c.train.name, old)} is drained and removed")


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
    deadline = asyncio.get_running_loop().time() + timeout
    async with reached(target, url) as c:
        number = wagon_number(wagon, c.train.name)
        what = c.train.name if number is None else wagon_name(c.train.name, number)
        before = c.manifest.own_pause(number)
        await c.pause(reason, wagon=number, publishing=publishing, by=by)
        if before is not None:
            say(f"{what} was paused already, {describe_pause(before, time.time())}")
        try:
            await _heeded(c, what, number, timeout, deadline)
        except BrokerError as e:
            raise Ended(
                Code.FAILED, f"{what} is paused, but it can't be known which processes have stopped handing out: {e}"
            ) from e


async def _heeded(c: Connection, what: str, wagon: int | None, timeout: float, deadline: float) -> None:
    """Wait until every process that knows pauses has stopped handing out. Reports the processes that the pause does not
    reach, and the events in flight. Raises Ended if `deadline`, in seconds of the loop's clock, passes."""
    while soon := [h for h in await c.heedless() if h.can and wagon in (None, h.number)]:
        if asyncio.get_running_loop().time() >= deadline:
            who = "; ".join(sorted({f"{h.who} at {wagon_name(c.train.name, h.number)}" for h in soon}))
            raise Ended(
                Code.NOT_IN_TIME,
                f"{what} is paused, but after {timeout:g} s these have not confirmed it: {who}. Each stops handing out "
                "as soon as it sees the manifest; one that can't reach it hands out its events until it ends",
            )
        await asyncio.sleep(0.1)
    deaf = [h for h in await c.heedless() if not h.can and wagon in (None, h.number)]
    for h in deaf:
        say(
            f"{wagon_name(c.train.name, h.number)} is NOT paused for {h.who}: a pause does not reach them; end them "
            "where they run"
        )
    held = await _in_hand(c, wagon)
    if held is None:
        say("this broker can't tell how many events were handed out before: their handlers may still run")
    elif held:
        say(
            f"{count(held, 'event')} handed out before: the handlers finish. If their process is frozen or cut off, it "
            "goes on with these once it is back"
        )
    pause = c.manifest.paused
    refused = wagon is None and pause is not None and pause.publishing
    holds = "but not for those named above" if deaf else "no more events are handed out"
    line(f"{what} is paused{',' if deaf else ':'} {holds}; publishers {'are refused' if refused else 'go on'}")


async def _in_hand(c: Connection, number: int | None) -> int | None:
    """Events that processes have claimed and not settled, in wagon `number` or (None) in all; None if the broker does
    not know it of each channel."""
    found = [
        depth.in_flight
        for n, channels in (await c.depths()).items()
        for name, depth in channels.items()
        if number in (None, n) and name != DEAD
    ]
    return None if None in found else sum(each for each in found if each is not None)


@job
async def resume(
    target: Anchor, url: Url = DEFAULT_URL, wagon: OneWagon = None, reason: Reason = "by hand", by: By = None
) -> None:
    """End the pause of a train or, with --wagon, the pause of that wagon alone. Neither ends the other.

    Waiting events are handed out at once, including retries that became due during the pause. Limits apply again.
    """
    async with reached(target, url) as c:
        number = wagon_number(wagon, c.train.name)
        was = await c.resume(reason, wagon=number, by=by)
        what = c.train.name if number is None else wagon_name(c.train.name, number)
        line(f"{what} is resumed" if was else f"{what} was not paused{'' if wagon is None else ' by itself'}")
        manifest = c.manifest
        if wagon is not None and manifest.paused is not None:
            say(f"the whole train is still paused: eventwagon resume {c.train.name}")
        if wagon is None:
            for each in (w for w in manifest.wagons if w.paused is not None):
                say(
                    f"{wagon_name(c.train.name, each.number)} is still paused by itself: "
                    f"eventwagon resume {c.train.name} --wagon {wagon_name(c.train.name, each.number)}"
                )


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
            return f"{count(len(await c.members()), 'process', 'processes')} left"

        await until(gone(), deadline, "ending", left, goes_on="the processes go on ending")
        line(f"{count(len(before), 'process', 'processes')} ended" if before else "no process was alive")


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
        line(f"{name} is removed: {count(done.channels, 'channel')}{later}{units}, its journal and its manifest")


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
            raise Ended(Code.FAILED, await _given_up(c))
        return old, new
    except TimeoutError:
        raise Ended(
            Code.NOT_IN_TIME,
            f"not switched within {timeout:g} s; the request stays. {await _in_the_way(c)}`eventwagon why "
            f"{c.train.name}` says more, {_WITHDRAW.format(c.train.name)}",
        ) from None


async def _in_the_way(c: Connection) -> str:
    """What the requested switch waits for, in sentences; empty if unknown."""
    try:
        manifest, members = (await c.refresh()).manifest, await c.members()
    except BrokerError as e:
        return f"What it waits for can't be read: {e}. "
    asked, sentences = manifest.request, list[str]()
    if asked is not None and asked.revision is not None:
        running = {m.revision for m in members if {"work", "serve"} & set(m.roles)}
        running |= {d.revision for m in members for d in m.deployed if d.workers}
        if asked.revision not in running:
            others = f"revision {', '.join(sorted(running - {''}))}" if running - {""} else "no revision"
            sentences.append(f"No live worker reports revision {asked.revision}; they report {others}")
    coming = [w for w in manifest.in_state(State.PROVISIONING) if w.revision == manifest.revision]
    if coming:
        wagon = coming[0]
        sentences.append(
            f"It waits for {wagon_name(c.train.name, wagon.number)}{_code(wagon.revision)}: "
            f"{wagon.trouble or 'not ready yet'}"
        )
    elif not manifest.ready:
        sentences.append("It waits for a wagon that is not opened yet")
    return "".join(f"{each}. " for each in sentences)


def _code(revision: str) -> str:
    return f", revision {revision}" if revision else ""


async def _given_up(c: Connection) -> str:
    answers = [sentence(e.fact) async for e in c.journal() if isinstance(e.fact, SwitchGivenUp | SwitchWithdrawn)]
    return answers[-1] if answers else "the switch was given up"


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
    elif not any(role in m.roles for m in members):
        who = {"observe": "observer", "work": "worker"}[role]
        say(f"no {who} of train {c.train.name} is alive: {then} (eventwagon run, or {role})")
