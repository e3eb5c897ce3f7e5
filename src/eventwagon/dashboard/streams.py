"""The answer that never ends: server-sent events."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope, Send

from .clients import Client
from .hub import Hub

_PATIENCE = 30.0
"""Seconds that a browser has to take one message."""


class EventStream:
    """Sends a client its messages until it goes, is too slow, or may not read any more."""

    def __init__(self, hub: Hub, client: Client) -> None:
        self._hub = hub
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),  # nginx would hold it back
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        async with self._hub.streaming(self._client):
            sending = asyncio.create_task(self._send(send))
            going = asyncio.create_task(self._gone(receive))
            try:
                await asyncio.wait((sending, going), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (sending, going):
                    task.cancel()
                await asyncio.gather(sending, going, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        while (chunk := await self._client.next()) is not None:
            async with asyncio.timeout(_PATIENCE):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        async with asyncio.timeout(1.0):
            await send({"type": "http.response.body", "body": b""})

    async def _gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
