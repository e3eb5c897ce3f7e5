"""`examples/orders` on a real Redis, with its processes."""

from __future__ import annotations

import asyncio
import json
import re
import runpy
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest
from examples.orders.app import Order, key, orders, pay, refund
from examples.orders.provider import Provider

from eventwagon import Context, DeadFilter, Event, Reject, Train
from tests.servers.ports import free_port
from tests.servers.server import Server

ROOT = Path(__file__).resolve().parents[2]


def example(redis: Server) -> subprocess.Popen[str]:
    command = [sys.executable, "examples/orders/run.py", "--url", redis.url, "--events", "150"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_the_books_add_up(redis_server: Server) -> None:
    """After an outage of the provider, a killed process and a release with wrong prices."""
    with example(redis_server) as run:
        output, _ = run.communicate(timeout=120)
    assert run.returncode == 0, output
    assert re.search(r"orders_v1 is paused by rule: \d+ of its latest \d+ handlings failed", output)
    assert "30 shipped, while 30 wait in orders_v1" in output
    assert "90 of 90 orders are paid and shipped" in output
    assert "30 payments refunded, EUR 469,500.00; 90 orders shipped" in output  # what v2 had charged
    books = dict(re.findall(r"^  ([a-z].*?)  +(.*)$", output.partition("The books")[2], re.MULTILINE))
    assert books["orders placed, shipped"] == "150, 150"
    assert books["payments"].endswith("in 180")  # those of v2 twice
    assert books["payments - refunds"] == books["shipped orders, as charged"] == books["all orders, by their prices"]
    assert books["stock"] == "300,000 items at the start - 225 shipped = 299,775 left"


def test_ctrl_c_ends_all_its_processes(redis_server: Server) -> None:
    with example(redis_server) as run:
        parent, until = psutil.Process(run.pid), time.monotonic() + 30
        while len(children := parent.children(recursive=True)) < 2:
            assert time.monotonic() < until
            assert run.poll() is None
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=30)
    assert (run.returncode, output.splitlines()[-1]) == (130, "interrupted")
    assert not [each for each in children if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def test_redis_is_away() -> None:
    command = [sys.executable, "examples/orders/run.py", "--url", f"redis://127.0.0.1:{free_port()}/0"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith("BROKEN: ")
    assert len(run.stderr.splitlines()) == 1


@pytest.fixture
def provider() -> Provider:
    """Not served: its rules alone."""
    return Provider(free_port())


def test_the_provider_charges_a_key_once(provider: Provider) -> None:
    with provider:
        assert provider.put("/charges/a", b'{"cents": 100}') == httpx.codes.OK
        assert provider.put("/charges/a", b'{"cents": 999}') == httpx.codes.OK
        assert provider.put("/refunds/b", b"") == httpx.codes.NOT_FOUND
        assert provider.put("/down", b"") == httpx.codes.OK
        assert provider.put("/refunds/a", b"") == httpx.codes.SERVICE_UNAVAILABLE
        assert provider.put("/up", b"") == httpx.codes.OK
        assert [provider.put("/refunds/a", b"") for _ in range(2)] == [httpx.codes.OK] * 2
        assert provider.totals() == {"charged": 100, "charges": 1, "refunded": 100, "refunds": 1, "refused": 1}


def event(identity: str, source: str = "/shop", **extensions: str) -> Event:
    return Event(identity, type="order.placed", source=source, time=time.time(), data=b"{}", extensions=extensions)


@pytest.mark.parametrize("identity", ["../down", "..", "x#1", "x?1", "x/y", "%2e%2e/down", "ö"])
def test_an_id_is_a_key_and_nothing_else(identity: str) -> None:
    """Whatever the publisher chose, the provider charges it, and refunds the same."""
    asked = list[str]()

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path.decode())
        return httpx.Response(200)

    async def handled() -> None:
        async with httpx.AsyncClient(base_url="http://provider", transport=httpx.MockTransport(answer)) as client:
            ctx = Context.fake(event(identity), train=orders, state=client)
            await pay(Order("A1", "book", 1), ctx)
            await refund(Order("A1", "book", 1), ctx)

    asyncio.run(handled())
    assert asked == [f"/charges/{key(event(identity))}", f"/refunds/{key(event(identity))}"]
    assert re.fullmatch(r"/charges/[0-9a-f]{64}", asked[0])


def test_each_event_has_a_key_of_its_own() -> None:
    events = [event("x#1"), event("x#2"), event("x", "/a"), event("x", "/b"), event("x"), event("x", replay="1")]
    assert len({key(each) for each in events}) == len(events)
    assert key(event("x")) == key(event("x"))


@pytest.mark.parametrize("quantity", [-30, 0, 1_001, 2**70])
def test_an_order_for_less_than_one_item_is_a_dead_letter(quantity: int) -> None:
    train, handled = Train("orders"), list[Order]()

    @train.on("orders")
    async def take(order: Order) -> None:
        handled.append(order)

    async def dead() -> bool:
        body = json.dumps({"number": "A1", "item": "book", "quantity": quantity}).encode()
        async with train.connect("memory:") as connection, connection.running():
            await connection.publish(Event("1", type="order", source="/", time=time.time(), data=body))
            async with asyncio.timeout(10):
                while not (await connection.dead.preview(DeadFilter(error="quantity"))).count:
                    await asyncio.sleep(0.01)
        return True

    assert asyncio.run(dead())
    assert not handled
    with pytest.raises(ValueError, match="quantity"):
        Order("A1", "book", quantity)


def test_a_second_order_of_the_same_number_was_paid_and_is_a_dead_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "shop.db"
    monkeypatch.setenv("ORDERS_DATABASE", str(database))
    app = SimpleNamespace(**runpy.run_path(str(ROOT / "examples" / "orders" / "app.py")))
    with closing(sqlite3.connect(database)) as db:
        db.executescript(app.SCHEMA)
    paid = app.Paid(app.Order("A1", "book", 1), 1_900)
    app.ship(paid, Context.fake(event("1"), train=app.orders))
    app.ship(paid, Context.fake(event("1"), train=app.orders))  # delivered again
    with pytest.raises(Reject, match="order A1: another event with this number was shipped"):
        app.ship(paid, Context.fake(event("2"), train=app.orders))
