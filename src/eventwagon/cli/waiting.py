"""Waits for what a command has requested, and says what it waits for: on a terminal in place, elsewhere a line from
time to time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

from ..connection import Connection
from ..contracts.broker import outstanding
from ..contracts.lifecycle import State
from ..display.text import count
from ..errors import EventwagonError
from ..event import DEAD, wagon_name
from .console import Code, Ended, err, say, words

_EVERY = 0.5
"""Seconds between two looks at what is left."""
_FIRST, _AGAIN, _SAME = 2.0, 10.0, 60.0
"""Where no terminal shows it: seconds until the first line, between two lines, and between two that say the same."""
_NAMED = 5
"""The most wagons that are named with what is left in them."""


async def until(
    done: Awaitable[None], deadline: float, doing: str, left: Callable[[], Awaitable[str]], *, goes_on: str
) -> None:
    """Wait for `done`, and show what is `left`. `goes_on` is a sentence on what happens if nobody waits for it. Raises
    Ended if `deadline`, in seconds of the loop's clock, passes, or on Ctrl-C."""
    console, loop = err(), asyncio.get_running_loop()
    task = asyncio.ensure_future(done)
    before, next_line, next_same = "", loop.time() + _FIRST, 0.0
    try:
        with interruptible(goes_on), console.status(doing) if console.is_terminal else nullcontext() as spinner:
            while not task.done():
                now = loop.time()
                if now >= deadline:
                    raise Ended(Code.NOT_IN_TIME, f"not done in time: {await left()}; {goes_on}")
                if spinner is not None or now >= next_line:
                    try:
                        text = f"{doing}: {await left()}"
                    except EventwagonError as e:
                        text = f"{doing}: {e}"
                    if spinner is not None:
                        spinner.update(words(text))
                    elif not task.done() and (text != before or now >= next_same):
                        say(text)
                        before, next_line, next_same = text, now + _AGAIN, now + _SAME
                await asyncio.wait([task], timeout=min(_EVERY, deadline - now))
        await task
    finally:
        task.cancel()


@contextmanager
def interruptible(goes_on: str) -> Iterator[None]:
    """Ctrl-C in its body raises Ended with this sentence on what happens from now on."""
    try:
        yield
    except asyncio.CancelledError:  # asyncio.run cancels the command
        raise Ended(Code.INTERRUPTED, f"interrupted: {goes_on}") from None


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
