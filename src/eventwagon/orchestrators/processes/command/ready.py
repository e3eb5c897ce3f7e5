"""How a command reports that it is ready to serve its wagon."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from ....errors import UsageError
from .placeholders import render

_PATIENCE = 2.0
"""Timeout of one check, in seconds."""


class Http(msgspec.Struct, frozen=True, tag="http"):
    """Ready while a GET of `url` is answered with a status below 400."""

    url: str


class Tcp(msgspec.Struct, frozen=True, tag="tcp"):
    """Ready while the port accepts connections."""

    port: str = "{port}"
    host: str = "127.0.0.1"


class Line(msgspec.Struct, frozen=True, tag="line"):
    """Ready once it prints, to stdout or stderr, a line that matches the regular expression."""

    pattern: str


class CheckIn(msgspec.Struct, frozen=True, tag="check-in"):
    """Ready while its own check-in in the train's registry says so, as `eventwagon work --wagon` does."""


Ready = Http | Tcp | Line | CheckIn


def checked(ready: Ready) -> Ready:
    """Return `ready` unchanged if it is valid. Raises UsageError."""
    if isinstance(ready, Line):
        try:
            re.compile(ready.pattern)
        except re.error as e:
            raise UsageError(f"ready: {ready.pattern!r} is no regular expression: {e}") from None
    if isinstance(ready, Http) and urlsplit(ready.url).scheme not in ("http", "https"):
        raise UsageError(f"ready: {ready.url!r}: give an http: or https: URL")
    return ready


def parse(text: str) -> Ready:
    """Parse `http://…`, `https://…`, `tcp:host:port`, `line:regex` or `check-in`. Raises UsageError."""
    kind, _, rest = text.partition(":")
    match kind:
        case "http" | "https":
            return checked(Http(text))
        case "tcp" if ":" in rest:
            host, _, port = rest.rpartition(":")
            return Tcp(port, host)
        case "line" if rest:
            return checked(Line(rest))
        case "check-in" if not rest:
            return CheckIn()
    raise UsageError(f"ready={text!r}: give http://host:port/path, tcp:host:port, line:regex or check-in")


async def ask(ready: Http | Tcp, words: Mapping[str, str]) -> str:
    """Check whether the copy is ready. Returns the reason if it is not, otherwise an empty text."""
    where = render(ready.url if isinstance(ready, Http) else f"{ready.host}:{ready.port}", words)
    try:
        async with asyncio.timeout(_PATIENCE):
            if isinstance(ready, Http):
                status = await _get(where)
                return "" if status < 400 else f"{where}: HTTP {status}"
            host, _, port = where.rpartition(":")
            _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
            return ""
    except (OSError, TimeoutError, ValueError) as e:
        return f"{where}: {str(e) or 'no answer'}"


async def _get(url: str) -> int:
    """The status of a GET. Raises OSError, ValueError."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    reader, writer = await asyncio.open_connection(
        parts.hostname, parts.port or (443 if secure else 80), ssl=True if secure else None
    )
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
        line = (await reader.readline()).decode(errors="replace").split()
        if len(line) < 2 or not line[0].startswith("HTTP/"):
            raise ValueError("the answer is no HTTP")
        return int(line[1])
    finally:
        writer.close()
