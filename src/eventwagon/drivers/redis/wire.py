"""One connection that many calls share: commands are written in the order of the calls, and answered in that order."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable
from contextvars import Context
from typing import Any

from redis import exceptions

from .errors import Lost, NotSent
from .server import Server, enter, leave

_BROKEN = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.InvalidResponse, OSError, TimeoutError)


class Answers(list[Any]):
    """The server's answers, and which of a wire's successive connections they came from."""

    def __init__(self, said: Iterable[Any] = (), *, wire: Wire | None = None, connection: int = 0) -> None:
        super().__init__(said)
        self.wire = wire
        self.connection = connection


class _Call:
    __slots__ = ("answers", "future", "only", "packed", "replies", "since")

    def __init__(self, packed: bytes, replies: int, future: asyncio.Future[Answers], only: int | None) -> None:
        self.packed = packed
        self.replies = replies
        self.answers = Answers()
        self.future = future
        self.since = 0.0
        self.only = only


class Wire:
    """Connects when it is first needed and again when it must; ends with `close`.

    Its calls don't wait for one another, so none of them may block on the server, except those that are meant to hold
    up the ones behind them (WAIT).
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._outgoing: list[_Call] = []
        self._pending: deque[_Call] = deque()
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._stale = asyncio.Event()
        self._connections = 0
        self._heard = 0.0

    async def call(self, packed: bytes, replies: int = 1, *, only: int | None = None) -> Answers:
        """Send packed commands and return their `replies`; the server's errors are among them, not raised. `only`: on
        that connection, or not at all.

        Raises NotSent and Lost. A cancelled call that was not sent yet is not sent.
        """
        if self._closed:
            raise NotSent("the connection is closed")
        if only is not None and only != self._connections:
            raise NotSent("the connection was opened again")
        if self._task is None or self._task.done():  # somebody may have cancelled all tasks of the loop
            name = f"wire to {self._server.where}"
            self._task = asyncio.create_task(self._run(), name=name, context=Context())  # it is no caller's own
        future: asyncio.Future[Answers] = asyncio.get_running_loop().create_future()
        self._outgoing.append(_Call(packed, replies, future, only))
        self._wanted.set()
        return await future

    def renew(self, connection: int) -> None:
        """Connect again if that connection is still in use: another server may answer at the same address. Calls in
        progress are Lost."""
        if connection == self._connections:
            self._stale.set()

    async def close(self) -> None:
        """Close it; unanswered calls are Lost. Idempotent."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
            self._end()  # it may never have begun

    async def _run(self) -> None:
        try:
            while not self._closed:  # a cancellation may be lost if the connection breaks at the same time
                await self._wanted.wait()
                try:
                    connection: Any = self._server.connection()
                except OSError as e:  # redis-py opens files for it
                    self._refuse(e)
                    continue
                try:
                    await self._serve(connection)
                finally:
                    await leave(connection)
        finally:
            self._end()

    def _end(self) -> None:
        closed = exceptions.ConnectionError("the connection was closed")
        self._lose(closed)
        self._refuse(closed)

    async def _serve(self, connection: Any) -> None:
        """Serve calls until the connection breaks. Callers learn of that before anything else happens."""
        try:
            async with asyncio.timeout(self._server.timeout):
                await enter(connection)
        except (exceptions.RedisError, OSError, TimeoutError) as e:
            self._refuse(e)
            return
        self._connections += 1
        self._refuse_of_others()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(connection))
                tasks.create_task(self._write(connection))
                tasks.create_task(self._watch())
        except* _BROKEN as e:
            self._lose(e.exceptions[0])

    async def _write(self, connection: Any) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            calls = [call for call in self._outgoing if not call.future.done()]
            self._outgoing = []
            now = loop.time()
            for call in calls:
                call.since = now
            self._pending.extend(calls)
            if calls:
                await connection.send_packed_command([call.packed for call in calls], check_health=False)

    async def _read(self, connection: Any) -> None:
        pending = self._pending
        while True:
            try:
                reply = await connection.read_response(disconnect_on_error=False)
            except exceptions.ResponseError as e:
                reply = e
            except exceptions.ConnectionError as e:
                if type(e) is exceptions.ConnectionError:
                    raise
                reply = e  # LOADING and the like are answers, too
            self._heard = asyncio.get_running_loop().time()
            call = pending[0]
            call.answers.append(reply)
            if len(call.answers) == call.replies:
                pending.popleft()
                if not call.future.done():
                    call.answers.wire, call.answers.connection = self, self._connections
                    call.future.set_result(call.answers)

    async def _watch(self) -> None:
        """Give up a server that has gone silent; otherwise callers would wait for ever."""
        loop, timeout = asyncio.get_running_loop(), self._server.timeout
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout / 4):
                    await self._stale.wait()
                self._stale.clear()
                raise exceptions.ConnectionError("the connection is opened again")
            if self._pending and max(self._pending[0].since, self._heard) + timeout < loop.time():
                raise TimeoutError(f"no answer for {timeout:g} s")

    def _refuse_of_others(self) -> None:
        """Refuse calls that were meant only for an earlier connection."""
        stay = [call for call in self._outgoing if call.only is None or call.only == self._connections]
        gone = [call for call in self._outgoing if call not in stay]
        self._outgoing = gone
        self._refuse(exceptions.ConnectionError("the connection was opened again"))
        self._outgoing = stay
        if stay:
            self._wanted.set()

    def _lose(self, why: BaseException) -> None:
        """Calls in progress may have been carried out."""
        while self._pending:
            call = self._pending.popleft()
            if call.future.done():
                continue
            if call.answers:  # a first answer shows the outcome
                call.answers += [why] * (call.replies - len(call.answers))
                call.future.set_result(call.answers)
                continue
            lost = Lost(str(why))
            lost.__cause__ = why
            call.future.set_exception(lost)

    def _refuse(self, why: BaseException) -> None:
        """Unsent calls are no longer sent."""
        calls, self._outgoing = self._outgoing, []
        self._wanted.clear()
        for call in calls:
            if not call.future.done():
                refused = NotSent(str(why))
                refused.__cause__ = why
                call.future.set_exception(refused)
