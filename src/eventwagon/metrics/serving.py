"""Answers Prometheus's scrapes over HTTP, `GET /metrics`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..answering import Answer, Asked, answering
from ..errors import UsageError
from ..runtime.bulkhead import Bulkhead
from ..values import is_a, shown, whole
from .measures import Metrics

LOOPBACK = "127.0.0.1"


@asynccontextmanager
async def serving(metrics: Metrics, port: int, host: str = LOOPBACK) -> AsyncIterator[int]:
    """While entered, `GET /metrics` at this port answers with the metrics in Prometheus's format. Yields the port,
    which the system chooses if `port` is 0.

    `host` is the address to listen on: by default only this machine can ask; with an empty one all addresses of the
    machine are used. Needs `eventwagon[prometheus]`. Raises UsageError, also if the address or the port can't be used.
    """
    if not is_a(metrics, Metrics):
        raise UsageError(f"serving: give a Metrics, not {shown(metrics)}")
    port = whole("serving: port", port, least=0, most=65535)
    if not is_a(host, str):
        raise UsageError(f"serving: host={shown(host)}: give an address, or '' for all of this machine")
    from .prometheus import scrape

    bulkhead, one_at_a_time = Bulkhead("metrics"), asyncio.Lock()

    async def answer(asked: Asked) -> Answer:
        if asked.path != "/metrics":
            return Answer("404 Not Found", b"there is /metrics\n")
        accept = asked.headers.get("accept", "")
        try:
            async with one_at_a_time:  # many series take a while: not on the loop, and in one thread
                return Answer("200 OK", *await asyncio.to_thread(scrape, metrics, accept))
        except Exception as e:  # noqa: BLE001 - a scrape that fails must not end the process
            bulkhead.report("a scrape", e)
            return Answer("500 Internal Server Error", b"the metrics can't be read: the log says why\n")

    async with answering(answer, port, host, option="metrics") as at:
        yield at
