"""A parsed URL, the argument of the functions that open drivers and orchestrators; and the drivers that they open."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from ..display import redaction
from ..errors import UsageError
from ..other_words import doubted
from ..values import MOST, shown, split_url
from .broker import Broker
from .registry import Registry

_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_WHOLE = re.compile(r"-?[0-9]{1,16}")


class Address(NamedTuple):
    """A parsed URL. `options` are its query, each given once. `url` is the whole URL except for the option
    `registry`. The methods that read an option raise UsageError for a wrong value."""

    url: str
    scheme: str
    host: str
    path: str
    options: dict[str, str]
    clock: Callable[[], float]
    registry: Registry | None = None
    """The registry that the URL's option `registry` names: it replaces the driver's own."""

    @classmethod
    def of(cls, url: str, *, clock: Callable[[], float] = time.time, registry: Registry | None = None) -> Self:
        """Parse `url`. From now on its secrets are hidden wherever they turn up. Raises UsageError."""
        parts = split_url(url)
        return cls(url, parts.scheme, parts.netloc, unquote(parts.path), options_of(url), clock, registry)

    @property
    def where(self) -> str:
        """The URL for messages: without its options and secrets."""
        return redaction.shown(self.url).partition("?")[0].removesuffix(":")

    def places(self, port: int) -> list[tuple[str, int]]:
        """The URL's comma-separated hosts, each with its port, or `port` if it has none. A user name and password
        before an @ are ignored. Raises UsageError."""
        found = list[tuple[str, int]]()
        hosts = self.host.rpartition("@")[2].split(",")
        for number, each in enumerate(hosts, 1):
            which = f"host {number} of {len(hosts)}" if len(hosts) > 1 else "the host"
            try:
                one = urlsplit(f"//{each}")
            except ValueError:
                raise self.wrong(f"{which} is none: an IPv6 address is written [::1]:{port}") from None
            try:
                given = port if one.port is None else one.port
            except ValueError:
                given = 0
            if not 0 < given < 65536:  # it may be part of a password: don't repeat it
                raise self.wrong(f"the port of {which} is no number from 1 to 65535")
            host = unquote(one.hostname or "localhost")
            if one.path or (not each and len(hosts) > 1) or " " in host or not host.isprintable():
                raise self.wrong(f"{which} is none: write host:port,host2:port")
            found.append((host, given))
        return found

    def wrong(self, why: str) -> UsageError:
        """The error to raise for this URL."""
        return UsageError(f"{self.where}: {why}")

    def only(self, *known: str) -> dict[str, str]:
        """The options. Raises UsageError if the driver does not know all of them, or if one is empty."""
        if unknown := sorted(self.options.keys() - set(known)):
            raise self.wrong(
                f"unknown option {doubted(unknown, known)}; {self.scheme} knows {', '.join(known) or 'none'}"
            )
        self.not_empty(*known)
        return self.options

    def not_empty(self, *names: str) -> None:
        """Raise UsageError if one of these options is given without a value, as a variable that is not set leaves
        it."""
        for name in names:
            if self.options.get(name) == "":
                raise self.wrong(f"option {name} is empty: give it a value, or leave it out")

    def flag(self, name: str, default: bool = False) -> bool:
        """An option that is true or false; yes, no, 1 and 0 are accepted too."""
        if (text := self.options.get(name)) is None:
            return default
        if (value := _FLAGS.get(text.lower())) is None:
            raise self._refused(name, "true or false")
        return value

    def whole(self, name: str, default: int, *, least: int = 1, most: int = MOST) -> int:
        """An option that is a whole number."""
        if (text := self.options.get(name)) is None:
            return default
        if not _WHOLE.fullmatch(text) or not least <= int(text) <= most:
            raise self._refused(name, f"a whole number{_between(least, most)}")
        return int(text)

    def seconds(self, name: str, default: float, *, least: float = 0.0, most: float = math.inf) -> float:
        """An option that is a time in seconds."""
        if (text := self.options.get(name)) is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise self._refused(name, f"a number of seconds{_between(least, most)}")
        return value

    def choice(self, name: str, default: str, choices: Sequence[str]) -> str:
        """An option that is one of several words."""
        text = self.options.get(name, default)
        if text not in choices:
            raise self._refused(name, f"{', '.join(choices[:-1])} or {choices[-1]}")
        return text

    def http(self, name: str, default: str, *, example: str) -> str:
        """An option that is the URL of an HTTP server. From now on its secrets are hidden too."""
        text = self.options.get(name, default)
        redaction.learn(text)
        try:
            parts = urlsplit(text)
        except ValueError:
            parts = urlsplit("")
        if text and (parts.scheme not in ("http", "https") or not parts.netloc):
            raise self._refused(name, f"a URL, say {name}={example}")
        return text

    def _refused(self, name: str, what: str) -> UsageError:
        return self.wrong(f"{name}={shown(self.options.get(name, ''))}: give {what}")


def options_of(url: str) -> dict[str, str]:
    """The options in the URL's query. Raises UsageError if one is given twice."""
    given = parse_qsl(split_url(url).query, keep_blank_values=True)
    names = [name for name, _ in given]
    for name, value in given:
        if names.count(name) > 1:
            where = redaction.shown(url).partition("?")[0].removesuffix(":")
            what = (
                f"option {shown(name)}" if value else "an option"
            )  # without a value it may be part of a password with an &
            raise UsageError(f"{where}: {what} is given twice: give it once")
    return dict(given)


class Drivers(NamedTuple):
    """The drivers that store a train's events and its manifest. Neither is entered yet."""

    broker: Broker
    registry: Registry


def _between(least: float, most: float) -> str:
    if least in (-math.inf, -MOST):
        return ""  # the caller checks its own bounds
    return f" of {_shown(least)} or more" if most in (math.inf, MOST) else f" from {_shown(least)} to {_shown(most)}"


def _shown(number: float) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)
