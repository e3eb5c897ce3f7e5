"""Refuses what a browser must never be made to ask: wrapped around all routes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..hosts import names_ours
from ..values import is_a

HEADER = "x-eventwagon"
"""Without this header no POST is accepted: no form and no page of another site can send it."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def refused(status: int, why: str, **headers: str) -> Response:
    """An answer that says why not."""
    body = msgspec.json.encode({"error": why})
    return Response(body, status, {"Cache-Control": "no-store", **headers}, "application/json")


class Guard:
    """Answers only requests that name a host that is ours, so that no site whose name was made to point here can read
    (DNS rebinding), and only POSTs that our own page sends. Adds the headers that keep a browser from running anything
    but our own scripts."""

    def __init__(self, inner: ASGIApp, hosts: Iterable[str]) -> None:
        self._inner = inner
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        answer = self._refuse(Request(scope))
        await (self._inner if answer is None else answer)(scope, receive, guarded)

    def _refuse(self, request: Request) -> Response | None:
        named = request.headers.getlist("host")
        if not names_ours(named, self._hosts):
            return refused(421, "this name is not allowed here: give it to the dashboard as --allow-host (hosts=)")
        site = request.headers.get("sec-fetch-site", "")
        is_page = request.method in ("GET", "HEAD") and request.headers.get("sec-fetch-mode", "") == "navigate"
        if site not in ("", "same-origin", "none") and not is_page:
            return refused(403, "another site asks for this")
        if request.method in ("GET", "HEAD"):
            return None
        if request.method != "POST":
            return refused(405, "only GET and POST are answered", Allow="GET, HEAD, POST")
        origins = request.headers.getlist("origin")
        if len(origins) > 1 or any(not _is_origin(each, named[0]) for each in origins):
            return refused(403, "another site asks for this")
        if not request.headers.get(HEADER):
            return refused(403, "the header X-Eventwagon is missing: only the dashboard's own page may ask for this")
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return refused(400, "the body must be application/json")
        return None


def _is_origin(origin: str, named: str) -> bool:
    """Whether the page's origin is the host that was asked. Its scheme is not compared: a proxy may end TLS."""
    scheme, _, host = origin.partition("://")
    if scheme not in ("http", "https"):
        return False
    default = ":443" if scheme == "https" else ":80"
    return host.lower().removesuffix(default) == named.lower().removesuffix(default)


def address_of(scope: Mapping[str, object]) -> str:
    """The address that asks."""
    client = scope.get("client")
    return str(client[0]) if is_a(client, list, tuple) and client else "?"
