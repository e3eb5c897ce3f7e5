"""What the drivers of an event loop share that name the same cluster with the same options."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from ...sharing import Shared
from .admin import Admin
from .options import Options
from .sender import Sender


class Cluster:
    """The clients that wait for no train: calls about topics, and records of logs. Each driver has its own for what it
    reads, and for events."""

    def __init__(self, options: Options) -> None:
        self.admin = Admin(options)
        self.sender = Sender(options.producer(linger=0, logger=self.admin.causes))

    async def close(self) -> None:
        """Finish sending, for up to 1 s; then end both."""
        await self.sender.close()
        await self.admin.close()


_clusters: Shared[Cluster] = Shared()


@asynccontextmanager
async def cluster_of(options: Options) -> AsyncIterator[Cluster]:
    """This event loop's clients of the cluster, for these options."""
    config = tuple(sorted(options.config.items()))
    key = (*msgspec.structs.astuple(msgspec.structs.replace(options, config=None)), config)
    async with _clusters.use(key, lambda: Cluster(options)) as cluster:
        yield cluster
