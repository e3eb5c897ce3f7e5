"""A consumer of one channel that is no train: what the command orchestrator runs. It handles one event after the other,
as `tests.programs.held` does, and ends on SIGTERM when it has none in hand."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import msgspec

from eventwagon.drivers.sqlite import SQLiteBroker
from eventwagon.errors import ChannelGone
from eventwagon.event import Channel
from tests.programs.held import note


async def handle(data: bytes, wagon: int) -> None:
    payload = msgspec.json.decode(data, type=dict[str, str])
    note("began", wagon)
    match payload.get("do", "hold"):
        case "exit":
            print(payload.get("text", ""), flush=True)
            os._exit(3)
        case "say":
            print(payload["text"], flush=True)
        case _:
            while not (Path(os.environ["HELD"]) / "free").exists():
                await asyncio.sleep(0.01)
    note("finished", wagon)


async def main() -> None:
    leaving = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.set)
    train, _, number = os.environ["EVENTWAGON_INGRESS"].rpartition("_v")
    directory = os.environ["EVENTWAGON_URL"].removeprefix("sqlite:///")
    async with (
        SQLiteBroker(directory) as broker,
        broker.consume(Channel(train, int(number)), visibility=600.0) as events,
    ):
        print("attached", flush=True)
        while not leaving.is_set():
            for delivery in await events.receive(1, 0.1):
                await handle(delivery.event.data, int(number))
                await events.settle([delivery])


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except ChannelGone as e:
        sys.exit(str(e))
