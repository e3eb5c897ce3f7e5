"""A train in the midst of its life, whose data `scripts/fixtures.py` keeps: some events are handled, some rejected,
some fail, some are in hand, some wait, over several wagons.

    python -m tests.programs.stored URL

It prints a line when all is so, says what was handled when it reads one, and waits to be killed.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from typing import Any

from eventwagon import Context, Reject, Train, Volume, Workers
from eventwagon.contracts.lifecycle import State

FIRST = ["plain"] * 6 + ["reject"] * 2 + ["hold"] * 2 + ["hold mail"] + ["fail"] * 2
"""What is done with the events of wagon 1, by their numbers; those of wagon 2 come after."""
SECOND = ["plain"] * 3 + ["hold"] * 20
DOES = FIRST + SECOND


def a_train(taken: list[int], mailed: list[int], *, hold: bool) -> Train:
    """Notes what it handled. With `hold`, some handlers never end, and some always fail."""
    train = Train(
        "stored",
        limit=Volume(50),
        workers=Workers(total=8),
        spares=1,
        visibility=5.0,
        handler_timeout=600.0,
        breaker=None,
    )

    @train.on("stored")
    async def take(order: dict[str, Any], ctx: Context) -> None:
        if order["do"] == "reject":
            raise Reject("nobody lives there")
        if hold and order["do"] == "hold":
            await asyncio.sleep(3600)
        if hold and order["do"] == "fail":
            raise ValueError("the printer is out of paper")
        await ctx.emit("mail", order)
        taken.append(order["n"])

    @train.on("mail")
    async def mail(order: dict[str, Any]) -> None:
        if hold and order["do"] == "hold mail":
            await asyncio.sleep(3600)
        mailed.append(order["n"])

    return train


async def main(url: str) -> None:
    taken, mailed = list[int](), list[int]()

    async def until(count: int, notes: list[int]) -> None:
        while len(notes) < count or len([e async for e in connection.dead_letters()]) < 2:
            await asyncio.sleep(0.1)

    async def in_hand(number: int) -> int:
        return sum(depth.in_flight or 0 for depth in (await connection.depths())[number].values())

    train = a_train(taken, mailed, hold=True)
    async with train.connect(url) as connection, connection.running(), asyncio.timeout(120):
        orders = [{"n": n, "do": do} for n, do in enumerate(DOES)]
        await connection.publish_many(orders[: len(FIRST)])
        await until(6, mailed)
        await connection.wait_switched(await connection.request_switch("fixture", by="somebody"))
        await connection.publish_many(orders[len(FIRST) :])
        await until(10, taken)  # their mails may have to wait: all workers are busy
        while await in_hand(1) < 3 or await in_hand(2) < 3:
            await asyncio.sleep(0.1)
        while not any(w.number == 3 and w.state is State.READY for w in connection.manifest.wagons):
            await asyncio.sleep(0.1)
        await asyncio.sleep(2)  # so that all that was handled is settled
        print("as it is to be", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print(json.dumps({"taken": sorted(taken), "mailed": sorted(mailed)}), flush=True)
        await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    socket.gethostname = lambda: "fixture"  # no machine of ours in what is kept
    asyncio.run(main(sys.argv[1]))
