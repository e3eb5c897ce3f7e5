"""From a URL to the source that it names. It knows none of them: all are found by entry points."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

from ..contracts.address import Address
from ..drivers.opening import call_entry, find_entry, origin
from ..values import must_be
from .source import Begin, Source

SOURCES = "eventwagon.sources"
"""The entry point group in which a package names its sources: scheme = function(Address, Begin) -> Source."""


def open_source(url: str, begin: Begin = None, *, clock: Callable[[], float] = time.time) -> Source:
    """The source that `url` names; not entered yet: `-` (JSON Lines from stdin),
    `redis://host:6379/STREAM?group=NAME`, `kafka://host:9092/TOPIC?group=NAME`,
    `postgresql://host/DATABASE?table=outbox`, `sqs://region/QUEUE`.

    Other packages add schemes by an entry point in the group `eventwagon.sources`. `begin`: where a group begins that
    has no position yet. Raises UsageError.
    """
    url = "stdin:" if url == "-" else url
    address = Address.of(url, clock=clock)
    entry = find_entry(SOURCES, "source", url, address.scheme, " and - (stdin)")
    made = call_entry(entry, address, begin)
    must_be(Source, made, f"{entry.name}: what {origin(entry)} returns")
    return cast("Source", made)
