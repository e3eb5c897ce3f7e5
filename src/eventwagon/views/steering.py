"""What became of a switch, a pause or a draining that somebody asked for: the sentences that the command line prints
and the dashboard shows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from ..connection import Connection
from ..contracts.broker import outstanding
from ..contracts.facts import SwitchGivenUp, SwitchWithdrawn, sentence
from ..contracts.lifecycle import State
from ..contracts.registry import Member
from ..display.text import count
from ..errors import BrokerError
from ..event import DEAD, wagon_name

_NAMED = 5
"""The most wagons that are named with what is left in them."""


class NotConfirmed(Exception):
    """Processes have not confirmed a pause in time."""


class Outcome(NamedTuple):
    """What became of it: one sentence, and what else a person should know."""

    text: str
    notes: tuple[str, ...] = ()


def code(revision: str) -> str:
    """The revision as a sentence goes on with it; empty for none."""
    return f", revision {revision}" if revision else ""


def subject(c: Connection, wagon: int | None) -> str:
    """The name of the wagon, or of the train (None)."""
    return c.train.name if wagon is None else wagon_name(c.train.name, wagon)


def switched(c: Connection, old: int, new: int, revision: str | None = None) -> str:
    """That the switch was made."""
    return (
        f"switched from {wagon_name(c.train.name, old)} to {wagon_name(c.train.name, new)}"
        f"{code(revision) if revision else ''}"
    )


def drained(c: Connection, old: int) -> str:
    """That all wagons up to `old` are drained."""
    return f"every wagon up to {wagon_name(c.train.name, old)} is drained and removed"


async def given_up(c: Connection) -> str:
    """Why the requested switch was not made."""
    answers = [sentence(e.fact) async for e in c.journal() if isinstance(e.fact, SwitchGivenUp | SwitchWithdrawn)]
    return answers[-1] if answers else "the switch was given up"


def does(member: Member, role: str) -> bool:
    """Whether somebody has this role by what this member says. Workers of an orchestrator check in as `serve`, or not
    at all: then an observer reports them."""
    if role in member.roles:
        return True
    return role == "work" and ("serve" in member.roles or any(d.workers for d in member.deployed))


async def in_the_way(c: Connection) -> str:
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
    observed = any(does(m, "observe") for m in members)
    coming = [w for w in manifest.spares if w.revision == manifest.revision]
    if manifest.ready:
        wagon = manifest.ready[0]
        who = "the observer to switch" if observed else "an observer, and none is alive"
        sentences.append(f"{wagon_name(c.train.name, wagon.number)}{code(wagon.revision)} is ready; it waits for {who}")
    elif coming:
        wagon = coming[0]
        sentences.append(
            f"It waits for {wagon_name(c.train.name, wagon.number)}{code(wagon.revision)}: "
            f"{wagon.trouble or 'not ready yet'}"
        )
        if not any(does(m, "work") for m in members):
            sentences.append("No worker is alive")
    else:
        sentences.append("It waits for a wagon that is not opened yet")
    if not manifest.ready and not observed:
        sentences.append("No observer is alive")
    return "".join(f"{each}. " for each in sentences)


async def heeded(c: Connection, wagon: int | None, timeout: float) -> Outcome:
    """Wait until every process that knows pauses has stopped handing out. The notes name the processes that the pause
    does not reach, and the events in flight. Raises NotConfirmed after `timeout` seconds, and BrokerError."""
    what, deadline = subject(c, wagon), asyncio.get_running_loop().time() + timeout
    while soon := [h for h in await c.heedless() if h.can and wagon in (None, h.number)]:
        if asyncio.get_running_loop().time() >= deadline:
            who = "; ".join(sorted({f"{h.who} at {wagon_name(c.train.name, h.number)}" for h in soon}))
            raise NotConfirmed(
                f"{what} is paused, but after {timeout:g} s these have not confirmed it: {who}. Each stops handing out "
                "as soon as it sees the manifest; one that can't reach it hands out its events until it ends"
            )
        await asyncio.sleep(0.1)
    deaf = [h for h in await c.heedless() if not h.can and wagon in (None, h.number)]
    notes = [
        f"{wagon_name(c.train.name, h.number)} is NOT paused for {h.who}: a pause does not reach them; end them where "
        "they run"
        for h in deaf
    ]
    held = await _in_hand(c, wagon)
    if held is None:
        notes.append("this broker can't tell how many events were handed out before: their handlers may still run")
    elif held:
        notes.append(
            f"{count(held, 'event')} handed out before: the handlers finish. If their process is frozen or cut off, it "
            "goes on with these once it is back"
        )
    pause = c.manifest.paused
    refused = wagon is None and pause is not None and pause.publishing
    holds = "but not for those named above" if deaf else "no more events are handed out"
    publishers = "are refused" if refused else "go on"
    return Outcome(f"{what} is paused{',' if deaf else ':'} {holds}; publishers {publishers}", tuple(notes))


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


def resumed(c: Connection, wagon: int | None, was: bool) -> Outcome:
    """What became of a `resume`; `was` is what it returned. The notes name the pauses that go on."""
    what, name, manifest = subject(c, wagon), c.train.name, c.manifest
    paused = manifest.paused is not None
    by_itself = " by itself" if paused and wagon is not None else ""
    text = f"{what} is resumed" if was else f"{what} was not paused{by_itself}"
    if wagon is not None:
        return Outcome(text, (f"the whole train is still paused: eventwagon resume {name}",) if paused else ())
    still = [wagon_name(name, w.number) for w in manifest.wagons if w.paused is not None]
    return Outcome(
        text, tuple(f"{each} is still paused by itself: eventwagon resume {name} --wagon {each}" for each in still)
    )


async def in_wagons(c: Connection, old: int) -> str:
    """How many events are left in each wagon that was active up to `old`, and which circuit breakers hold them up."""
    depths, members = await c.depths(), await c.members()
    told = [a for member in members for a in (*member.deployed, *member.attachments) if a.number <= old]
    opened = sorted({name or "the ingress" for a in told for name in a.open})
    held_up = f"; the circuit breaker of {', '.join(opened)} is open" if opened else ""
    left: dict[str, int | None] = {}
    for wagon in (w for w in c.manifest.wagons if w.number <= old and w.active_at is not None):
        name = wagon_name(c.train.name, wagon.number)
        if wagon.state in (State.DRAINED, State.REMOVING):
            left[name] = 0
            continue
        found = [d for channel, d in depths.get(wagon.number, {}).items() if channel != DEAD]
        paused = " (paused)" if c.manifest.pause_of(wagon) is not None else ""
        left[name + paused] = outstanding(found)
    return events_left(left) + held_up


def events_left(left: Mapping[str, int | None]) -> str:
    """How many events are left in wagons, by their names; None: unknown."""
    busy = {name: events for name, events in left.items() if events != 0}
    if not busy:
        goes = "is" if len(left) == 1 else "are"
        return f"no event is left; {', '.join(left)} {goes} being removed" if left else "no wagon is left"
    each = [f"{name} {'?' if events is None else f'{events:,}'}" for name, events in busy.items()]
    more = [f"{count(len(each) - _NAMED, 'wagon')} more"] if len(each) > _NAMED else []
    known = [events for events in busy.values() if events is not None]
    least = "" if len(known) == len(busy) else "at least "
    return f"{least}{count(sum(known), 'event')} left: {', '.join(each[:_NAMED] + more)}"
