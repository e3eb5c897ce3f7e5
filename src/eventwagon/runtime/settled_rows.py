"""What came of a channel's events, kept for the archive in the wagon's channel for that, before they are settled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Sequence
from functools import partial

from ..backoff import Backoff
from ..contracts.broker import Delivery, Depth
from ..contracts.rows import Outcome, Row, in_parts, packed, row_of, without_data
from ..contracts.timetable import CHANNEL as TO
from ..display.text import said
from ..errors import ChannelGone, Displaced, EventRefused
from ..event import ARCHIVE, DEAD, Channel, Event
from .bulkhead import is_ours
from .halving import by_halves
from .publish_queue import MOST_BYTES
from .runtime import Runtime, report_failure
from .worker_states import PAUSES

_PART = 131_072
"""About how many bytes of rows go into one message. A message is never larger than `max_event_bytes`, unless a single
row is."""

_AT_ONCE = MOST_BYTES // _PART
"""Messages in one call to the broker."""
_DEFECTS = 10
"""After this many failures of a driver in a row the rows themselves count as the cause."""

Insist = Callable[[str, Callable[[], Awaitable[object]]], Awaitable[None]]
"""Makes a call until it succeeds. Raises EventRefused."""


class _RefusedError(Exception):
    """These rows can't be stored as they are."""


class SettledRows:
    """Keeps the rows of one channel's events, in one process. `insist` is the settler's."""

    def __init__(self, runtime: Runtime, source: Channel, insist: Insist) -> None:
        self._runtime = runtime
        self._source = source
        self._channel = Channel(source.train, source.wagon, ARCHIVE)
        self._insist = insist
        self._step = f"keeping rows in {self._channel}"
        self._told: set[str] = set()

    async def keep(
        self, settled: Sequence[tuple[Delivery, Sequence[tuple[str, Event]]]], skipped: Container[int] = ()
    ) -> None:
        """Keep what came of these events, each with what it emitted; durable when it returns. A crash before they are
        settled leaves rows, and the events are handled again: the archive has one row for each event and outcome.
        `skipped`: those that were not handled, by identity."""
        now, name = self._runtime.clock(), self._source.name
        rows = [
            row_of(delivery.event, name, "skipped", delivery.attempt, now)
            if id(delivery) in skipped
            else _row(delivery, emitted, name, now)
            for delivery, emitted in settled
        ]
        parts = list(in_parts(rows, min(_PART, self._runtime.publishing.now.max_event_bytes)))
        for start in range(0, len(parts), _AT_ONCE):
            await self._store(parts[start : start + _AT_ONCE])

    async def _store(self, parts: Sequence[Sequence[Row]]) -> None:
        """Store the parts. Rows that the broker refuses for good are found by halves."""
        await by_halves(parts, self._insist_on, self._smaller, is_cause=lambda e: isinstance(e, _RefusedError))

    async def _smaller(self, part: Sequence[Row], refused: BaseException) -> None:
        """Store the part, which the broker refuses, in halves; a single row without its data."""
        if len(part) > 1:
            half = len(part) // 2
            await self._store([part[:half]])
            await self._store([part[half:]])
        elif (row := part[0]).data or row.extensions:
            self._tell(f"the archive gets an event without its data, which can't be part of a row: {refused}")
            await self._store([[without_data(row)]])
        else:
            self._tell(f"the archive will lack an event whose row can't be stored: {refused}")

    async def _insist_on(self, parts: Sequence[Sequence[Row]]) -> None:
        """Store the parts, a message each. Raises _RefusedError if the broker refuses them for good, or its driver
        always fails on them."""
        messages = [packed(part, self._source.train) for part in parts]
        backoff, why = Backoff(*PAUSES), ""
        for _ in range(_DEFECTS):
            try:
                await self._insist(self._step, partial(self._publish, messages))
                return
            except EventRefused as e:
                raise _RefusedError(str(e)) from e
            except BaseException as e:
                if issubclass(type(e), asyncio.CancelledError) or is_ours(e):
                    raise
                self._runtime.bulkhead.report(self._step, e)
                why = said(e)
            await asyncio.sleep(backoff.next())
        raise _RefusedError(why)

    async def _publish(self, messages: Sequence[Event]) -> None:
        """Store them. The wagon may have been opened before the train had an archive, or somebody has deleted the
        channel: then it is made."""
        broker = self._runtime.broker
        try:
            await broker.publish(self._channel, messages)
        except ChannelGone:
            if (await broker.depth([self._source]))[0] == Depth():
                raise
            try:
                await broker.create(self._channel)
            except Displaced as e:
                self._tell(f"the archive will lack what is settled from now on: {e}")
                return
            await broker.publish(self._channel, messages)

    def _tell(self, because: str) -> None:
        """Once for each reason."""
        if because not in self._told and len(self._told) < 10:
            self._told.add(because)
            report_failure(self._runtime, self._step, because)


def _row(delivery: Delivery, emitted: Sequence[tuple[str, Event]], channel: str, now: float) -> Row:
    event = delivery.event
    for name, child in emitted:
        if name == DEAD and child.id == event.id:
            why = child.extensions
            attempts = why.get("deadattempts", "")
            tried = int(attempts) if attempts.isascii() and attempts.isdigit() else delivery.attempt
            return row_of(event, channel, "dead", tried, now, why.get("deadbecause", ""))
    outcome: Outcome = "passed" if not channel and TO in event.extensions else "handled"
    return row_of(event, channel, outcome, delivery.attempt, now)
