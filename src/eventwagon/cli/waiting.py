"""Waits for what a command has requested, and says what it waits for: on a terminal in place, elsewhere a line from
time to time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext

from ..errors import EventwagonError
from .console import Code, Ended, err, say, words

_EVERY = 0.5
"""Seconds between two looks at what is left."""
_FIRST, _AGAIN, _SAME = 2.0, 10.0, 60.0
"""Where no terminal shows it: seconds until the first line, between two lines, and between two that say the same."""


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
