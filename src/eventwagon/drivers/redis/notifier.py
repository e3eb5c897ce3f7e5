"""Wakes the tasks that wait for a change: one subscribing connection for all that the trains of a process wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any

from redis import exceptions

from ...backoff import Backoff
from .server import Server, enter, leave

_PAUSES = (0.2, 5.0)
_POLLS = (1.0, 0.25)
_BROKEN = (exceptions.RedisError, OSError, TimeoutError)


class Notifier:
    """Notifications come by PUBLISH, and are lost while the connection is broken: a waiter also polls by itself (`poll`
    says how often). It is not entered: it starts with the first waiter and ends with `close`."""

    def __init__(self, server: Callable[[], Server]) -> None:
        self._server = server
        self._waiters: dict[str, _Waiter] = {}
        self._task: asyncio.Task[None] | None = None
        self._connection: Any = None
        self._words: list[tuple[str, ...]] = []
        self._wanted = asyncio.Event()

    @property
    def poll(self) -> float:
        """Seconds after which to poll without a notification: fewer while notifications may be lost."""
        return _POLLS[0] if self._connection is not None else _POLLS[1]

    @contextmanager
    def listening(self, name: str) -> Iterator[Callable[[], asyncio.Event]]:
        """Subscribe to notifications of that name. Yields a function that returns the event which the next notification
        sets."""
        waiter = self._waiters.get(name)
        if waiter is None:
            waiter = self._waiters[name] = _Waiter()
            self._tell("SUBSCRIBE", name)
        waiter.listeners += 1
        if self._task is None or self._task.done():  # somebody may have cancelled all tasks of the loop
            self._task = asyncio.create_task(self._run(), name="notifier", context=Context())  # it is no caller's own
        try:
            yield lambda: waiter.next
        finally:
            waiter.listeners -= 1
            if not waiter.listeners:
                del self._waiters[name]
                self._tell("UNSUBSCRIBE", name)

    async def close(self) -> None:
        """End it. Repeatable."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _tell(self, command: str, name: str) -> None:
        if self._connection is not None:
            self._words.append((command, name))
            self._wanted.set()

    async def _run(self) -> None:
        backoff = Backoff(*_PAUSES)
        me = asyncio.current_task()
        while self._task is me:  # a cancellation may be lost if the connection breaks at the same time
            began = asyncio.get_running_loop().time()
            server = self._server()
            connection: Any = None
            try:
                connection = server.connection()  # redis-py opens files for it
                async with asyncio.timeout(server.timeout):
                    await enter(connection)
                async with asyncio.TaskGroup() as tasks:
                    self._words = [("SUBSCRIBE", name) for name in self._waiters]
                    self._wanted = asyncio.Event()
                    self._wanted.set()
                    self._connection = connection
                    tasks.create_task(self._write(connection))
                    tasks.create_task(self._read(connection, server.timeout))
            except* _BROKEN:
                pass  # waiters poll by themselves meanwhile
            finally:
                self._connection = None
                if connection is not None:
                    await leave(connection)
            if self._task is not me:
                return
            for waiter in self._waiters.values():
                waiter.notify()  # notifications of the meantime were lost
            if asyncio.get_running_loop().time() - began > _PAUSES[1]:
                backoff.reset()  # otherwise a right may be missing, permanently
            await asyncio.sleep(backoff.next())

    async def _write(self, connection: Any) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            words, self._words = self._words, []
            for word in words:
                await connection.send_command(*word, check_health=False)

    async def _read(self, connection: Any, timeout: float) -> None:
        asked = False
        while True:
            try:
                async with asyncio.timeout(timeout):
                    message = await connection.read_response(disconnect_on_error=False)
            except TimeoutError:
                if asked:
                    raise  # neither notifications nor an answer to PING: the connection is dead
                asked = True
                self._words.append(("PING",))
                self._wanted.set()
                continue
            asked = False
            if message[0] in (b"message", b"subscribe") and (waiter := self._waiters.get(message[1].decode())):
                waiter.notify()  # after subscribing, too: a notification just before it was lost


class _Waiter:
    def __init__(self) -> None:
        self.listeners = 0
        self.next = asyncio.Event()

    def notify(self) -> None:
        self.next.set()
        self.next = asyncio.Event()
