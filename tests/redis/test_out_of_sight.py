"""A server that is away: processes that publish nothing at the moment say so, too."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from eventwagon import Train, Workers
from eventwagon.cli.http import listen, server, serving
from eventwagon.gateway import Gateway, RemoteHandlers
from tests.bridge.support import bridging, redis_flow, shop, until
from tests.servers.redis import RedisServer
from tests.servers.server import Server

PATIENCE = 6.0


@asynccontextmanager
async def gateway(url: str, *, works: bool) -> AsyncIterator[httpx.AsyncClient]:
    train = Train("shop", workers=Workers(total=2), grace=0.2)
    train.on("shop")(handle)
    remote = [RemoteHandlers(train)] if works else []
    async with train.connect(url, listeners=()) as c:
        app = Gateway([c], remote=remote)
        with listen("127.0.0.1", 0) as listening:
            at = f"http://127.0.0.1:{listening.getsockname()[1]}"
            async with (
                c.running(observe=not works, work=works),
                serving(server(app, connections=100), listening),
                httpx.AsyncClient(base_url=at, timeout=40) as client,
            ):
                yield client


async def handle(payload: object) -> None: ...


async def becomes(status: int, ask: Callable[[], Awaitable[httpx.Response]], patience: float) -> httpx.Response:
    deadline = time.monotonic() + patience
    while (answer := await ask()).status_code != status:
        assert time.monotonic() < deadline, answer.text
        await asyncio.sleep(0.1)
    return answer


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize("works", [False, True])
def test_a_gateway_at_which_nobody_publishes_says_that_the_server_is_away(
    own_redis: RedisServer, works: bool, hangs: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with gateway(own_redis.url, works=works) as client:
            assert (await client.get("/readyz")).status_code == 200
            if hangs:
                own_redis.pause()
            else:
                await asyncio.to_thread(own_redis.kill)
            answer = await becomes(503, lambda: client.get("/readyz"), PATIENCE)
            assert "the broker or the registry has not answered for" in answer.json()["error"]
            if works:
                answer = await client.post("/trains/shop/receive", json={"wait": 0})
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                assert "has not answered for" in answer.json()["error"]
            if hangs:
                own_redis.resume()
            else:
                await asyncio.to_thread(own_redis.start)
            await becomes(200, lambda: client.get("/readyz"), 20.0)
            if works:
                assert (await client.post("/trains/shop/receive", json={"wait": 0})).status_code == 200

    try:
        with caplog.at_level(logging.INFO, logger="eventwagon"):
            asyncio.run(main())
    finally:
        own_redis.resume()
    over = [r.getMessage() for r in caplog.records if "answers again" in r.getMessage()]
    assert len(over) == 1
    assert over[0].startswith("shop: the broker or the registry answers again, after ")


def test_a_bridge_that_has_nothing_to_publish_says_so_too(redis_server: Server, own_redis: RedisServer) -> None:
    async def main() -> None:
        async with (
            redis_flow(redis_server) as flow,
            shop().connect(own_redis.url, listeners=()) as c,
            bridging(flow.open(), c) as bridge,
        ):
            await flow.write([b"1"])
            await until(lambda: bridge.passed == 1, "the first one")
            await asyncio.to_thread(own_redis.kill)
            await until(lambda: "the registry has not answered for" in bridge.trouble, "that it is told")
            assert bridge.waits_for == ""
            assert c.trouble == c.unreachable != ""
            await asyncio.to_thread(own_redis.start)
            await until(lambda: not bridge.trouble, "that it goes on")

    asyncio.run(main())
