"""The page's own files, as they are shipped in the package."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from .guard import refused

_FOLDER = Path(__file__).parent / "static"
_NAME = re.compile(r"(?:[a-z0-9_-]{1,40}/)?[a-z0-9_-]{1,60}(?:\.[a-z0-9]{1,12}){1,2}")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".webmanifest": "application/manifest+json",
}


def static_file(name: str, request: Request) -> Response:
    """The file of this name, or why not."""
    path = _FOLDER / name
    kind = _TYPES.get(path.suffix)
    if kind is None or not _NAME.fullmatch(name) or not path.is_file():
        return refused(404, "there is no such file")
    body = path.read_bytes()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"Cache-Control": "no-cache", "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(None, 304, headers)
    return Response(body, 200, headers, kind)
