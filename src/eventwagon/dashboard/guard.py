"""Refuses what a browser must never be made to ask: wrapped around all routes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import UsageError
from ..values import is_a, is_loopback, items

HEADER = "x-eventwagon"
"""Without this header no POST is accepted: no form and no page of another site can send it."""
_HOST = re.compile(r"[A-Za-z0-9._:-]+")
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
        if len(named) != 1 or not self._is_ours(named[0]):
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

    def _is_ours(self, named: str) -> bool:
        if "*" in self._hosts:
            return True
        host = host_of(named)
        return host is not None and (host in self._hosts or is_loopback(host))


def host_of(named: str) -> str | None:
    """The host in a Host header, without the port, in lower case; None if it is none."""
    try:
        parts = urlsplit(f"//{named}")
        _ = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.path or parts.query or parts.fragment or "@" in named:
        return None
    return parts.hostname.lower().rstrip(".") if _HOST.fullmatch(parts.hostname) else None


def _is_origin(origin: str, named: str) -> bool:
    """Whether the page's origin is the host that was asked. Its scheme is not compared: a proxy may end TLS."""
    scheme, _, host = origin.partition("://")
    if scheme not in ("http", "https"):
        return False
    default = ":443" if scheme == "https" else ":80"
    return host.lower().removesuffix(default) == named.lower().removesuffix(default)


def checked_hosts(hosts: object) -> list[str]:
    """The names under which browsers may ask, without ports; `*`: any. Raises UsageError."""
    given: tuple[object, ...] = (hosts,)
    if isinstance(hosts, list | tuple | set):
        given = items("dashboard: hosts", hosts)
    found: list[str] = []
    for each in given:
        host = host_of(each) if is_a(each, str) and each != "*" else each
        if not is_a(host, str) or not host or not host.isascii():
            raise UsageError("dashboard: hosts must be names without scheme and port, such as 'ops.example.org'")
        found.append(host)
    return found


def address_of(scope: Mapping[str, object]) -> str:
    """The address that asks."""
    client = scope.get("client")
    return str(client[0]) if is_a(client, list, tuple) and client else "?"
