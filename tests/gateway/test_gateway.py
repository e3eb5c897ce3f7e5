"""The gateway over HTTP, as the command serves it: what is answered, what is stored, and who is hurt."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from eventwagon import Train, Volume, Workers
from eventwagon.cli.http import listen, server, serving
from eventwagon.cloudevents import BATCH, STRUCTURED
from eventwagon.connection import Connection
from eventwagon.errors import PublishTimeout
from eventwagon.event import Channel
from eventwagon.gateway import Gateway, Limits
from eventwagon.gateway import application as module
from eventwagon.gateway.keys import Key, hashed

GOOD: dict[str, Any] = {"specversion": "1.0", "id": "a1", "source": "/shop", "type": "ordered", "data": {}}
EVENTS = "/trains/orders/events"
BINARY = b"Content-Type: application/json\r\nce-id: 1\r\nce-source: /s\r\nce-type: t\r\nce-specversion: 1.0\r\n"


def a_train(**settings: Any) -> tuple[Train, list[str]]:
    train = Train("orders", **{"limit": Volume(1000), "workers": Workers(total=4)} | settings)
    seen: list[str] = []

    @train.on("orders")
    async def handle(payload: object, context: Any) -> None:
        seen.append(context.event.id)

    return train, seen


@asynccontextmanager
async def gateway(c: Connection, **how: Any) -> AsyncIterator[httpx.AsyncClient]:
    listening = listen("127.0.0.1", 0)
    at = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with (
        serving(server(Gateway([c], **how), connections=5000), listening),
        httpx.AsyncClient(base_url=at, timeout=30) as client,
    ):
        yield client


async def send(client: httpx.AsyncClient, document: object, kind: str = STRUCTURED, **headers: str) -> httpx.Response:
    return await client.post(EVENTS, content=json.dumps(document), headers={"content-type": kind, **headers})


def test_events_are_stored_and_handled() -> None:
    async def main() -> None:
        train, seen = a_train()
        async with train.connect("memory://gw", listeners=()) as c, c.running(), gateway(c) as client:
            assert (await send(client, GOOD)).json() == {"accepted": 1}
            answer = await send(client, [GOOD | {"id": f"b{n}"} for n in range(3)], BATCH)
            assert (answer.status_code, answer.json()) == (202, {"accepted": 3})
            answer = await client.post(
                EVENTS,
                content=b"{}",
                headers={"ce-id": "c", "ce-source": "/", "ce-type": "t", "ce-specversion": "1.0"},
            )
            assert answer.status_code == 202
            async with asyncio.timeout(10):
                while len(seen) < 5:
                    await asyncio.sleep(0.01)
            assert sorted(seen) == ["a1", "b0", "b1", "b2", "c"]

    asyncio.run(main())


def test_a_batch_with_one_bad_event_is_refused_whole() -> None:
    async def main() -> None:
        train, _ = a_train()
        async with train.connect("memory://gw-bad", listeners=()) as c, gateway(c) as client:
            answer = await send(client, [GOOD, GOOD | {"time": "soon"}], BATCH)
            assert answer.status_code == 400
            assert answer.json()["error"].startswith("event 2 of 2: time: soon")
            assert (await send(client, GOOD)).status_code == 202
            depths = await c.depths()
            assert sum(d.published or 0 for of in depths.values() for d in of.values()) == 1

    asyncio.run(main())


def test_a_full_train_says_when_to_come_again() -> None:
    async def main() -> None:
        go_on = asyncio.Event()
        train = Train("orders", limit=Volume(2), wagons=2, at_cap="refuse", spares=0, workers=Workers(total=4))

        @train.on("orders")
        async def wait(_: object) -> None:
            await go_on.wait()

        async with train.connect("memory://gw-full", listeners=()) as c, c.running(), gateway(c) as client:
            answers = [await send(client, GOOD | {"id": f"x{n}"}) for n in range(6)]
            assert [a.status_code for a in answers[:4]] == [202] * 4
            assert (answers[-1].status_code, answers[-1].headers["retry-after"]) == (429, "2"), answers[-1].text
            go_on.set()

    asyncio.run(main())


def test_a_paused_and_a_removed_train() -> None:
    async def main() -> None:
        train, _ = a_train()
        async with train.connect("memory://gw-paused", listeners=()) as c, gateway(c) as client:
            assert (await send(client, GOOD)).status_code == 202
            await c.pause(publishing=True)
            answer = await send(client, GOOD)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
            await c.resume()
            assert (await send(client, GOOD)).status_code == 202

    asyncio.run(main())


KEYS = {
    hashed("shop-key"): Key("shop", frozenset(["orders"])),
    hashed("other-key"): Key("other", frozenset(["signups"])),
    hashed("slow-key"): Key("slow", frozenset(["*"]), rate=2.0),
}


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("", 401),
        ("Basic shop-key", 401),
        ("Bearer", 401),
        ("Bearer wrong", 401),
        ("Bearer \xff", 401),
        ("Bearer other-key", 403),
        ("Bearer shop-key", 202),
        ("bearer shop-key", 202),
    ],
)
def test_keys(authorization: str | None, status: int) -> None:
    async def main() -> None:
        train, _ = a_train()
        async with train.connect("memory://gw-keys", listeners=()) as c, gateway(c, keys=lambda: KEYS) as client:
            headers = {b"content-type": STRUCTURED.encode()}
            if authorization is not None:
                headers[b"authorization"] = authorization.encode("latin-1")
            answer = await client.post(EVENTS, content=json.dumps(GOOD), headers=headers)
            assert answer.status_code == status
            assert ("www-authenticate" in answer.headers) == (status == 401)
            assert (await client.get("/healthz")).status_code == 200

    asyncio.run(main())


def test_the_rate_of_a_key() -> None:
    async def main() -> None:
        train, _ = a_train()
        async with train.connect("memory://gw-rate", listeners=()) as c, gateway(c, keys=lambda: KEYS) as client:
            answers = [await send(client, GOOD, authorization="Bearer slow-key") for _ in range(4)]
            assert [a.status_code for a in answers[:2]] == [202, 202]
            assert answers[-1].status_code == 429
            assert answers[-1].headers["retry-after"] == "1"
            assert (await send(client, GOOD, authorization="Bearer shop-key")).status_code == 202

    asyncio.run(main())


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("GET", EVENTS, {}, b"", 405),
        ("PUT", EVENTS, {}, b"{}", 405),
        ("POST", "/trains/nope/events", {"content-type": STRUCTURED}, b"{}", 404),
        ("POST", "/trains/../events", {}, b"", 404),
        ("POST", "/", {}, b"{}", 404),
        ("GET", "/nope", {}, b"", 404),
        ("POST", EVENTS, {"content-type": "text/plain"}, b"x", 415),
        ("POST", EVENTS, {"content-type": STRUCTURED, "content-encoding": "gzip"}, b"x", 415),
        ("POST", EVENTS, {"content-type": STRUCTURED}, b"x" * 5000, 413),
        ("POST", EVENTS, {"content-type": STRUCTURED}, b"{", 400),
    ],
)
def test_bad_requests(method: str, path: str, headers: dict[str, str], body: bytes, status: int) -> None:
    async def main() -> None:
        train, _ = a_train()
        async with (
            train.connect("memory://gw-requests", listeners=()) as c,
            gateway(c, limits=Limits(body=4096)) as client,
        ):
            answer = await client.request(method, path, headers=headers, content=body)
            assert answer.status_code == status
            assert answer.json()["error"]
            assert (await send(client, GOOD)).status_code == 202

    asyncio.run(main())


def test_a_body_in_chunks_is_bounded_too() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 100

    async def main() -> None:
        train, _ = a_train()
        async with (
            train.connect("memory://gw-chunks", listeners=()) as c,
            gateway(c, limits=Limits(body=4096)) as client,
        ):
            answer = await client.post(EVENTS, content=chunks(), headers={"content-type": STRUCTURED})
            assert answer.status_code == 413

    asyncio.run(main())


def test_health_and_the_document() -> None:
    async def main() -> None:
        train, _ = a_train()
        async with train.connect("memory://gw-health", listeners=()) as c:
            app = Gateway([c])
            transport = httpx.ASGITransport(cast("Any", app))
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                assert (await client.get("/readyz")).json() == {"status": "ready", "trouble": {}}
                document = (await client.get("/openapi.json")).json()
                assert document["openapi"] == "3.1.0"
                assert "202" in document["paths"]["/trains/{train}/events"]["post"]["responses"]
                app.end()
                assert (await client.get("/readyz")).status_code == 503
                assert (await client.get("/healthz")).status_code == 200

    asyncio.run(main())


def test_mounted_into_another_application() -> None:
    async def main() -> None:
        train, _ = a_train()
        async with train.connect("memory://gw-mounted", listeners=()) as c:
            mounted = Starlette(routes=[Mount("/in", app=cast("Any", Gateway([c])))])
            async with httpx.AsyncClient(transport=httpx.ASGITransport(mounted), base_url="http://x/in") as client:
                assert (await send(client, GOOD)).status_code == 202

    asyncio.run(main())


async def raw(client: httpx.AsyncClient, head: bytes, body: bytes) -> bytes:
    """The answer to a request as it is."""
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    writer.write(head + b"Connection: close\r\n\r\n" + body)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    return answer


def test_a_request_that_offers_an_upgrade_keeps_its_body() -> None:
    """As Java's HttpClient offers HTTP/2 by default."""

    async def main() -> None:
        train, _ = a_train()
        async with train.connect("memory://gw-upgrade", listeners=()) as c, gateway(c) as client:
            reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
            writer.write(
                b"POST /trains/orders/events HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
                b"Upgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\n"
                b"Content-Type: application/json\r\nce-id: j1\r\nce-source: /s\r\nce-type: t\r\n"
                b"ce-specversion: 1.0\r\nContent-Length: 12\r\n\r\n" + b'{"money": 1}'
            )
            async with asyncio.timeout(20):
                assert (await reader.readline()).startswith(b"HTTP/1.1 202")
            writer.close()
            (event,) = [event async for event in c.broker.read(Channel("orders", 1))]
            assert event.data == b'{"money": 1}'

    asyncio.run(main())


@pytest.mark.parametrize(
    ("hosts", "named", "status"),
    [
        (None, b"evil.example.org", 202),
        ([], b"evil.example.org", 421),
        ([], b"evil.example.org:8080", 421),
        ([], b"127.0.0.1.evil.example.org", 421),
        ([], b"127.0.0.1:1\r\nHost: evil.example.org", 400),
        ([], b"localhost:8080", 202),
        ([], b"127.0.0.1", 202),
        ([], b"[::1]:8080", 202),
        (["shop.example.org"], b"SHOP.example.org:443", 202),
        (["shop.example.org"], b"evil.example.org", 421),
        (["*"], b"evil.example.org", 202),
    ],
)
def test_names_that_a_web_page_may_have_made_point_here(hosts: list[str] | None, named: bytes, status: int) -> None:
    async def main() -> None:
        train, _ = a_train()
        async with train.connect("memory://gw-hosts", listeners=()) as c, gateway(c, hosts=hosts) as client:
            head = b"POST /trains/orders/events HTTP/1.1\r\nHost: " + named + b"\r\nContent-Length: 2\r\n" + BINARY
            answer = await raw(client, head, b"{}")
            assert answer.startswith(b"HTTP/1.1 %d " % status), answer

    asyncio.run(main())


def test_probes_may_use_any_name() -> None:
    async def main() -> None:
        train, _ = a_train()
        async with train.connect("memory://gw-probes", listeners=()) as c, gateway(c, hosts=["shop.example"]) as client:
            for path in ("/healthz", "/readyz"):
                assert (await client.get(path, headers={"Host": "10.0.0.7:8080"})).status_code == 200
            assert (await client.get("/openapi.json", headers={"Host": "10.0.0.7:8080"})).status_code == 421

    asyncio.run(main())


def test_a_request_with_two_lengths_is_refused_and_its_connection_closed() -> None:
    async def main() -> None:
        train, _ = a_train()
        async with train.connect("memory://gw-lengths", listeners=()) as c, gateway(c) as client:
            reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
            head = b"POST /trains/orders/events HTTP/1.1\r\nHost: x\r\n" + BINARY
            smuggled = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"
            writer.write(head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled)
            async with asyncio.timeout(20):
                answer = await reader.read()
            writer.close()
            assert answer.startswith(b"HTTP/1.1 400 "), answer
            assert answer.count(b"HTTP/1.1") == 1
            assert b"not both" in answer
            assert await c.depths() == {} or (await c.depths())[1][""].waiting == 0

    asyncio.run(main())


def test_headers_are_bounded() -> None:
    async def main() -> None:
        train, _ = a_train()
        async with train.connect("memory://gw-headers", listeners=()) as c, gateway(c) as client:
            try:
                head = b"POST /trains/orders/events HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 300_000 + b"\r\n"
                answer = await raw(client, head, b"")
            except ConnectionError:  # closed while it was still sending
                answer = b"HTTP/1.1 400"
            assert answer.startswith(b"HTTP/1.1 4")
            assert (await send(client, GOOD)).status_code == 202

    asyncio.run(main())


def test_it_is_not_ready_while_nothing_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HANGING", 0.2)
    monkeypatch.setattr(module, "_FAILED", 0.5)

    async def main() -> None:
        train, _ = a_train()
        async with train.connect("memory://gw-hanging", listeners=()) as c, gateway(c) as client:
            assert (await send(client, GOOD)).status_code == 202
            gone = asyncio.Event()

            async def hang(_: object) -> str:
                await gone.wait()
                raise PublishTimeout("nobody answers")

            with monkeypatch.context() as patched:
                patched.setattr(c, "publish", hang)
                sending = asyncio.create_task(send(client, GOOD))
                await asyncio.sleep(0.4)
                answer = await client.get("/readyz")
                assert (answer.status_code, answer.json()["error"][:28]) == (503, "orders: no event was stored ")
                gone.set()
                assert (await sending).status_code == 503
                assert (await client.get("/readyz")).status_code == 503
            await asyncio.sleep(0.6)
            assert (await client.get("/readyz")).status_code == 200

    asyncio.run(main())


async def slow(at: str, connections: int) -> list[asyncio.StreamWriter]:
    """Connections whose requests never end."""
    host, _, port = at.removeprefix("http://").partition(":")
    writers = []
    for _ in range(connections):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /trains/orders/events HTTP/1.1\r\nHost: x\r\nContent-Type: " + STRUCTURED.encode() + b"\r\n"
            b"Content-Length: 1000\r\n\r\n{"
        )
        writers.append(writer)
    return writers


def test_a_thousand_slow_clients_hurt_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.05)

    async def main() -> None:
        train, _ = a_train()
        async with (
            train.connect("memory://gw-slow", listeners=()) as c,
            gateway(c, limits=Limits(patience=1.5)) as client,
        ):
            writers = await slow(str(client.base_url).rstrip("/"), 1000)
            for number in range(50):
                assert (await send(client, GOOD | {"id": str(number)})).status_code == 202
            await asyncio.sleep(2.5)  # their time is over: they were answered, and cut off
            for writer in writers:
                writer.close()
            reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
            writer.write(
                b"POST /trains/orders/events HTTP/1.1\r\nHost: x\r\nContent-Type: " + STRUCTURED.encode() + b"\r\n"
                b"Content-Length: 1000\r\n\r\n{"
            )
            async with asyncio.timeout(10):
                answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 408")
            assert b"connection: close" in answer
            writer.close()

    asyncio.run(main())


def test_the_memory_of_all_bodies_is_bounded() -> None:
    async def main() -> None:
        train, _ = a_train()
        async with (
            train.connect("memory://gw-memory", listeners=()) as c,
            gateway(c, limits=Limits(bodies=3000)) as client,
        ):
            host, port = client.base_url.host, client.base_url.port
            _, writer = await asyncio.open_connection(host, port)
            writer.write(
                b"POST /trains/orders/events HTTP/1.1\r\nHost: x\r\nContent-Type: " + STRUCTURED.encode() + b"\r\n"
                b"Content-Length: 4000\r\n\r\n" + b"x" * 2900
            )
            await asyncio.sleep(0.2)
            answer = await send(client, GOOD | {"data": "x" * 500})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            writer.close()
            async with asyncio.timeout(10):
                while (await send(client, GOOD | {"data": "x" * 500})).status_code != 202:
                    await asyncio.sleep(0.05)

    asyncio.run(main())


def test_what_happens_in_publishing_is_told_and_hurts_no_other_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        train, _ = a_train()
        async with train.connect("memory://gw-defect", listeners=()) as c, gateway(c) as client:
            with monkeypatch.context() as patched:

                async def fail(*_: object, **__: object) -> str:
                    raise RuntimeError("a defect")

                patched.setattr(c, "publish", fail)
                answer = await send(client, GOOD)
                assert answer.status_code == 500
                assert "defect" not in answer.text
            assert (await send(client, GOOD)).status_code == 202

    asyncio.run(main())


def test_an_answer_in_two_writes_does_not_wait_for_the_client() -> None:
    """asyncio sets TCP_NODELAY only for sockets that it made itself."""
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_connection_is_kept_for_as_long_as_the_docs_say() -> None:
    assert server(None, connections=10).config.timeout_keep_alive == 30


def test_an_event_may_be_as_large_as_the_train_declares() -> None:
    async def main() -> None:
        async with a_train(max_event_bytes=50_000)[0].connect("memory://gw-bytes", listeners=()) as declares:
            await declares.found()
            mine, _ = a_train(max_event_bytes=2000)
            drivers = {"broker": declares.broker, "registry": declares.registry}
            async with mine.connect(listeners=(), **drivers) as c, gateway(c) as client:  # type: ignore[arg-type]
                assert (await send(client, GOOD | {"data": "x" * 40_000})).status_code == 202
                refused = await send(client, GOOD | {"data": "x" * 60_000})
                assert refused.status_code == 413
                assert "max_event_bytes=50,000" in refused.json()["error"]

    asyncio.run(main())
