"""The dashboard on a real Redis: it shows a burst, steers the train, and bears that the server goes and comes back."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from eventwagon.dashboard import app
from tests.dashboards import OURS, TOKEN, a_train, done, messages, serving
from tests.servers.server import Server


@pytest.mark.timeout(120)
def test_a_burst_is_watched_steered_and_survives_a_restart_of_the_server(own_redis: Server) -> None:
    async def main() -> None:
        url = own_redis.url
        async with AsyncExitStack() as stack:
            # it looks before there is any train
            address = await stack.enter_async_context(serving(app(url, token=TOKEN, every=0.2)))
            client = await stack.enter_async_context(httpx.AsyncClient(base_url=address, headers=OURS, timeout=30))
            await client.post("api/login", json={"token": TOKEN})
            assert (await client.get("api/trains")).json()["trains"] == []
            train = a_train()
            c = await stack.enter_async_context(train.connect(url, listeners=()))
            await stack.enter_async_context(c.running())
            await c.publish_many([*range(200), -1])

            async def until(told: Any) -> dict[str, Any]:
                async with asyncio.timeout(40), client.stream("GET", "api/events?train=orders") as stream:
                    async for name, data in messages(stream.aiter_lines()):
                        if name == "train" and told(data):
                            found: dict[str, Any] = data
                            return found
                raise AssertionError("the stream has ended")

            shown = await until(lambda t: sum(w["settled"] or 0 for w in t["wagons"]) == 201)
            assert (shown["dead"], shown["verdict"]["level"]) == (1, "ok")
            assert shown["later"]["count"] == 0
            answer = await client.post("api/trains/orders/actions/pause", json={"by": "anna", "wagon": 1})
            assert (await done(client, answer.json()["job"]["id"]))["state"] == "done"
            assert (await c.refresh()).manifest.wagons[0].paused is not None
            paused = await until(lambda t: t["wagons"][0]["pause"] is not None)
            assert paused["wagons"][0]["pause"]["by"] == "anna at the dashboard"
            group = (await client.get("api/trains/orders/dead")).json()["groups"][0]
            assert (group["count"], group["wagons"]) == (1, [1, 1])

            await asyncio.to_thread(own_redis.kill)
            broken = await until(lambda t: t["trouble"] is not None)
            assert broken["verdict"]["word"] == "can't read"
            assert broken["wagons"][0]["settled"] == 201  # the last that is known
            await asyncio.to_thread(own_redis.start)
            back = await until(lambda t: t["trouble"] is None)
            assert back["verdict"]["word"] != "can't read"

    asyncio.run(main())
