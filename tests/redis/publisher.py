"""A process that publishes to wagon 1 of train `bound` until it is full, and says how many it got in."""

from __future__ import annotations

import asyncio
import sys

from eventwagon.drivers.redis import RedisBroker
from eventwagon.errors import ChannelFull
from eventwagon.event import Channel
from tests.redis.support import events


async def main(url: str) -> None:
    accepted = 0

    async def publish(broker: RedisBroker, size: int) -> None:
        nonlocal accepted
        while True:
            try:
                await broker.publish(Channel("bound", 1), events(size))
                accepted += size
            except ChannelFull as full:
                accepted += full.accepted
                return

    async with RedisBroker.from_url(url) as broker:
        await asyncio.gather(*(publish(broker, size) for size in (1, 7, 7, 33, 100)))
    print(accepted)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
