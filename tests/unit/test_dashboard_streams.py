"""The stream of the dashboard: one reading for all browsers, none for nobody, and nothing that grows."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections import Counter
from contextlib import AsyncExitStack, suppress
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from eventwagon.contracts.facts import Entry, WagonRemoved
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Wagon
from eventwagon.dashboard import app
from eventwagon.dashboard.clients import Client
from eventwagon.dashboard.curves import Curves
from eventwagon.dashboard.hub import Hub
from eventwagon.dashboard.places import place_of
from eventwagon.dashboard.watching import Log
from eventwagon.testing.virtual_time import EPOCH, VirtualClock, run
from tests.dashboards import TOKEN, CountedBroker, CountedRegistry, a_train, messages, serving

MARKUP = '"><script>alert(1)</script>'


async def _raw_client(address: str, path: str = "api/events?train=orders") -> tuple[asyncio.StreamReader, Any]:
    """A plain client of the stream, as cheap as one can be."""
    host, _, port = address.removeprefix("http://").strip("/").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /{path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    await writer.drain()
    return reader, writer


@pytest.mark.timeout(60)
def test_two_hundred_browsers_cost_the_registry_as_much_as_one() -> None:
    async def main() -> None:
        registry, broker = CountedRegistry(), CountedBroker()
        async with AsyncExitStack() as stack:
            c = await stack.enter_async_context(a_train().connect(broker=broker, registry=registry, listeners=()))
            await c.found()
            address = await stack.enter_async_context(serving(app(c, every=0.5)))

            async def costs(browsers: int) -> tuple[Counter[str], float]:
                clients = [await _raw_client(address) for _ in range(browsers)]
                for reader, _ in clients:
                    await reader.readuntil(b"event: train\n")
                before = registry.calls + broker.calls
                began = time.monotonic()
                seen = [0] * browsers

                async def follow(n: int) -> None:
                    while True:
                        await clients[n][0].readuntil(b"event: train\n")
                        seen[n] += 1

                async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
                    following = [tasks.create_task(follow(n)) for n in range(browsers)]
                    while min(seen) < 4:
                        await asyncio.sleep(0.05)
                    for task in following:
                        task.cancel()
                lasted = time.monotonic() - began
                found = registry.calls + broker.calls - before
                for _, writer in clients:
                    writer.close()
                return found, lasted

            for browsers in (1, 200):
                found, lasted = await costs(browsers)
                readings = lasted / 0.5 + 2  # one at each end may be begun
                assert found["read"] <= readings, (browsers, found)
                assert found["members"] <= readings
                assert found["entries"] <= readings
                assert found["depth"] <= 2 * readings  # of the wagons, and of the train's own dead letters
                assert found["read"] >= 3

            async with asyncio.timeout(10):
                while [t for t in asyncio.all_tasks() if "EventStream" in repr(t.get_coro())]:  # they have left
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.6)
            before = registry.calls + broker.calls
            await asyncio.sleep(1.5)
            assert registry.calls + broker.calls == before  # nobody looks: nothing is read

    asyncio.run(main())


def test_a_client_that_never_reads_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection closes only once its rest is sent: one that nobody takes would stay for ever."""
    whole = 32 * 1024 * 1024

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": bytes(whole)})

    async def main() -> None:
        monkeypatch.setattr("eventwagon.cli.http._CLOSING", 0.3)
        async with AsyncExitStack() as stack:
            address = await stack.enter_async_context(serving(app))
            reader, writer = await _raw_client(address)
            writer.transport.pause_reading()
            await asyncio.sleep(1.5)
            writer.transport.resume_reading()
            async with asyncio.timeout(10):
                taken = 0
                with suppress(ConnectionError):
                    while chunk := await reader.read(1 << 20):
                        taken += len(chunk)
            assert taken < whole
            writer.close()

    asyncio.run(main())


def test_connections_that_say_nothing_are_bounded_and_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """They must not use up the files that the process may open: nobody would get an answer then."""

    async def main() -> None:
        monkeypatch.setattr("tests.dashboards.CONNECTIONS", 20)
        monkeypatch.setattr("eventwagon.cli.http._SILENT", 1.0)
        async with AsyncExitStack() as stack:
            c = await stack.enter_async_context(a_train().connect("memory://dashboard-silent", listeners=()))
            address = await stack.enter_async_context(serving(app(c)))
            host, _, port = address.removeprefix("http://").strip("/").partition(":")
            silent = [await asyncio.open_connection(host, int(port))]
            request = f"GET /api/session HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
            silent[0][1].write(request + request[:20])  # it begins a second request, and says no more
            await silent[0][0].readuntil(b"}")
            silent += [await asyncio.open_connection(host, int(port)) for _ in range(49)]
            await asyncio.sleep(0.3)
            assert sum(reader.at_eof() for reader, _ in silent) == 30
            await asyncio.sleep(1.2)
            assert all(reader.at_eof() for reader, _ in silent)
            async with httpx.AsyncClient(base_url=address) as client:
                assert (await client.get("api/session")).status_code == 200
            for _, writer in silent:
                writer.close()

    asyncio.run(main())


def test_who_leaves_in_the_middle_of_a_body_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            c = await stack.enter_async_context(a_train().connect("memory://dashboard-leaves", listeners=()))
            address = await stack.enter_async_context(serving(app(c, token=TOKEN)))
            host, _, port = address.removeprefix("http://").strip("/").partition(":")
            _, writer = await asyncio.open_connection(host, int(port))
            headers = f"Host: {host}\r\nX-Eventwagon: 1\r\nContent-Type: application/json\r\nContent-Length: 99"
            writer.write(f"POST /api/login HTTP/1.1\r\n{headers}\r\n\r\n{{".encode())
            await writer.drain()
            await asyncio.sleep(0.3)
            writer.close()
            await asyncio.sleep(0.3)

    asyncio.run(main())
    assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")]


def test_a_browser_sees_a_switch_in_the_stream_and_all_text_as_text() -> None:
    async def main() -> None:
        registry, broker = CountedRegistry(), CountedBroker()
        async with AsyncExitStack() as stack:
            c = await stack.enter_async_context(a_train().connect(broker=broker, registry=registry, listeners=()))
            await stack.enter_async_context(c.running())
            address = await stack.enter_async_context(serving(app(c, every=0.2)))
            client = await stack.enter_async_context(httpx.AsyncClient(base_url=address, timeout=20))
            stream = await stack.enter_async_context(client.stream("GET", "api/events?train=orders"))
            assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
            first: dict[str, Any] = {}
            switched = False
            async with asyncio.timeout(20):
                async for name, data in messages(stream.aiter_lines()):
                    first.setdefault(name, data)
                    if not switched and len(first) == 6:
                        switched = True
                        await c.wait_switched(await c.request_switch(MARKUP, by=MARKUP))
                    if name == "journal" and not data["reset"]:
                        row = next((row for row in data["rows"] if row["kind"] == "SwitchRequested"), None)
                        if row is not None:
                            assert MARKUP in row["text"]
                            assert row["who"] == MARKUP
                            break
            assert list(first)[:2] == ["session", "trains"]
            assert first["session"]["login"] == "off"
            assert first["past"] == {"reset": True, "wagons": []}
            assert first["journal"]["reset"]
            assert first["journal"]["rows"]
            assert first["train"]["wagons"][0]["number"] == 1
            await c.wait_drained(1)
            again = await stack.enter_async_context(client.stream("GET", "api/events?train=orders"))
            async with asyncio.timeout(20):
                async for name, data in messages(again.aiter_lines()):
                    if name == "past" and data["wagons"]:
                        assert [wagon["number"] for wagon in data["wagons"]] == [1]
                        break

    asyncio.run(main())


def test_a_stream_ends_with_its_session() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            c = await stack.enter_async_context(a_train().connect("memory://dashboard-session", listeners=()))
            await c.found()
            address = await stack.enter_async_context(serving(app(c, token=TOKEN, every=0.1)))
            ours = {"X-Eventwagon": "dashboard"}
            client = await stack.enter_async_context(httpx.AsyncClient(base_url=address, headers=ours, timeout=20))
            assert (await client.get("api/events")).status_code == 401
            await client.post("api/login", json={"token": TOKEN})
            async with asyncio.timeout(10), client.stream("GET", "api/events") as stream:
                count = 0
                async for _ in stream.aiter_lines():
                    count += 1
                    if count == 10:
                        await client.post("api/logout", json={})
            assert count >= 10  # it has ended

    asyncio.run(main())


def test_mounted_under_a_prefix_it_works_though_its_lifespan_is_not_run() -> None:
    async def main() -> None:
        url = "memory://dashboard-mounted"
        inner = app(url, token=TOKEN, every=0.1)
        outer = Starlette(routes=[Mount("/ops/trains", app=inner)])
        async with AsyncExitStack() as stack:
            c = await stack.enter_async_context(a_train().connect(url, listeners=()))
            await c.found()
            address = await stack.enter_async_context(serving(outer))
            ours = {"X-Eventwagon": "dashboard"}
            client = await stack.enter_async_context(httpx.AsyncClient(base_url=address, headers=ours, timeout=20))
            moved = await client.get("ops/trains")
            assert moved.status_code in (307, 308)
            assert moved.headers["location"].endswith("/ops/trains/")
            answer = await client.post("ops/trains/api/login", json={"token": TOKEN})
            assert "Path=/ops/trains/;" in answer.headers["set-cookie"]
            (card,) = (await client.get("ops/trains/api/trains")).json()["trains"]
            assert card["train"] == "orders"
            async with client.stream("GET", "ops/trains/api/events?train=orders") as stream:
                async for name, _ in messages(stream.aiter_lines()):
                    if name == "train":
                        break
            await inner.close()
            assert not [task for task in asyncio.all_tasks() if "dashboard" in task.get_name()]

    asyncio.run(main())


def test_without_anybody_it_ends_by_itself_and_begins_anew() -> None:
    async def main() -> None:
        registry = CountedRegistry()
        async with a_train().connect(broker=CountedBroker(), registry=registry, listeners=()) as c:
            await c.found()
            hub = Hub(place_of(c))
            for _ in range(2):
                async with hub.looking():
                    assert [card.train for card in await hub.cards()] == ["orders"]
                before = registry.calls["read"]
                await asyncio.sleep(600)
                assert registry.calls["read"] <= before + 1
                assert not [task for task in asyncio.all_tasks() if "dashboard" in task.get_name()]
            await hub.close()

    run(main())


def test_a_client_that_does_not_read_is_cut_off() -> None:
    async def main() -> None:
        registry = CountedRegistry()
        async with a_train().connect(broker=CountedBroker(), registry=registry, listeners=()) as c:
            await c.found()
            hub = Hub(place_of(c))
            slow, quick = (Client("orders", b"", lambda: True) for _ in range(2))
            got = 0
            async with hub.streaming(slow), hub.streaming(quick):
                while got < 60:
                    assert await quick.next()
                    got += 1
                assert await slow.next() is None
                await hub.close()
                assert await quick.next() is None

    run(main())


@pytest.mark.timeout(120)
def test_hours_of_looking_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading each 10 s for four hours of virtual time, with wagons that come and go."""
    clock = VirtualClock()
    for module in ("eventwagon.views.train", "eventwagon.dashboard.watching", "eventwagon.dashboard.hub"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(time=clock))

    async def main() -> None:
        registry = CountedRegistry()
        async with a_train().connect(broker=CountedBroker(), registry=registry, listeners=(), clock=clock) as c:
            await c.found()
            hub = Hub(place_of(c), every=10.0)
            client = Client("orders", b"", lambda: True)
            number = 100

            async def look_for(hours: float) -> None:
                nonlocal number
                until = clock() + 3600 * hours
                while clock() < until:
                    assert await client.next()
                    number += 1
                    wagon = Wagon(number=number, state=State.REMOVING, opened_at=clock(), opened_because="x" * 100)
                    fact = WagonRemoved(train="orders", wagon=wagon, dead=0)
                    await registry.append("orders", [Entry(clock(), "somebody", fact)], keep=2_000)

            async with hub.streaming(client):
                await look_for(2.8)
                tracemalloc.start()
                await look_for(0.1)
                before, _ = tracemalloc.get_traced_memory()
                await look_for(1)
                after, _ = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                watch = await hub.watch("orders")
            assert watch is not None
            assert len(watch.past.rows) == 1_000
            assert len(watch.journal.rows) == 1_000
            assert len(watch.curves) <= 1_800 + 1_440
            # What replaced older points, rows and entries is counted, and those were not: at most 2 KB a reading.
            assert after - before < 360 * 2_000 + 200_000, (before, after)
            await hub.close()

    run(main())


def test_curves_are_bounded_and_survive_a_clock_that_is_set_back() -> None:
    curves = Curves()
    rest = (1.0, 1.0, 1.0, 1.0, 1.0, 1, 1)
    for second in range(200_000):
        curves.add((EPOCH + second, *rest))
    found: Any = curves.as_json()
    assert (len(found["hour"]["rows"]), len(found["day"]["rows"])) == (1_800, 1_440)
    assert found["hour"]["rows"][-1][0] - found["hour"]["rows"][0][0] == pytest.approx(3_600, abs=5)
    assert found["day"]["rows"][-1][0] - found["day"]["rows"][0][0] == pytest.approx(86_400, abs=100)
    curves.add((EPOCH - 1_000_000, *rest))
    assert len(curves) == 2
    assert curves.last == (EPOCH - 1_000_000, *rest)


def test_a_list_that_grows_tells_each_reader_what_is_new() -> None:
    log = Log[int](3)
    assert log.since(None) == (True, [])
    log.append(1)
    place = log.place
    assert log.since(None) == (True, [1])
    assert log.since(place) == (False, [])
    log.append(2)
    assert log.since(place) == (False, [2])
    for n in range(3, 9):
        log.append(n)
    assert log.since(place) == (True, [6, 7, 8])
    log.clear()
    log.append(9)
    assert log.since(place) == (True, [9])


def test_ten_trains_and_a_thousand_past_wagons(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        registry, broker = CountedRegistry(), CountedBroker()
        async with AsyncExitStack() as stack:
            trains = [
                await stack.enter_async_context(
                    a_train(f"t{n}").connect(broker=broker, registry=registry, listeners=())
                )
                for n in range(10)
            ]
            for c in trains:
                await c.found()
            for n in range(1, 1_201):
                wagon = Wagon(
                    number=n, state=State.REMOVING, opened_at=EPOCH + n, active_at=EPOCH + n, closed_at=EPOCH + n + 1,
                    opened_because="the active wagon fills: 800 of 1,000 events taken", closed_because="1,000 of 1,000",
                    published=1_000, settled=1_000,
                )  # fmt: skip
                await registry.append("t0", [Entry(EPOCH + n, "p", WagonRemoved(train="t0", wagon=wagon, dead=0))])
            hub = Hub(place_of(trains))
            client = Client("t0", b"", lambda: True)
            async with hub.streaming(client):
                began = time.perf_counter()
                first = await client.next()
                middle = time.perf_counter()
                later = await client.next()
                assert first is not None
                assert later is not None
                took = time.perf_counter() - middle
            await hub.close()
            past = next(part for part in first.split(b"\n\n") if part.startswith(b"event: past"))
            rows = msgspec.json.decode(past.partition(b"data: ")[2])["wagons"]
            assert len(rows) == 1_000
            assert rows[-1]["number"] == 1_200
            assert len(first) < 1_000_000
            assert len(later) < 20_000  # only what changes
            with capsys.disabled():
                print(
                    f"\nten trains, 1,000 past wagons: first {len(first):,} bytes in {1000 * (middle - began):.0f} ms, "
                    f"then {len(later):,} bytes in {1000 * took:.0f} ms each second"
                )

    run(main())
