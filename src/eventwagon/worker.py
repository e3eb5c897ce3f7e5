"""What a worker does with one event: decode it, call the handler, say what came of it."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import queue
import threading
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Any, NamedTuple

import msgspec

from .broker import Delivery
from .errors import Reject, UsageError
from .event import DEAD, Event, check_extensions, check_word, checked, child_id, fitting, heritage, legible
from .payload import Shape, codec, name_of, type_name

_logger = logging.getLogger("eventwagon.worker")


class Handler:
    """A user's function for one channel, and how to call it."""

    __slots__ = ("_warned", "call", "channel", "decode", "encode", "is_async", "name", "wants_context")

    def __init__(self, channel: str, function: Callable[..., Any], shape: Shape) -> None:
        self.channel = channel
        self.name = name_of(function)
        self.call = function
        self.encode, self.decode = codec(shape.payload)
        self.wants_context = shape.wants_context
        self.is_async = shape.is_async
        self._warned = False

    def warn_of(self, value: object) -> None:
        """A handler's return value is nobody's: say so, once."""
        if not self._warned:
            self._warned = True
            _logger.warning(
                "handler %s returned a %s, which is ignored; emit with ctx.emit(channel, payload)",
                self.name,
                type(value).__name__,
            )


class _Stored:
    """What `emit` returns: may be awaited, need not."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        return
        yield  # pragma: no cover - makes this a generator


_STORED = _Stored()


class Context:
    """What a handler knows besides the payload: the event, where it stands, and `emit`."""

    __slots__ = (
        "_clock",
        "_closed",
        "_counts",
        "_handlers",
        "_heritage",
        "_max_bytes",
        "attempt",
        "channel",
        "emitted",
        "event",
        "train",
        "wagon",
    )

    def __init__(
        self,
        event: Event,
        attempt: int,
        train: str,
        wagon: int,
        channel: str,
        handlers: Mapping[str, Handler],
        max_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self.event = event
        """The event itself."""
        self.attempt = attempt
        """1 at the first try."""
        self.train = train
        self.wagon = wagon
        """The number of the wagon in which this happens."""
        self.channel = channel
        """The inner channel's name; empty for the ingress."""
        self.emitted: list[tuple[str, Event]] = []
        self._handlers = handlers
        self._max_bytes = max_bytes
        self._clock = clock
        self._closed = False
        self._heritage: tuple[str, str | None, dict[str, str]] | None = None
        self._counts: dict[str, int] | None = None
        """How many were emitted, by channel."""

    def emit(
        self,
        channel: str,
        payload: object,
        *,
        event_type: str | None = None,
        subject: str | None = None,
        extensions: Mapping[str, str] | None = None,
    ) -> Awaitable[None]:
        """Send `payload` on, to an inner channel of this wagon.

        What a handler emits is stored when it has returned, before its event is settled; when it raises, nothing is
        sent. The id is derived from the event, the channel and how many were emitted there before, so a repeated attempt
        sends the same ids. The source, the subject and the extension attributes (a trace's context, a tenant) are those of
        the event, unless `subject` or `extensions` say otherwise; these are added to the inherited ones.
        An `Event` as the payload is sent as it is. May be awaited or just called, from sync handlers too. Raises UsageError
        (an unknown channel, a payload that the channel's handler would not get back equal, attributes that no event may
        have, a handler that has returned already) and EventTooLarge.
        """
        if self._closed:
            raise UsageError(
                f"emit to {channel!r}: the handler of event {self.event.id!r} has ended; emit before it returns"
            )
        handler = self._handlers.get(channel) if isinstance(channel, str) and channel else None
        if handler is None:
            raise UsageError(
                f"emit to {channel!r}: no handler is declared for it in train {self.train!r}; there are: "
                f"{', '.join(sorted(filter(None, self._handlers))) or 'none'} (the ingress is published to, not emitted to)"
            )
        if self._counts is None:
            self._counts = {}
        if isinstance(payload, Event):
            if event_type is not None or subject is not None or extensions is not None:
                raise UsageError("emit of an Event: it has its own type, subject and extensions; change them there")
            event = checked(payload, self._max_bytes)
        else:
            data, content_type = handler.encode(payload)
            if self._heritage is None:
                self._heritage = heritage(self.event)
            source, inherited, handed_on = self._heritage
            event = Event(
                child_id(self.event, channel, self._counts.get(channel, 0)),
                type_name(payload) if event_type is None else check_word("type", event_type),
                source,
                self._clock(),
                data,
                inherited if subject is None else check_word("subject", subject),
                content_type,
                handed_on if extensions is None else handed_on | check_extensions(extensions),
            )
            fitting(event, self._max_bytes)
        self._counts[channel] = self._counts.get(channel, 0) + 1
        self.emitted.append((channel, event))
        return _STORED

    def close(self) -> None:
        """The handler has ended: nothing can be emitted any more."""
        self._closed = True


class Handled(NamedTuple):
    """The handler returned: settle, after storing what it emitted."""

    emitted: list[tuple[str, Event]]


class Dead(NamedTuple):
    """Handling can't succeed: to the dead letters."""

    because: str


class Failed(NamedTuple):
    """This attempt failed: another may succeed."""

    because: str


Outcome = Handled | Dead | Failed


def died(delivery: Delivery, channel: str, wagon: int, because: str, now: float) -> tuple[str, Event]:
    """The dead letter of a delivery: the event as it was, and why, where, when it died, as extension attributes."""
    why = {
        "deadbecause": legible(because[:500]),
        "deadchannel": channel,
        "deadwagon": str(wagon),
        "deadattempts": str(delivery.attempt),
        "deadat": f"{now:.3f}",
    }
    event = delivery.event
    return DEAD, msgspec.structs.replace(event, extensions={**event.extensions, **why})


def said(error: BaseException) -> str:
    """An error in one line."""
    text = str(error).strip().replace("\n", "; ")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


async def handle(handler: Handler, delivery: Delivery, context: Context, threads: Threads) -> Outcome:
    """Let the handler work on one event. Raises nothing of the handler's but CancelledError and what ends a process."""
    try:
        payload = handler.decode(delivery.event)
    except Exception as e:  # noqa: BLE001 - whatever a decoder raises, the data does not fit, and never will
        return Dead(f"can't be decoded for handler {handler.name}: {said(e)}")
    try:
        if handler.is_async:
            result = await (handler.call(payload, context) if handler.wants_context else handler.call(payload))
        else:
            arguments = (payload, context) if handler.wants_context else (payload,)
            result = await threads.run(handler.call, *arguments)
            if inspect.isawaitable(result):
                result = await result
    except Reject as e:
        return Dead(f"rejected: {e}" if str(e) else "rejected by its handler")
    except Exception as e:  # whatever it raises is told in the fact, and the event tried again
        _logger.debug("handler %s failed on event %s", handler.name, delivery.event.id, exc_info=True)
        return Failed(said(e))
    finally:
        context.close()
    if result is not None:
        handler.warn_of(result)
    return Handled(context.emitted)


class Threads:
    """Threads for sync handlers. Daemons, taken again when free: one that hangs for ever blocks neither others nor exit."""

    def __init__(self) -> None:
        self._idle: list[queue.SimpleQueue[Callable[[], None] | None]] = []
        self._ended = False

    async def run(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Call the function in a thread, in the caller's context. Cancelling stops the waiting, not the thread."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()
        mine = self._idle.pop() if self._idle else self._start()

        def finish(result: object, error: BaseException | None) -> None:
            if self._ended:
                mine.put(None)
            else:
                self._idle.append(mine)
            if done.done():
                return
            if isinstance(error, StopIteration):
                error = RuntimeError(f"handler raised {said(error)}")  # a future can't hold a StopIteration
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)

        def job() -> None:
            result, error = None, None
            try:
                result = context.run(function, *arguments)
            except BaseException as e:  # noqa: BLE001 - carried over to the awaiting side, whatever it is
                error = e
            try:
                loop.call_soon_threadsafe(finish, result, error)
            except RuntimeError:
                mine.put(None)  # the loop is closed: nobody waits any more

        mine.put(job)
        return await done

    def _start(self) -> queue.SimpleQueue[Callable[[], None] | None]:
        jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

        def work() -> None:
            while (job := jobs.get()) is not None:
                job()

        threading.Thread(target=work, name="eventwagon-handler", daemon=True).start()
        return jobs

    def end(self) -> None:
        """Let the idle threads go; busy ones go when they have finished."""
        self._ended = True
        for jobs in self._idle:
            jobs.put(None)
        self._idle.clear()
