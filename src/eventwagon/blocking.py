"""Publishing from programs without an event loop: a connection whose loop runs in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import os
import threading
import time
import weakref
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from datetime import datetime, timedelta
from typing import Any, Self, TypeVar

from .connection import Connection, Payload, accepted_by, check_timeout, say_accepted
from .errors import EventwagonError, PublishTimeout, Unavailable, UsageError
from .runtime.payload_batches import check_payloads, lists
from .runtime.publish_queue import own
from .times import when
from .values import is_a

_T = TypeVar("_T")

_MARGIN = 1.0
"""Seconds beyond a call's own deadline after which its event loop counts as blocked."""


class BlockingConnection:
    """A train, connected to publish from programs without an event loop. Made by `Train.connect_blocking`.

    It opens where it is entered (`with`), or at its first call. If that fails, or the connection ends by itself, the
    next call opens it again. Any number of threads may use it at once; their events travel together. Its event loop
    runs in a daemon thread, so a program may end without closing it: an event whose `publish` returned is stored.

    A program that forks (gunicorn, Celery) makes it before the fork and uses it after, or makes it after: in a fork of
    the process that has opened it, all calls raise UsageError. So do calls in a thread whose event loop is running,
    which they would block: use `connect` there. Once it is closed, they raise Unavailable; where a broker needs
    threads, so does the first call after the program's main thread has ended.
    """

    def __init__(self, train: str, connect: Callable[[], Connection]) -> None:
        self._train = train
        self._connect = connect
        self._lock = threading.RLock()
        self._held: _LoopThread | None = None
        self._process: int | None = None
        """The one that has opened it."""
        self._closed = False

    def __repr__(self) -> str:
        is_open = self._held is not None and self._held.connection is not None and not self._held.ended
        return f"<BlockingConnection of {self._train}: {'closed' if self._closed else 'open' if is_open else 'new'}>"

    def __enter__(self) -> Self:
        self._opened(None)
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def publish(
        self,
        payload: object,
        *,
        subject: str | None = None,
        event_type: str | None = None,
        id: str | None = None,  # noqa: A002 - the attribute's name in CloudEvents
        timeout: float | None = None,
        at: datetime | float | None = None,
        after: timedelta | float | None = None,
    ) -> str:
        """Publish one event to the active wagon, or with `at` or `after` later. Returns its id once it is stored.

        As `Connection.publish`, with the same errors. `timeout` includes opening. The payload is encoded in the calling
        thread. If this thread is interrupted while it waits (KeyboardInterrupt, or what a signal's handler raises), the
        event may be stored all the same.
        """
        until, later = _deadline(timeout), when(at, after)
        held, connection = self._opened(until)
        event = connection._made(payload, subject, event_type, id)
        left = _left(connection, until)
        if later is None:
            held.call(connection._send([event], left), left + _MARGIN)
        else:
            event = connection._due(event, later, gets_id=id is None and event is not payload)
            held.call(connection._keep(event, later, left), left + _MARGIN)
        return event.id

    def cancel(self, event_id: str, *, timeout: float | None = None) -> bool:
        """Cancel an event that was published for later: see `Connection.cancel`. `timeout` as in `publish`. Raises
        PublishTimeout, too."""
        until = _deadline(timeout)
        held, connection = self._opened(until)
        return held.call(connection.cancel(event_id), _left(connection, until) + _MARGIN)

    def publish_many(
        self,
        payloads: Iterable[Payload],
        *,
        subject: Callable[[Payload], str | None] | None = None,
        id: Callable[[Payload], str] | None = None,  # noqa: A002 - as in `publish`
        timeout: float | None = None,
    ) -> int:
        """Publish many events, in order, batch by batch. Returns their number.

        As `Connection.publish_many`, for plain iterables only. They are read in the calling thread, which reads no
        further while a batch is being sent. The attribute `accepted` of every exception, KeyboardInterrupt included, is
        the number of leading payloads that were stored; the batch being sent may still be.
        """
        check_payloads(payloads)
        if not is_a(payloads, Iterable):  # type: ignore[type-abstract]
            assert is_a(payloads, AsyncIterable)  # type: ignore[type-abstract]  # noqa: S101 - checked above
            raise UsageError("publish_many: a blocking connection takes no asynchronous iterable: use `connect`")
        accepted = 0
        try:
            held, connection = self._opened(_deadline(timeout))
            make, most = connection._making(payloads, subject, id), connection.train.settings.publish_batch
            for events in lists(payloads, make, most, time.monotonic):
                try:
                    left = _left(connection, _deadline(timeout))
                    held.call(connection._send(events, left), left + _MARGIN)
                except BaseException as e:
                    accepted += accepted_by(e)
                    raise
                accepted += len(events)
        except BaseException as e:
            say_accepted(e, accepted)
            raise
        return accepted

    def close(self) -> None:
        """Close it. Calls that wait in other threads raise Unavailable or PublishTimeout. Idempotent; in a fork it does
        nothing."""
        if self._process not in (None, os.getpid()):
            return
        with self._lock:
            self._closed, held = True, self._held
        if held is not None:
            held.close()

    def _opened(self, until: float | None) -> tuple[_LoopThread, Connection]:
        """The open connection, and its thread. `until`, of the monotonic clock, limits the wait. Raises UsageError,
        Unavailable, PublishTimeout, and whatever opening raises."""
        self._check()
        held = self._held
        if held is None or held.ended:
            self._process = os.getpid()  # before the lock: a fork may find it locked for ever
            with self._lock:
                self._check()
                held = self._held
                if held is None or held.ended:
                    held = self._held = _LoopThread(self._connect, self._train)
                    weakref.finalize(self, held.end).atexit = False
        return held, held.connection or held.opened(until)

    def _check(self) -> None:
        this = f"this blocking connection to train {self._train!r}"
        if asyncio._get_running_loop() is not None:
            raise UsageError(
                f"{this} would block the event loop that runs in this thread: `async with train.connect(…)` is for it"
            )
        if self._process not in (None, os.getpid()):
            raise UsageError(
                f"{this} was opened in process {self._process}, and this is a fork of it: use it only after the fork, "
                "or make another one here"
            )
        if self._closed:
            raise Unavailable(f"{this} is closed: make another one with `connect_blocking`")


def _left(connection: Connection, until: float | None) -> float:
    """Seconds for the rest of a call: it is at least tried."""
    return connection.train.settings.publish_timeout if until is None else max(1e-3, until - time.monotonic())


def _deadline(timeout: float | None) -> float | None:
    """On the monotonic clock. Raises UsageError."""
    return None if timeout is None else time.monotonic() + check_timeout(timeout)


class _LoopThread:
    """A thread with an event loop, in which a connection is open until `end`, or until it ends by itself."""

    def __init__(self, connect: Callable[[], Connection], train: str) -> None:
        self.connection: Connection | None = None
        """Once it is open."""
        self.ended = False
        self._connect = connect
        self._train = train
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._leave = asyncio.Event()
        self._ending = False
        self._is_open: concurrent.futures.Future[Connection] = concurrent.futures.Future()
        self._calls: set[concurrent.futures.Future[Any]] = set()
        """Those that wait for an answer."""
        self._thread = threading.Thread(target=self._work, name=f"eventwagon-publish-{train}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as e:
            late = self._too_late(e)
            if late is e:
                raise
            raise late from e

    def opened(self, until: float | None) -> Connection:
        """The connection, once it is open. Raises PublishTimeout, and what opening raises."""
        try:
            return self._is_open.result(None if until is None else max(0.0, until - time.monotonic()))
        except concurrent.futures.CancelledError:
            raise self._gone() from None
        except EventwagonError as e:
            raise own(e, 0) from e.__cause__
        except TimeoutError:
            if self._is_open.done():
                raise
            raise PublishTimeout(f"train {self._train}: not connected in time, no event was stored") from None

    def call(self, work: Coroutine[Any, Any, _T], timeout: float) -> _T:
        """What `work` returns or raises in the loop. If this thread is interrupted meanwhile, it is cancelled."""
        assert self._loop is not None  # noqa: S101 - for the type checker: it is open
        outcome = _outcome(work)
        future: concurrent.futures.Future[tuple[list[_T], BaseException | None]] | None = None
        try:
            future = asyncio.run_coroutine_threadsafe(outcome, self._loop)
            self._calls.add(future)
            if self.ended:
                future.cancel()
            results, error = future.result(timeout)
        except (concurrent.futures.CancelledError, RuntimeError):  # the loop has ended, or is closed
            raise self._gone() from None
        except TimeoutError:
            raise PublishTimeout(
                f"train {self._train}: its event loop is blocked, perhaps by a listener; the events may be stored"
            ) from None
        finally:
            if future is not None:
                self._calls.discard(future)
                future.cancel()  # if this thread was interrupted
            if self.ended and inspect.getcoroutinestate(outcome) == inspect.CORO_CREATED:
                outcome.close()
                work.close()
        if error is None:
            return results[0]
        if issubclass(type(error), asyncio.CancelledError):
            raise self._gone()
        # the frames of the loop's thread say nothing to the caller; those of a bug stay
        raise error.with_traceback(None) if isinstance(error, EventwagonError) else error

    def close(self) -> None:
        """End it, and wait until it has ended. Idempotent."""
        self.end()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def end(self) -> None:
        """Ask it to end: at once if it is still opening. Idempotent."""
        self._ending = True
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._end)
        except RuntimeError:
            pass  # the loop is closed

    def _end(self) -> None:
        self._leave.set()
        if self.connection is None and self._task is not None:
            self._task.cancel()

    def _gone(self) -> Unavailable:
        return Unavailable(
            f"train {self._train}: the connection was closed meanwhile; what was on its way may be stored"
        )

    def _too_late(self, error: BaseException) -> BaseException:
        """Unavailable, if the error is that Python starts no thread any more; else the error."""
        if not issubclass(type(error), RuntimeError) or threading.main_thread().is_alive():
            return error
        late = Unavailable(
            f"train {self._train}: the program is ending (its main thread has ended): a blocking connection can't be "
            "opened any more: open it before, by `with` or a first call"
        )
        late.__cause__ = error
        return late

    def _work(self) -> None:
        try:
            asyncio.run(self._main())
        except asyncio.CancelledError:
            pass
        except BaseException as e:  # noqa: BLE001 - whoever opens it is told
            if not self._is_open.done():
                self._is_open.set_exception(self._too_late(e))
        finally:
            self.ended = True
            for future in (self._is_open, *self._calls):
                future.cancel()

    async def _main(self) -> None:
        self._task, self._loop = asyncio.current_task(), asyncio.get_running_loop()
        if self._ending:
            return
        async with self._connect() as connection:
            self.connection = connection
            self._is_open.set_result(connection)
            await self._leave.wait()


async def _outcome(work: Coroutine[Any, Any, _T]) -> tuple[list[_T], BaseException | None]:
    """What it returns, or what it raises, as a value: no error of a call may end the loop."""
    try:
        return [await work], None
    except BaseException as e:  # noqa: BLE001 - raised in the caller's thread
        return [], e
