"""What drivers share if they name the same cluster, with the same options, in one event loop.

A client of Kafka has four threads and more, and trains are many. A train has a client of its own only where it could
hold up the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import msgspec

from ...sharing import Shared
from .admin import Admin
from .forward import ForwardPool
from .options import Options
from .reader import ReaderPool
from .sender import Sender
from .tail import QUICK, SPARING, Tail

_QUEUED = 2048  # kilobytes of events that a client fetches ahead
_FETCH = 524_288  # bytes of events that are fetched at once


class Cluster:
    """The clients that wait for no train: for calls about topics, for logs, and for events while few come. Those that
    read many events, and the producer of events, are each driver's own."""

    def __init__(self, options: Options) -> None:
        self.admin = Admin(options)
        causes = self.admin.causes
        self.sender = Sender(options.producer(linger=0, logger=causes))
        """For records of logs."""
        logs = partial(options.consumer, queued=4096, logger=causes)
        self._quick_logs = ForwardPool(logs(wait=QUICK), "eventwagon-kafka-logs", prompt=True)
        self._sparing_logs = ForwardPool(logs(wait=SPARING), "eventwagon-kafka-logs-quiet", prompt=False)
        self.logs_reader = ReaderPool(self.admin, logs(wait=5))
        self._events = partial(options.consumer, queued=_QUEUED, fetch=_FETCH, logger=causes)
        self._sparing_events = ForwardPool(self._events(wait=SPARING), "eventwagon-kafka-events-quiet", prompt=False)

    def quick_events(self) -> ForwardPool:
        """New clients for events, whose owner closes them."""
        return ForwardPool(self._events(wait=QUICK), "eventwagon-kafka-events", prompt=True)

    def events_tail(self, quick: ForwardPool) -> Tail:
        """A new tail for events, by these clients at first."""
        return Tail(quick, self._sparing_events)

    def logs_tail(self) -> Tail:
        """A new tail for logs."""
        return Tail(self._quick_logs, self._sparing_logs)

    async def close(self) -> None:
        """Finish sending, for up to 1 s; then end all of them."""
        readers = self._quick_logs, self._sparing_logs, self._sparing_events, self.logs_reader
        await asyncio.gather(self.sender.close(), *(clients.close() for clients in readers))
        await self.admin.close()


_clusters: Shared[Cluster] = Shared()


@asynccontextmanager
async def cluster_of(options: Options) -> AsyncIterator[Cluster]:
    """This event loop's clients of the cluster, for these options."""
    config = tuple(sorted(options.config.items()))
    key = (*msgspec.structs.astuple(msgspec.structs.replace(options, config=None)), config)
    async with _clusters.use(key, lambda: Cluster(options)) as cluster:
        yield cluster
