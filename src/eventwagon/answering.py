"""A very small HTTP server on the event loop: it answers GET and HEAD with what a function returns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from .errors import UsageError

_PATIENCE = 5.0
"""Seconds for a request and its answer."""
_MOST = 100
"""The most requests that are answered at a time. Further ones are refused, so that clients can't use up the process's
file descriptors."""


class Asked(NamedTuple):
    """A request."""

    path: str
    """Without the query."""
    headers: Mapping[str, str]
    """By their names in lower case; of several with one name the last."""


class Answer(NamedTuple):
    """What is answered: a status with its words, and a body."""

    status: str
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


@asynccontextmanager
async def answering(
    answer: Callable[[Asked], Awaitable[Answer | None]], port: int, host: str, *, option: str
) -> AsyncIterator[int]:
    """While entered, requests to this port are answered by `answer`, which must not raise; None: there is no such
    path. Yields the port. `host`: the address to listen on; empty: all addresses. Raises UsageError if the address
    or the port can't be used, in terms of the command line's `--OPTION-host` and `--OPTION-port`."""
    busy = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal busy
        busy += 1
        try:
            if busy > _MOST:
                return
            async with asyncio.timeout(_PATIENCE):
                writer.write(await _response(await reader.readuntil(b"\r\n\r\n"), answer))
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked has gone, or asks nothing
        finally:
            busy -= 1
            writer.transport.abort()  # a client that does not read its answer must not keep the connection

    try:
        server = await asyncio.start_server(serve, host or None, port)
    except (OSError, ValueError) as e:
        at = f"--{option}-host {host} " if host else ""
        why = (e.strerror if isinstance(e, OSError) else None) or e
        raise UsageError(f"{at}--{option}-port {port}: {why}") from e
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _response(request: bytes, answer: Callable[[Asked], Awaitable[Answer | None]]) -> bytes:
    first, *lines = request.decode("latin-1").split("\r\n")
    method, _, rest = first.partition(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    asked = Asked(rest.partition(" ")[0].partition("?")[0], headers)
    found = await answer(asked) if method in ("GET", "HEAD") else None
    status, body, content_type = found or Answer("404 Not Found", b"")
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return f"{head}\r\n".encode("latin-1") + (body if method != "HEAD" else b"")
