"""The payloads of one `publish_many`, as lists of events large enough for a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, cast

from ..errors import UsageError
from ..event import CheckedEvents, Event, check_word
from ..values import class_name, shown
from .publish_queue import MOST_BYTES
from .tasks import outcome_of

Make = Callable[[Sequence[object]], Iterator[Event]]
"""Makes events of payloads, one by one; raises for the first that can't be published."""

_SLICE = 64
"""How many payloads of an iterable are taken together, so that they share the cost of times and ids."""
_TURN = 0.1
"""Seconds after which the payloads taken so far are sent, even if they are no full batch."""


def check_payloads(payloads: object) -> None:
    """Raise UsageError if it is no iterable of payloads, or is one by mistake."""
    kind = type(payloads)
    is_one = issubclass(kind, str | bytes | bytearray | memoryview | Mapping | Event)
    if is_one or hasattr(kind, "model_dump") or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
        raise UsageError(
            f"publish_many: give several payloads, not one {class_name(payloads)}; `publish` takes a single one"
        )
    if not issubclass(kind, AsyncIterable | Iterable):
        raise UsageError(f"publish_many: {class_name(payloads)} can't be iterated over")


def batches(
    payloads: Iterable[object] | AsyncIterable[object], make: Make, most: int
) -> AsyncGenerator[list[Event], None]:
    """The events of the payloads, in order, in lists of up to `most` events and about `MOST_BYTES`.

    What the payloads' iterator or `make` raises is raised after everything that came before was yielded. Close it
    (`aclosing`): an asynchronous iterator is then closed, too.
    """
    if issubclass(type(payloads), AsyncIterable):
        return _of_stream(cast("AsyncIterable[object]", payloads), make, most)
    return _of_iterable(cast("Iterable[object]", payloads), make, most)


async def _of_iterable(payloads: Iterable[object], make: Make, most: int) -> AsyncGenerator[list[Event], None]:
    for events in lists(payloads, make, most, asyncio.get_running_loop().time):
        yield events


def lists(
    payloads: Iterable[object], make: Make, most: int, time: Callable[[], float]
) -> Generator[list[Event], None, None]:
    """`batches` of a plain iterable, without an event loop. `time` gives seconds that only grow."""
    iterator = iter(payloads)
    is_here = type(payloads) in (list, tuple, CheckedEvents)
    events: list[Event] = []
    room = MOST_BYTES
    ended = False
    failure: BaseException | None = None
    while not ended:
        some: list[object] = []
        until = time() + _TURN
        try:
            for payload in islice(iterator, _SLICE):
                some.append(payload)
                if not is_here and time() >= until:
                    break
            else:
                ended = len(some) < _SLICE
        except KeyboardInterrupt:
            raise
        except BaseException as e:  # noqa: BLE001 - the user's own, raised below
            ended, failure = True, e
        made: list[Event] = []
        try:
            made.extend(make(some))  # one by one: those before a failure are kept
        except KeyboardInterrupt:
            raise
        except BaseException as e:  # noqa: BLE001 - of an earlier payload than the iterator's own failure
            ended, failure = True, e
        for event in made:
            events.append(event)
            room -= len(event.data)
            if len(events) == most or room <= 0:
                yield events
                events, room = [], MOST_BYTES
        if events and (ended or len(some) < _SLICE):
            yield events
            events, room = [], MOST_BYTES
    if failure is not None:
        raise failure


class Attributes:
    """Calls the functions of one `publish_many` that say the id and the subject of each payload's event. Use it for the
    payloads in their order: its errors say which one they are about."""

    def __init__(self, subject: Callable[[Any], object] | None, event_id: Callable[[Any], object] | None) -> None:
        for name, function in (("subject", subject), ("id", event_id)):
            if function is not None and not callable(function):
                raise UsageError(
                    f"publish_many: {name} must be a function that takes a payload, not {shown(function)}: "
                    f"{name}=lambda order: order.{'customer' if name == 'subject' else 'number'}"
                )
        self._subject = subject
        self._id = event_id
        self._index = -1

    def of(self, payload: object) -> tuple[str | None, str | None]:
        """The id and the subject for the next payload; None where no function says it. Raises UsageError, and what the
        functions raise, with a note."""
        self._index += 1
        is_event = issubclass(type(payload), Event)
        if is_event and (self._subject is not None or self._id is not None):
            raise UsageError(f"publish_many: payload {self._index} is an Event: it has its own id and subject")
        event_id = None if self._id is None else self._word("id", self._id, payload)
        subject = None if self._subject is None else self._word("subject", self._subject, payload)
        return event_id, subject

    def _word(self, attribute: str, function: Callable[[Any], object], payload: object) -> str | None:
        try:
            value = function(payload)
        except BaseException as e:
            with suppress(Exception):
                e.add_note(f"eventwagon: publish_many called {attribute}= for payload {self._index} (from 0)")
            raise
        if value is None and attribute == "subject":
            return None
        try:
            return check_word(attribute, value)
        except UsageError as e:
            raise UsageError(f"publish_many: {attribute}= for payload {self._index} (from 0): {e}") from None


async def _of_stream(payloads: AsyncIterable[object], make: Make, most: int) -> AsyncGenerator[list[Event], None]:
    """Stops reading while a list is being sent. One task does all of the iteration, because of its cancel scopes."""
    events: list[Event] = []
    room = MOST_BYTES
    going, came, complete = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def read() -> None:
        nonlocal room  # and `events`, which is a new list after each that was yielded
        iterator = aiter(payloads)
        try:
            await going.wait()
            async for payload in iterator:
                event = next(make((payload,)))
                events.append(event)
                room -= len(event.data)
                came.set()
                if len(events) >= most or room <= 0:
                    going.clear()
                    complete.set()
                await going.wait()
        finally:
            if close := getattr(iterator, "aclose", None):
                await close()

    def ended(_: object) -> None:
        came.set()
        complete.set()

    reader = asyncio.get_running_loop().create_task(outcome_of(read))
    reader.add_done_callback(ended)
    try:
        while events or not reader.done():
            going.set()
            await came.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(_TURN):
                    await complete.wait()
            for each in (going, came, complete):
                each.clear()
            if events:
                some, events, room = events, [], MOST_BYTES
                yield some
        _, failure = reader.result()
        if failure is not None:
            raise failure
    finally:
        await _end(reader)


async def _end(reader: asyncio.Task[Any]) -> None:
    """Close the user's iterator. A cancellation meanwhile is raised afterwards."""
    cancelled = False
    reader.cancel()
    while not reader.done():
        try:
            await asyncio.wait((reader,))
        except asyncio.CancelledError:
            cancelled = True
            reader.cancel()
    with suppress(asyncio.CancelledError):
        reader.exception()  # looked at: it was raised, or follows from the end
    if cancelled:
        raise asyncio.CancelledError
