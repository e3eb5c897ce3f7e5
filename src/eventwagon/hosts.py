"""The names under which this machine's HTTP servers may be asked. Pure.

A web page may ask any address of the machine on which its browser runs, if its own name is made to point there (DNS
rebinding); the request then names that host.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

from .errors import UsageError
from .values import is_a, is_loopback, items

_HOST = re.compile(r"[A-Za-z0-9._:-]+")


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


def checked_hosts(whose: str, hosts: object) -> list[str]:
    """The names under which browsers may ask, without ports; `*`: any. Raises UsageError, which begins with `whose`."""
    given: tuple[object, ...] = (hosts,)
    if isinstance(hosts, list | tuple | set):
        given = items(f"{whose}: hosts", hosts)
    found: list[str] = []
    for each in given:
        host = host_of(each) if is_a(each, str) and each != "*" else each
        if not is_a(host, str) or not host or not host.isascii():
            raise UsageError(f"{whose}: hosts must be names without scheme and port, such as 'ops.example.org'")
        found.append(host)
    return found


def names_ours(named: Sequence[str], hosts: Collection[str]) -> bool:
    """Whether a request with these Host headers names one of `hosts` (`*`: any), localhost or a loopback address."""
    if len(named) != 1:
        return False
    if "*" in hosts:
        return True
    host = host_of(named[0])
    return host is not None and (host in hosts or is_loopback(host))


def named_by(host: str) -> list[str]:
    """What a server that listens at this address is asked by."""
    if host in ("", "0.0.0.0", "::"):  # noqa: S104
        return []
    return [f"[{host}]" if ":" in host else host]
