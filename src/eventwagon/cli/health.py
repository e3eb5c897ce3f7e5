"""Health checks: a process answers over HTTP whether it is alive and ready, for a Pod's probes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self

from ..answering import Answer, Asked, answering
from ..connection import Connection
from ..display.text import as_line, said
from ..errors import EventwagonError
from ..event import wagon_name
from ..runtime.bulkhead import is_ours
from ..runtime.probe import probe

_LOOK = 0.1
_AGAIN = 0.5
_STARTING = "it is starting"
_logger = logging.getLogger("eventwagon.cli")


class Health:
    """An HTTP server at `port` of `host` (empty: all interfaces). It does nothing if `port` is None.

    `GET /live` returns 200 as long as the event loop runs, even if all else fails. `GET /ready` returns 200 while the
    watched process is ready, and otherwise 503 with the reason. A process is ready if its connection reports no
    trouble; if it observes, its last pass is recent; if it works, it is attached to every channel of its wagons, and a
    probe event came through the broker for each wagon.
    """

    def __init__(self, port: int | None, host: str = "") -> None:
        self._port = port
        self._host = host
        self._proven: dict[str, set[int]] = {}
        """By train: the wagons for which a probe event came through."""
        self._troubles: dict[str, str] = {"": _STARTING}
        """By train."""
        self._left = False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start listening. Raises UsageError if the host or the port can't be used."""
        if self._port is None:
            return self
        await self._stack.enter_async_context(answering(self._answer, self._port, self._host, option="health"))
        _logger.info("answers GET /live and /ready at %s port %d", self._host or "every address,", self._port)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    def expect(self, trains: Sequence[str]) -> None:
        """The process is ready only once it is for all of these trains."""
        self._troubles = dict.fromkeys(trains, _STARTING)

    @asynccontextmanager
    async def watching(self, connection: Connection, *, observes: bool, works: bool) -> AsyncIterator[None]:
        """While entered, `/ready` reports the state of this running connection, too; after the last one it reports that
        the process is leaving."""
        if self._port is None:
            yield
            return
        self._troubles.pop("", None)
        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(self._look(connection, observes, works))
            try:
                yield
            finally:
                self._troubles.pop(connection.train.name, None)
                if not self._troubles:
                    self.leave()
                looking.cancel()

    def leave(self) -> None:
        """Report from now on that the process is ending and not ready. Idempotent."""
        self._left = True

    @property
    def trouble(self) -> str:
        """Why the process is not ready; empty if it is."""
        if self._left:
            return "it is leaving"
        name, trouble = next(((name, why) for name, why in self._troubles.items() if why), ("", ""))
        return f"{name}: {trouble}" if trouble and len(self._troubles) > 1 else trouble

    async def _look(self, connection: Connection, observes: bool, works: bool) -> None:
        while True:
            try:
                trouble, pause = await self._why_not_ready(connection, observes, works), _LOOK
            except BaseException as e:
                if is_ours(e):
                    raise
                trouble, pause = f"the probe failed: {e if isinstance(e, EventwagonError) else said(e)}", _AGAIN
            self._troubles[connection.train.name] = trouble
            await asyncio.sleep(pause)

    async def _why_not_ready(self, connection: Connection, observes: bool, works: bool) -> str:
        if trouble := connection.trouble:
            return trouble
        if observes and (trouble := connection.not_observing):
            return trouble
        if not works:
            return ""
        attachments = connection.attachments
        declared = connection.manifest.channels
        proven = self._proven.setdefault(connection.train.name, set())
        proven &= {a.number for a in attachments if a.ready}
        if not attachments:
            return "it is attached to no wagon"
        for a in attachments:
            name = wagon_name(connection.train.name, a.number)
            if not a.ready:
                return a.trouble or f"it is not attached to {name}"
            if missing := [c for c in a.missing if c in declared]:
                return f"{name}: this program has no handler for {', '.join(missing)}"
            if a.number not in proven:
                await probe(connection.broker, connection.train.name, a.number)
                proven.add(a.number)
        return ""

    async def _answer(self, asked: Asked) -> Answer:
        if asked.path not in ("/live", "/ready"):
            status, text = "404 Not Found", "there are /live and /ready"
        elif asked.path == "/live":
            status, text = "200 OK", "alive"
        elif self.trouble:
            status, text = "503 Service Unavailable", self.trouble
        else:
            status, text = "200 OK", "ready"
        return Answer(status, f"{as_line(text)}\n".encode())
