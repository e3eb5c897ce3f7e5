"""What a worker does with one event: decode it, call the handler, say what came of it."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from .broker import Delivery
from .errors import EventTooLarge, Reject, UsageError
from .event import DEAD, Event, child_id
from .payload import Shape, decoder, encode, type_name

_logger = logging.getLogger("eventwagon.worker")


class Handler:
    """A user's function for one channel, and how to call it."""

    __slots__ = ("_warned", "call", "channel", "decode", "is_async", "name", "wants_context")

    def __init__(self, channel: str, function: Callable[..., Any], shape: Shape) -> None:
        self.channel = channel
        self.name = getattr(function, "__qualname__", repr(function))
        self.call = function
        self.decode = decoder(shape.payload)
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
        "_known",
        "_max_bytes",
        "_source",
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
        known: frozenset[str],
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
        self._known = known
        self._max_bytes = max_bytes
        self._clock = clock

    def emit(
        self, channel: str, payload: object, *, event_type: str | None = None, subject: str | None = None
    ) -> Awaitable[None]:
        """Send `payload` on, to an inner channel of this wagon.

        What a handler emits is stored when it has returned, before its event is settled; when it raises, nothing is
        sent. The id is derived from the event, the channel and how many were emitted there before, so a repeated attempt
        sends the same ids. May be awaited or just called, from sync handlers too. Raises UsageError (unknown channel,
        payload that can't be encoded) and EventTooLarge.
        """
        if channel not in self._known:
            raise UsageError(
                f"emit to {channel!r}: no handler is declared for it in train {self.train!r}; there are: "
                f"{', '.join(sorted(self._known)) or 'none'} (the ingress is published to, not emitted to)"
            )
        data, content_type = encode(payload)
        index = sum(1 for c, _ in self.emitted if c == channel)
        event = Event(
            child_id(self.event, channel, index),
            event_type or type_name(payload),
            self.event.source,
            self._clock(),
            data,
            self.event.subject if subject is None else subject,
            content_type,
        )
        if event.size > self._max_bytes:
            raise EventTooLarge(
                f"emit to {channel!r}: {event.size} bytes are more than max_event_bytes={self._max_bytes}"
            )
        self.emitted.append((channel, event))
        return _STORED


class Handled(NamedTuple):
    """The handler returned: settle, after storing what it emitted."""

    emitted: list[tuple[str, Event]]


class Dead(NamedTuple):
    """Handling can't succeed: to the dead letters."""

    because: str


class Failed(NamedTuple):
    """This attempt failed: another may succeed. `error` is what the handler raised, where it raised something."""

    because: str
    error: BaseException | None = None


Outcome = Handled | Dead | Failed

_BECAUSE_MOST = 500
"""Characters of a reason: it travels with the dead letter."""


def died(delivery: Delivery, channel: str, wagon: int, because: str, now: float) -> tuple[str, Event]:
    """The dead letter of a delivery: the event as it was, and why, where, when it died, as extension attributes."""
    why = {
        "deadbecause": because[:_BECAUSE_MOST],
        "deadchannel": channel,
        "deadwagon": str(wagon),
        "deadattempts": str(delivery.attempt),
        "deadat": f"{now:.3f}",
    }
    event = delivery.event
    return DEAD, msgspec.structs.replace(event, extensions={**event.extensions, **why})


def smaller(letter: Event) -> Event | None:
    """A dead letter that is easier to store than `letter`, which the broker refused; None: there is none.

    A letter is larger than its event, and may hold attributes that can't be stored. So first it loses what the event
    brought along besides its data, then the end of its data, more and more; `deadsize` then says how many bytes there were.
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
    if not size:
        return None
    cut = size // 2 if "deadsize" in ours else min(size, 1024)
    extensions = {"deadsize": str(size), **ours}
    return msgspec.structs.replace(letter, data=letter.data[: size - cut], extensions=extensions)


def plain(text: str, most: int) -> str:
    """The text as every broker and terminal takes it: one line, no control characters, at most `most` characters."""
    if not (text.isascii() and text.isprintable()):
        text = text.encode("utf-8", "backslashreplace").decode()
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text[:most]


def said(error: BaseException) -> str:
    """An error in one line. Never raises, whatever the error's own text does."""
    name = type(error).__name__
    try:
        text = str(error).strip()
    except BaseException as e:
        if isinstance(e, KeyboardInterrupt):
            raise
        text = "its text can't be had"
    text = plain(text[: 2 * _BECAUSE_MOST].replace("\r\n", "\n").replace("\n", "; "), _BECAUSE_MOST)
    return f"{name}: {text}" if text else name


class Run:
    """One call of a handler that is under way, and how it is cut short."""

    __slots__ = ("because", "given_up", "thread")

    def __init__(self) -> None:
        self.because = ""
        """Why it was cut short; empty while it was not."""
        self.given_up = False
        """It was cut short, went on all the same, and is not run any further."""
        self.thread: Call | None = None
        """What runs in a thread."""


class _Driven:
    """An async handler, run step by step in a context of its own, so that its context variables reach no other event.

    Awaiting it gives what the handler returned and what it raised. The handler's exceptions are data here, so that they
    can't be taken for what happens to the worker. Once `run.given_up`, the next exception that is thrown in ends the
    awaiting, whatever the handler does.
    """

    __slots__ = ("_arguments", "_context", "_function", "_run")

    def __init__(
        self, context: contextvars.Context, run: Run, function: Callable[..., Any], arguments: tuple[object, ...]
    ) -> None:
        self._context = context
        self._run = run
        self._function = function
        self._arguments = arguments

    def __await__(self) -> Generator[Any, Any, tuple[Any, BaseException | None]]:
        step = self._context.run
        try:
            coroutine = step(self._function, *self._arguments)
        except BaseException as e:  # noqa: BLE001 - what it raises is the outcome
            return None, e
        if not inspect.iscoroutine(coroutine):
            coroutine = _awaiting(coroutine)
        try:
            signal = step(coroutine.send, None)
        except StopIteration as e:
            return e.value, None
        except BaseException as e:  # noqa: BLE001 - what it raises is the outcome
            return None, e
        while True:
            value: Any = None
            thrown: BaseException | None = None
            try:
                value = yield signal
            except GeneratorExit:  # the worker itself is thrown away
                step(coroutine.close)
                raise
            except BaseException as e:  # noqa: BLE001 - it is the handler's to answer
                if self._run.given_up:
                    self._leave(coroutine)
                    return None, e
                thrown = e
            try:
                signal = step(coroutine.send, value) if thrown is None else step(coroutine.throw, thrown)
            except StopIteration as e:
                return e.value, None
            except BaseException as e:  # noqa: BLE001 - what it raises is the outcome
                return None, e

    def _leave(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """It swallowed its cancellation: end it where it stands, or at least run it no further."""
        with suppress(BaseException):
            self._context.run(coroutine.close)


async def _awaiting(awaitable: Any) -> Any:
    return await awaitable


async def handle(handler: Handler, delivery: Delivery, context: Context, threads: Threads, run: Run) -> Outcome:
    """Let the handler work on one event. Whatever it raises is an outcome, but for KeyboardInterrupt.

    When the caller cancels (it has set `run.because`) the handler is cancelled, and the outcome is a failure for that
    reason. A handler in a thread goes on; `run.thread` tells when it has ended.
    """
    scope = contextvars.copy_context()
    try:
        payload = scope.run(handler.decode, delivery.event)
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # noqa: BLE001 - whatever a decoder raises, the data does not fit, and never will
        return Dead(f"can't be decoded for handler {handler.name}: {said(e)}")
    arguments = (payload, context) if handler.wants_context else (payload,)
    if handler.is_async:
        result, error = await _Driven(scope, run, handler.call, arguments)
    else:
        try:
            result, error = await threads.run(scope, run, handler.call, *arguments)
        except asyncio.CancelledError as e:
            result, error = None, e
        if error is None and inspect.isawaitable(result):
            result, error = await _Driven(scope, run, _awaiting, (result,))
    if run.because:
        return Failed(run.because)
    if error is not None:
        return _outcome(error)
    if result is not None:
        handler.warn_of(result)
    return Handled(context.emitted)


def _outcome(error: BaseException) -> Outcome:
    """What a handler says by raising this."""
    if isinstance(error, KeyboardInterrupt):
        raise error
    if isinstance(error, Reject):
        reason = said(error).partition(": ")[2]
        return Dead(f"rejected: {reason}" if reason else "rejected by its handler")
    return Failed(said(error), error)


class Call:
    """A function's call in a thread. `done` has what came of it, unless the waiting was cancelled."""

    __slots__ = ("_ended", "done", "over")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.done: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
        self.over = False
        self._ended: asyncio.Future[None] | None = None

    def finish(self, result: object, error: BaseException | None) -> None:
        """The thread has ended it."""
        self.over = True
        if not self.done.done():
            self.done.set_result((result, error))
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def ended(self) -> None:
        """Return when the thread has ended it."""
        if not self.over:
            self._ended = asyncio.get_running_loop().create_future()
            await self._ended


class Threads:
    """Threads for sync handlers. Daemons, taken again when free: one that hangs for ever blocks neither others nor exit."""

    def __init__(self) -> None:
        self._idle: list[queue.SimpleQueue[Callable[[], None] | None]] = []
        self._ended = False

    async def run(
        self, context: contextvars.Context, run: Run, function: Callable[..., Any], *arguments: object
    ) -> tuple[Any, BaseException | None]:
        """Call the function in a thread: what it returned, and what it raised. Cancelling stops the waiting, not the
        thread; `run.thread` tells of it."""
        loop = asyncio.get_running_loop()
        try:
            mine = self._idle.pop() if self._idle else self._start()
        except RuntimeError as e:  # the system has no thread left
            return None, e
        run.thread = call = Call(loop)

        def finish(result: object, error: BaseException | None) -> None:
            if self._ended:
                mine.put(None)
            else:
                self._idle.append(mine)
            call.finish(result, error)

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
        return await call.done

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
