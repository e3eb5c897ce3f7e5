"""A worker's answer to whoever asks over HTTP whether it is ready: a Pod's readiness probe."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import Self

from ..bulkhead import is_ours
from ..connection import Connection
from ..errors import EventwagonError, UsageError
from ..probe import probe
from ..text import as_line, said

_LOOK = 0.1
_AGAIN = 0.5
_PATIENCE = 5.0
_logger = logging.getLogger("eventwagon.cli")


class Health:
    """`GET /ready` at `port`, on all interfaces: 200 while this process is attached to every channel of its wagons and
    an event came through the broker beside them, else 503, and the reason in words. Nothing where `port` is None."""

    def __init__(self, connection: Connection, port: int | None) -> None:
        self._connection = connection
        self._port = port
        self._proven: set[int] = set()
        self._trouble = "it is starting"
        self._left = False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._port is None:
            return self
        async with AsyncExitStack() as stack:
            try:
                server = await asyncio.start_server(self._answer, None, self._port)
            except OSError as e:
                raise UsageError(f"--health-port {self._port}: {e.strerror or e}") from e
            await stack.enter_async_context(server)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            stack.callback(tasks.create_task(self._look()).cancel)
            _logger.info("answers GET /ready at port %d", self._port)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    def leave(self) -> None:
        """It is ending: not ready from now on."""
        self._left = True

    @property
    def trouble(self) -> str:
        """Why it is not ready; empty while it is."""
        return "it is leaving" if self._left else self._trouble

    async def _look(self) -> None:
        while True:
            try:
                self._trouble = await self._why_not_ready()
            except BaseException as e:
                if is_ours(e):
                    raise
                self._trouble = f"the probe failed: {e if isinstance(e, EventwagonError) else said(e)}"
            await asyncio.sleep(_AGAIN if self._trouble.startswith("the probe failed") else _LOOK)

    async def _why_not_ready(self) -> str:
        if trouble := self._connection.trouble:
            return trouble
        attachments = self._connection.attachments
        declared = self._connection.manifest.channels
        self._proven &= {a.number for a in attachments if a.ready}
        if not attachments:
            return "it is attached to no wagon"
        for a in attachments:
            if not a.ready:
                return a.trouble or f"it is not attached to wagon_{a.number}"
            if missing := [c for c in a.missing if c in declared]:
                return f"wagon_{a.number}: this program has no handler for {', '.join(missing)}"
            if a.number not in self._proven:
                await probe(self._connection.broker, self._connection.train.name, a.number)
                self._proven.add(a.number)
        return ""

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._response(request))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked has gone, or asks nothing
        finally:
            writer.close()

    def _response(self, request: bytes) -> bytes:
        method, _, rest = request.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if path != b"/ready" or method not in (b"GET", b"HEAD"):
            status, text = "404 Not Found", "there is /ready"
        elif self.trouble:
            status, text = "503 Service Unavailable", self.trouble
        else:
            status, text = "200 OK", "ready"
        body = f"{as_line(text)}\n".encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        return f"{head}Connection: close\r\n\r\n".encode() + (body if method != b"HEAD" else b"")
