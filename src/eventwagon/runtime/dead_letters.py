"""Dead letters: what is kept of an event that no attempt can handle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import msgspec

from ..contracts.broker import Broker
from ..contracts.facts import EventDied, sentence
from ..contracts.manifest import Manifest
from ..display.text import plain
from ..errors import ChannelGone, EventRefused
from ..event import DEAD, Channel, Event
from .bulkhead import ExcInfo, log_safely

REJECTED = "rejected"
"""The first word of the reason if the handler itself refused the event (`Reject`)."""

_logger = logging.getLogger("eventwagon.worker")


def died(event: Event, channel: str, wagon: int, because: str, attempt: int, now: float) -> tuple[str, Event]:
    """The event's dead letter: the event as it was, with the reason, place and time as extension attributes. The
    attempts of one that was retried after an earlier death go on from there."""
    if (before := event.extensions.get("deadattempts", "")) and "deadretries" in event.extensions:
        attempt += int(before) if before.isascii() and before.isdigit() and len(before) < 10 else 0
    why = {
        "deadbecause": plain(because),
        "deadchannel": channel,
        "deadwagon": str(wagon),
        "deadattempts": str(attempt),
        "deadat": f"{now:.3f}",
    }
    return DEAD, msgspec.structs.replace(event, extensions={**event.extensions, **why})


def log_death(fact: EventDied, handler: str, exc_info: ExcInfo | None) -> None:
    """Log a death in one line: at ERROR, or at WARNING if the handler rejected the event."""
    log_safely(
        _logger,
        logging.WARNING if fact.because.startswith(REJECTED) else logging.ERROR,
        "%s: %s (handler %s); `eventwagon dead %s` lists it",
        fact.train,
        plain(sentence(fact), 2000),
        handler,
        fact.train,
        exc_info=exc_info,
    )


def smaller(letter: Event, *, cut: bool) -> Event | None:
    """A smaller form of `letter`, which the broker refused; None if there is none.

    A letter is larger than its event, and may have attributes that can't be stored. First it loses everything that the
    event brought besides its data. Then, if `cut` (the broker refused it for good), it loses the end of its data, more
    each time; `deadsize` is the original number of bytes.
    """
    ours = {name: plain(value, 100) for name, value in letter.extensions.items() if name.startswith("dead")}
    bare = msgspec.structs.replace(
        letter,
        id=plain(letter.id, 200),
        type=plain(letter.type, 200),
        source=plain(letter.source, 200),
        subject=None if letter.subject is None else plain(letter.subject, 200),
        content_type=plain(letter.content_type, 100),
        extensions=ours,
    )
    if bare != letter:
        return bare
    size = len(letter.data)
    if not size or not cut:
        return None
    less = size // 2 if "deadsize" in ours else min(size, 1024)
    extensions = {"deadsize": str(size), **ours}
    return msgspec.structs.replace(letter, data=letter.data[: size - less], extensions=extensions)


async def bury(broker: Broker, train: str, letter: Event, timeout: float) -> None:
    """Store a letter of no wagon among the train's own dead letters; in a smaller form if the broker refuses it.
    `timeout` is in seconds, for each attempt. Not idempotent. Raises BrokerError, TimeoutError."""
    own = Channel(train, 0, DEAD)
    while True:
        try:
            async with asyncio.timeout(timeout):
                await broker.create(own)
                await broker.publish(own, [letter])
            return
        except EventRefused:
            less = smaller(letter, cut=True)
            if less is None:
                raise
            letter = less


async def kept(broker: Broker, manifest: Manifest) -> AsyncIterator[Event]:
    """All dead letters of a train: first those that were moved out of removed wagons, then those of live wagons."""
    live = [manifest.dead_letters(w) for w in manifest.wagons]
    for channel in (Channel(manifest.train, 0, DEAD), *live):
        try:
            async for event in broker.read(channel):
                yield event
        except ChannelGone:
            continue
