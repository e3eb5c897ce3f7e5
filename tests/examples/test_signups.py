"""`examples/signups`: who was told 202 has one account and one welcome. A worker is killed in each run."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from examples.signups import web
from examples.signups.app import SignUp
from httpx import ASGITransport, AsyncClient

from eventwagon import Train, Volume
from tests.examples.support import numbers, running
from tests.servers.redis import RedisServer
from tests.servers.server import Server


@pytest.mark.slow
def test_each_accepted_sign_up_is_one_account(own_redis: RedisServer, tmp_path: Path) -> None:
    """Redis does not answer for a while: the web server says 503, and clients try again with the same key. Who comes
    after the surge does not wait for it."""
    with running("signups", own_redis.url, tmp_path, "--events", "200") as example:
        time.sleep(0.3)  # so that some of them are under way; it holds for any other moment, too
        own_redis.pause()
        time.sleep(4.5)  # longer than the three seconds that the web server waits
        own_redis.resume()
        found = example.table()
    assert found["accounts, welcomes"] == "250; 250 for 250 × 202"
    assert "× 503" in found["answers"]
    assert numbers(found["wait for the account, 50 after it"])[1] < 2.0, found  # the median


@pytest.mark.slow
def test_ctrl_c_leaves_no_process(redis_server: Server, tmp_path: Path) -> None:
    with running("signups", redis_server.url, tmp_path, "--events", "2000") as example:
        parts = psutil.Process(example.process.pid).children(recursive=True)
        os.killpg(example.process.pid, signal.SIGINT)  # as a terminal does
        assert example.process.wait(30) == 130, example.errors.read_text()
    assert len(parts) == 4
    assert not [each for each in parts if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert asyncio.run(at_work(redis_server.url)) == 0  # all have ended in order, and have checked out
    assert "Traceback" not in example.errors.read_text()


async def at_work(url: str) -> int:
    async with Train("signups").connect(url, listeners=()) as train:
        return sum(bool(member.attachments) for member in await train.members())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (rb'{"email": "ada@example.com", "name": "\ud800"}', {"Idempotency-Key": "1"}),
        (rb'{"email": "a\nda@example.com", "name": "Ada"}', {"Idempotency-Key": "1"}),
        (b'{"email": "b@..", "name": "Ada"}', {"Idempotency-Key": "1"}),
        (b'{"email": "ada@example.com,bob@example.com", "name": "Ada"}', {"Idempotency-Key": "1"}),
        (rb'{"email": "ada@example.com", "name": ""}', {"Idempotency-Key": "1"}),
        (b'{"email": "ada@example.com", "name": "Ada"}', {}),
        (b"{", {"Idempotency-Key": "1"}),
    ],
)
def test_what_is_no_sign_up_gets_422(body: bytes, headers: dict[str, str]) -> None:
    async def status() -> int:
        transport = ASGITransport(app=web.app)  # refused before it needs a connection
        async with AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.post(
                "/signups", content=body, headers={"Content-Type": "application/json", **headers}
            )
            return answer.status_code

    assert asyncio.run(status()) == 422


def test_a_full_train_gets_429() -> None:
    full, over = Train("full", limit=Volume(1), wagons=2, at_cap="refuse"), asyncio.Event()

    @full.on("full")
    async def create(signup: SignUp) -> None:
        await over.wait()

    async def answers() -> list[tuple[int, str | None]]:
        transport, form = ASGITransport(app=web.app), {"email": "ada@example.com", "name": "Ada"}
        async with (
            full.connect("memory:") as connection,
            connection.running(),
            AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            web.app.state.signups = connection
            found = [await client.post("/signups", json=form, headers={"Idempotency-Key": str(n)}) for n in range(3)]
            over.set()
        return [(answer.status_code, answer.headers.get("Retry-After")) for answer in found]

    assert asyncio.run(answers()) == [(202, None), (202, None), (429, "5")]


def test_a_server_that_can_store_nothing_is_not_ready(own_redis: RedisServer) -> None:
    async def answers() -> list[int]:
        train, found = Train("ready"), list[int]()
        transport, form = ASGITransport(app=web.app), {"email": "ada@example.com", "name": "Ada"}
        async with (
            train.connect(own_redis.url) as connection,
            AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            web.app.state.signups = connection
            await connection.found()
            found.append((await client.get("/ready")).status_code)
            own_redis.pause()
            try:
                found.append((await client.get("/ready")).status_code)
            finally:
                own_redis.resume()
            found.append((await client.get("/ready")).status_code)
            await connection.remove("no longer needed", force=True)
            found.append((await client.get("/ready")).status_code)
            closed = await client.post("/signups", json=form, headers={"Idempotency-Key": "1"})
            assert closed.json() == {"detail": "sign-ups are closed"}
            return found

    assert asyncio.run(answers()) == [200, 503, 200, 503]
