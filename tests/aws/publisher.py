"""A process that publishes to a train, one event after another, and says which were accepted. It ends when told to."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading

from eventwagon import Train
from eventwagon.errors import PublishError


async def main(url: str, name: str, first: int) -> None:
    train = Train(name, lease=1.0)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def listen() -> None:
        sys.stdin.readline()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=listen, daemon=True).start()
    async with train.connect(url) as connection:
        number = first
        while not ended.is_set():
            with contextlib.suppress(PublishError):
                await connection.publish({"n": number}, event_type="n", timeout=30)
                print(number, flush=True)
            number += 1


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
