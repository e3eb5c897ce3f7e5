"""Remote consumers over HTTP: what they get, what becomes of it, and what they can't do."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest

from eventwagon import Context, Event, Train, UsageError, Volume, Workers
from eventwagon.cli.http import listen, server, serving
from eventwagon.connection import Connection
from eventwagon.errors import EventRefused
from eventwagon.event import Channel, child_id
from eventwagon.gateway import Gateway, Limits, RemoteHandlers
from eventwagon.gateway import remote as module
from eventwagon.gateway.keys import Key, hashed

_NUMBERS = itertools.count()


class Shop:
    """A train whose handlers are far away, a gateway that works for it, and a client."""

    def __init__(self, c: Connection, client: httpx.AsyncClient, app: Gateway, here: list[str]) -> None:
        self.c = c
        self.client = client
        self.app = app
        self.here = here
        """Payloads that were handled in this process."""

    async def post(self, verb: str, document: object, **headers: str) -> httpx.Response:
        return await self.client.post(f"/trains/shop/{verb}", json=document, headers=headers)

    async def receive(self, **asked: Any) -> list[Any]:
        answer = await self.post("receive", {"wait": 5} | asked)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["deliveries"])

    async def say(self, verb: str, delivery: Any, **more: Any) -> Any:
        answer = await self.post(verb, {"receipts": [{"receipt": delivery["receipt"], **more}]})
        assert answer.status_code == 200, answer.text
        return answer.json()["receipts"][0]

    async def left(self) -> int:
        depths = await self.c.depths()
        return sum(
            (d.waiting or 0) + (d.in_flight or 0) for of in depths.values() for n, d in of.items() if n != "dead"
        )

    async def dead(self) -> list[str]:
        return [letter.extensions["deadbecause"] async for letter in self.c.dead_letters()]


@asynccontextmanager
async def a_shop(name: str, *, how: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Shop]:
    defaults: dict[str, Any] = {"limit": Volume(1000), "workers": Workers(total=4), "backoff": 0.01, "grace": 0.2}
    train, here = Train("shop", **defaults | settings), list[str]()

    @train.on("shop")
    async def order(payload: dict[str, Any], ctx: Context) -> None:
        here.append(ctx.event.id)

    @train.on("ship")
    def ship(payload: dict[str, int]) -> None:
        here.append("ship")

    remote = RemoteHandlers(train)
    at = f"memory://far-{name}-{next(_NUMBERS)}"
    async with asyncio.timeout(30), train.connect(at, listeners=()) as c:
        app = Gateway([c], remote=[remote], **how or {})
        async with served(app) as client, c.running():
            yield Shop(c, client, app, here)


@asynccontextmanager
async def served(app: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    with listen("127.0.0.1", 0) as listening:
        at = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with (
            serving(server(app, connections=100), listening),
            httpx.AsyncClient(base_url=at, timeout=40) as client,
        ):
            yield client


def in_a_shop(
    test: Callable[[Shop], Coroutine[Any, Any, None]], *, how: dict[str, Any] | None = None, **settings: Any
) -> None:
    async def main() -> None:
        async with a_shop(test.__qualname__.partition(".")[0], how=how, **settings) as shop:
            await test(shop)

    asyncio.run(main())


def test_a_delivery_is_received_and_settled() -> None:
    async def test(shop: Shop) -> None:
        sent = await shop.c.publish({"id": 7}, subject="ada")
        [got] = await shop.receive()
        assert {name: got[name] for name in ("channel", "wagon", "attempt", "lease")} == {
            "channel": "",
            "wagon": 1,
            "attempt": 1,
            "lease": 30,
        }
        event = got["event"]
        assert (event["specversion"], event["id"], event["data"], event["subject"]) == ("1.0", sent, {"id": 7}, "ada")
        assert await shop.say("settle", got) == {"receipt": got["receipt"], "done": True}
        assert await shop.left() == 0
        assert await shop.say("settle", got) == {"receipt": got["receipt"], "done": True, "already": True}
        assert (await shop.say("fail", got))["error"] == "it was settled already"
        assert shop.here == []

    in_a_shop(test)


def test_an_empty_list_after_the_wait_and_an_event_that_comes_meanwhile() -> None:
    async def test(shop: Shop) -> None:
        assert await shop.receive(wait=0.2) == []
        asking = asyncio.create_task(shop.receive(wait=20))
        await asyncio.sleep(0.2)
        await shop.c.publish({})
        assert len(await asking) == 1

    in_a_shop(test)


def test_what_is_emitted_is_stored_before_the_answer() -> None:
    async def test(shop: Shop) -> None:
        await shop.c.publish({"id": 1}, subject="ada")
        [got] = await shop.receive()
        own = {"specversion": "1.0", "id": "own", "source": "/far", "type": "shipped", "data": {"n": 2}}
        emit = [{"channel": "ship", "data": {"n": 1}}, {"channel": "ship", "event": own}]
        assert (await shop.say("settle", got, emit=emit))["done"]
        first, second = sorted(
            await shop.receive(channel="ship", limit=2, wait=5) + await shop.receive(channel="ship", wait=0.3),
            key=lambda each: int(each["event"]["data"]["n"]),
        )
        assert (first["channel"], first["event"]["subject"], first["event"]["data"]) == ("ship", "ada", {"n": 1})
        assert (second["event"]["id"], second["event"]["source"]) == ("own", "/far")

    in_a_shop(test)


def test_the_same_ids_are_emitted_at_each_attempt() -> None:
    async def test(shop: Shop) -> None:
        await shop.c.publish({})
        [got] = await shop.receive()
        refused = await shop.say("settle", got, emit=[{"channel": "ship", "data": {}}, {"channel": "sip", "data": {}}])
        assert not refused["done"]
        assert "emit to 'sip': no handler is declared for it" in refused["error"]
        assert await shop.receive(channel="ship", wait=0.3) == []  # nothing of it counts, and the lease goes on
        assert (await shop.say("settle", got, emit=[{"channel": "ship", "data": {}}]))["done"]
        [child] = await shop.receive(channel="ship")
        parent = Event(got["event"]["id"], "t", got["event"]["source"], 0.0, b"")
        assert child["event"]["id"] == child_id(parent, "ship", 0)
        assert (await shop.say("settle", child))["done"]
        assert await shop.left() == 0

    in_a_shop(test)


REFUSED: list[tuple[Any, str]] = [
    ({"channel": "", "data": {}}, "nothing can be emitted to the ingress"),
    ({"channel": "nope", "data": {}}, "no handler is declared for it"),
    ({"channel": "dead", "data": {}}, "no handler is declared for it"),
    ({"channel": "ship", "data": [1]}, "emit to 'ship'"),
    ({"channel": "ship", "data": {"n": "x"}}, "emit to 'ship'"),
    ({"channel": "ship", "event": {}}, "emit 2: id, source, type, specversion: missing"),
    ({"channel": "ship", "event": 7}, "emit 2: it is JSON of another form than is due"),
    (
        {"channel": "ship", "event": {"specversion": "1.0", "id": "a", "source": "b", "type": "c", "undo": "x"}},
        "own",
    ),
    ({"channel": "ship", "data": {"x" * 2_000_000: 1}}, "bytes"),
]


def test_emits_that_are_refused() -> None:
    async def test(shop: Shop) -> None:
        await shop.c.publish({})
        [got] = await shop.receive(limit=1)
        for emit, why in REFUSED:
            await shop.c.publish({})
            [good] = await shop.receive(limit=1)
            receipts = [
                {"receipt": got["receipt"], "emit": [{"channel": "ship", "data": {"n": 1}}, emit]},
                {"receipt": good["receipt"]},
            ]
            answer = await shop.post("settle", {"receipts": receipts})
            refused, settled = answer.json()["receipts"]
            assert (refused["done"], settled["done"]) == (False, True), why
            assert why in refused["error"]
        assert (await shop.say("settle", got))["done"]
        assert await shop.left() == 0  # nothing was emitted

    in_a_shop(test, max_event_bytes=1_000_000)


def test_release_counts_no_attempt() -> None:
    async def test(shop: Shop) -> None:
        await shop.c.publish({})
        [got] = await shop.receive()
        assert (await shop.say("release", got))["done"]
        [again] = await shop.receive()
        assert (again["attempt"], again["event"]["id"]) == (1, got["event"]["id"])
        assert (await shop.say("settle", got))["error"] == "it was released already"
        assert (await shop.say("settle", again))["done"]

    in_a_shop(test)


def test_fail_counts_and_reject_ends() -> None:
    async def test(shop: Shop) -> None:
        await shop.c.publish({})
        for attempt in (1, 2):
            [got] = await shop.receive()
            assert got["attempt"] == attempt
            assert (await shop.say("fail", got, reason="no\nhost"))["done"]
        assert await shop.receive(wait=0.3) == []
        await shop.c.publish({})
        [got] = await shop.receive()
        assert (await shop.say("reject", got, reason="no such customer"))["done"]
        assert sorted(await shop.dead()) == ["no\\nhost", "rejected: no such customer"]

    in_a_shop(test, attempts=2)


def test_a_lease_that_runs_out_is_a_failed_attempt() -> None:
    async def test(shop: Shop) -> None:
        await shop.c.publish({})
        [got] = await shop.receive(lease=1)
        [again] = await shop.receive()
        assert again["attempt"] == 2
        assert (await shop.say("settle", got))["error"] == "its lease of 1 s has run out"
        assert (await shop.say("extend", got))["error"] == "its lease of 1 s has run out"
        assert (await shop.say("settle", again))["done"]

    in_a_shop(test)


def test_the_last_lease_that_runs_out_is_a_death() -> None:
    async def test(shop: Shop) -> None:
        await shop.c.publish({})
        await shop.receive(lease=1)
        async with asyncio.timeout(10):
            while not await shop.dead():
                await asyncio.sleep(0.05)
        assert await shop.dead() == [
            "the consumer has not answered within its lease of 1 s: it may have died, or takes longer"
        ]

    in_a_shop(test, attempts=1)


def test_extend_and_the_handlers_timeout() -> None:
    async def test(shop: Shop) -> None:
        await shop.c.publish({})
        [got] = await shop.receive(lease=1)
        for _ in range(3):
            await asyncio.sleep(0.5)
            assert (await shop.say("extend", got))["lease"] == 1
        assert 0 < (await shop.say("extend", got, lease=60))["lease"] < 1.6
        assert await shop.left() == 1
        [again] = await shop.receive(wait=10)
        assert (again["attempt"], again["lease"]) == (2, pytest.approx(3, abs=0.2))
        ended = "its handler's timeout of 3 s (handler_timeout) has ended it, and no lease is longer"
        assert (await shop.say("settle", got))["error"] == ended
        async with asyncio.timeout(10):
            while not await shop.dead():
                await asyncio.sleep(0.05)
        assert "handler_timeout" in (await shop.dead())[0]
        assert (await shop.say("extend", again))["error"] == ended

    in_a_shop(test, handler_timeout=3.0, attempts=2)


def test_one_that_goes_away_while_it_waits_loses_nothing() -> None:
    async def test(shop: Shop) -> None:
        with pytest.raises(httpx.ReadTimeout):
            await shop.client.post("/trains/shop/receive", json={"wait": 20}, timeout=0.3)
        next_one = asyncio.create_task(shop.receive(wait=20))
        await asyncio.sleep(0.1)
        await shop.c.publish({})
        [got] = await next_one
        assert got["attempt"] == 1
        assert (await shop.say("settle", got))["done"]

    in_a_shop(test)


def test_an_event_for_one_that_has_just_gone_goes_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GATHER", 0.5)  # it goes while its answer gathers

    async def test(shop: Shop) -> None:
        await shop.c.publish({})
        with pytest.raises(httpx.ReadTimeout):
            await shop.client.post("/trains/shop/receive", json={"wait": 20}, timeout=0.3)
        [got] = await shop.receive()
        assert got["attempt"] == 1

    in_a_shop(test)


def test_without_consumers_no_attempt_is_counted() -> None:
    async def test(shop: Shop) -> None:
        await shop.c.publish({})
        await asyncio.sleep(1.5)
        [got] = await shop.receive()
        assert got["attempt"] == 1

    in_a_shop(test, handler_timeout=0.5, attempts=1)


def test_a_gateway_without_consumers_holds_nothing_back() -> None:
    """It has fetched an event before there was another gateway to which that could go."""

    def declared() -> tuple[Train, RemoteHandlers]:
        train = Train("shop", workers=Workers(total=4), grace=0.2)

        @train.on("shop")
        async def order(payload: object) -> None: ...

        return train, RemoteHandlers(train)

    async def main() -> None:
        (idle, _), (train, remote) = declared(), declared()
        async with asyncio.timeout(30), idle.connect("memory://far-idle", listeners=()) as c, c.running():
            await c.publish_many(range(5))
            await asyncio.sleep(0.5)
            async with train.connect("memory://far-idle", listeners=()) as d, d.running(observe=False):
                app: Any = Gateway([d], remote=[remote])
                async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
                    shop, seen = Shop(d, client, app, []), list[int]()
                    while len(seen) < 5:
                        for got in await shop.receive():
                            seen.append(got["event"]["data"])
                            assert (await shop.say("settle", got))["done"]
                assert sorted(seen) == list(range(5))

    asyncio.run(main())


def test_no_more_are_out_than_there_are_workers() -> None:
    async def test(shop: Shop) -> None:
        await shop.c.publish_many({"id": n} for n in range(20))
        out: list[Any] = []
        while len(out) < 4:
            out += await shop.receive(limit=10)
        assert await shop.receive(limit=10, wait=0.3) == []
        ready = (await shop.client.get("/readyz")).json()
        assert ready["works"] == {"shop": {"wagons": [1], "receiving": 0, "out": 4}}
        answer = await shop.post("settle", {"receipts": [{"receipt": each["receipt"]} for each in out]})
        assert [each["done"] for each in answer.json()["receipts"]] == [True] * 4
        assert len(await shop.receive(limit=10)) > 0

    in_a_shop(test)


def test_many_consumers_get_each_event_once() -> None:
    async def test(shop: Shop) -> None:
        seen: list[int] = []

        async def consume(limit: int) -> None:
            while len(seen) < 100:
                for got in await shop.receive(limit=limit, wait=0.5):
                    seen.append(got["event"]["data"]["id"])
                    assert (await shop.say("settle", got))["done"]

        await shop.c.publish_many({"id": n} for n in range(100))
        async with asyncio.TaskGroup() as consumers:
            for limit in (1, 2, 3, 50):
                consumers.create_task(consume(limit))
        assert sorted(seen) == list(range(100))

    in_a_shop(test, workers=Workers(total=40))


def test_an_event_that_the_broker_refuses_is_told() -> None:
    async def test(shop: Shop) -> None:
        publish = shop.c.broker.publish

        async def refuse(channel: Any, events: Any) -> Any:
            if channel.name == "ship":
                raise EventRefused("not this one")
            return await publish(channel, events)

        await shop.c.publish({})
        [got] = await shop.receive()
        shop.c.broker.publish = refuse  # type: ignore[method-assign]
        answer = await shop.say("settle", got, emit=[{"channel": "ship", "data": {}}])
        assert (answer["done"], "it became a dead letter: emitting to ship" in answer["error"]) == (False, True), answer

    in_a_shop(test)


def test_an_event_that_the_broker_has_lost() -> None:
    async def test(shop: Shop) -> None:
        await shop.c.publish({})
        [got] = await shop.receive()
        await shop.c.broker.delete(Channel("shop", 1))
        async with asyncio.timeout(10):
            while (answer := await shop.say("extend", got))["done"]:
                await asyncio.sleep(0.1)
        assert "the broker has lost it or its claim, its wagon is gone" in answer["error"]

    in_a_shop(test, visibility=1.0)


def test_the_end_says_how_many_are_out_and_what_became_of_them(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "eventwagon.gateway")

    async def main() -> None:
        async with a_shop("telling-end") as shop:
            await shop.c.publish_many([{}, {}])
            out = [*await shop.receive(limit=1), *await shop.receive(limit=1)]
            shop.app.end()
            shop.app.end()
            assert len(out) == 2
            assert (await shop.say("settle", out[0]))["done"]

    asyncio.run(main())
    assert [each.getMessage() for each in caplog.records if each.name == "eventwagon.gateway"] == [
        "shop: it ends; deliveries that are out, with up to 0.2 s (grace) to be settled: 2",
        "shop: no delivery is out any more; not settled, so that they come again: 1",
    ]


def test_at_the_end_what_is_out_may_be_settled() -> None:
    async def main() -> None:
        train = Train("shop", workers=Workers(total=4), grace=10.0)

        @train.on("shop")
        async def order(payload: object) -> None: ...

        remote = RemoteHandlers(train)
        async with asyncio.timeout(30), train.connect("memory://far-end", listeners=()) as c:
            app = Gateway([c], remote=[remote])
            async with served(app) as client:
                shop = Shop(c, client, app, [])
                async with c.running():
                    await c.publish_many([1, 2])
                    [got] = await shop.receive(limit=1)
                    asking = asyncio.create_task(shop.receive(channel="", limit=1, wait=30))
                    [other] = await asking
                    waiting = asyncio.create_task(shop.receive(wait=30))
                    await asyncio.sleep(0.2)
                    app.end()
                    assert await waiting == []
                    answer = await shop.post("receive", {})
                    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")

                    async def settle_later() -> Any:
                        await asyncio.sleep(0.5)
                        return await shop.say("settle", got), await shop.say("release", other)

                    settling = asyncio.create_task(settle_later())
                assert [each["done"] for each in await settling] == [True, True]
                assert await shop.left() == 1

    asyncio.run(main())


KEYS = {
    hashed("worker"): Key("worker", frozenset(["shop"]), work=True),
    hashed("web"): Key("web", frozenset(["shop"])),
    hashed("other"): Key("other", frozenset(["bills"]), work=True),
}


@pytest.mark.parametrize(
    ("key", "status", "why"),
    [
        ("", 401, "give a key"),
        ("Bearer nope", 401, "not known"),
        ("Bearer web", 403, "work = true"),
        ("Bearer other", 403, "not for train"),
        ("Bearer worker", 200, ""),
    ],
)
def test_keys(key: str, status: int, why: str) -> None:
    async def main() -> None:
        train = Train("shop")
        async with train.connect("memory://far-keys", listeners=()) as c:
            app: Any = Gateway([c], remote=[RemoteHandlers(train)], keys=lambda: KEYS)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
                for verb in ("receive", "settle", "release", "extend", "reject", "fail"):
                    document: dict[str, Any] = {"wait": 0} if verb == "receive" else {"receipts": []}
                    headers = {"authorization": key} if key else {}
                    answer = await client.post(f"/trains/shop/{verb}", json=document, headers=headers)
                    assert answer.status_code == status, answer.text
                    assert why in answer.text

    asyncio.run(main())


BAD = [
    ("receive", "{", 400, "no JSON"),
    ("receive", "[]", 400, "Expected `object`, got `array`"),
    ("receive", '{"limit": 0}', 400, "`$.limit`"),
    ("receive", '{"limit": 1001}', 400, "limit: 1,001 is more than 1,000"),
    ("receive", '{"limit": true}', 400, "`$.limit`"),
    ("receive", '{"limit": 1e300}', 400, "`$.limit`"),
    ("receive", '{"wait": 31}', 400, "`$.wait`"),
    ("receive", '{"wait": -1}', 400, "`$.wait`"),
    ("receive", '{"wait": NaN}', 400, "no JSON"),
    ("receive", '{"wait": "20"}', 400, "`$.wait`"),
    ("receive", '{"lease": 0}', 400, "`$.lease`"),
    ("receive", '{"lease": 1e9}', 400, "`$.lease`"),
    ("receive", '{"channel": 7}', 400, "`$.channel`"),
    ("receive", '{"channel": "nope"}', 400, "no channel 'nope'; there are: '', 'ship'"),
    ("receive", '{"channel": "\\ud800"}', 400, "no Unicode text: it has half of a surrogate pair"),
    ("receive", '{"chanel": ""}', 400, "there is no field `chanel`"),
    ("receive", '{"x": ' + "[" * 100_000, 400, "the body: "),
    ("settle", "{}", 400, "missing required field `receipts`"),
    ("settle", '{"receipts": {}}', 400, "Expected `array`"),
    ("settle", '{"receipts": ["x"]}', 400, "receipt 1 of 1: "),
    ("settle", '{"receipts": [{"receipt": ""}]}', 400, "receipt 1 of 1: "),
    ("settle", '{"receipts": [{"receipt": "x"}, {}]}', 400, "receipt 2 of 2: "),
    ("settle", '{"receipts": [{"receipt": "x"}, {"receipt": "x"}]}', 400, "receipt 2 of 2: it is there twice"),
    (
        "settle",
        '{"receipts": [{"receipt": "x", "reason": ""}]}',
        400,
        "there is no field `reason`; there are receipt, emit",
    ),
    ("settle", '{"receipts": [{"receipt": "x", "emit": [{}]}]}', 400, "missing required field `channel`"),
    ("settle", '{"receipts": [{"receipt": "x", "emit": [{"channel": "ship"}]}]}', 400, "emit 1: give either"),
    (
        "settle",
        '{"receipts": [{"receipt": "x", "emit": [{"channel": "ship", "data": 1, "event": {}}]}]}',
        400,
        "emit 1: give either",
    ),
    ("settle", json.dumps({"receipts": [{"receipt": str(n)} for n in range(1001)]}), 413, "1,000 are taken"),
    ("extend", '{"receipts": [{"receipt": "x", "lease": -1}]}', 400, "`$.lease`"),
    ("fail", json.dumps({"receipts": [{"receipt": "x", "reason": "r" * 2001}]}), 400, "`$.reason`"),
    ("reject", '{"receipts": [{"receipt": "x", "reason": 7}]}', 400, "`$.reason`"),
    ("settle", '{"receipts": [{"receipt": "x", "emit": [{"chanel": ""}]}]}', 400, "no field `chanel` - at `$.emit[0]`"),
    ("receive", '{"max": 1}', 400, "the body: there is no field `max`; there are limit, wait, channel, lease"),
    ("fail", '{"receipts": [{"receipt": "x", "reason": "\\ud83d"}]}', 400, "no Unicode text"),
    ("steal", "{}", 404, "there are POST"),
]


def test_bad_requests() -> None:
    async def test(shop: Shop) -> None:
        await shop.c.publish({})
        [got] = await shop.receive()
        for verb, body, status, why in BAD:
            answer = await shop.client.post(
                f"/trains/shop/{verb}",
                content=body.replace('"x"', json.dumps(got["receipt"])),
                headers={"content-type": "application/json"},
            )
            assert (answer.status_code, why in answer.json()["error"]) == (status, True), (body[:200], answer.text)
        assert (await shop.say("settle", got))["done"]  # nothing was done

    in_a_shop(test)


FORMS = [
    ("GET", "/trains/shop/receive", "application/json", 405),
    ("POST", "/trains/nope/receive", "application/json", 404),
    ("POST", "/trains/shop/receive", "text/plain", 415),
    ("POST", "/trains/shop/receive", "application/x-www-form-urlencoded", 415),
]


def test_bad_forms() -> None:
    async def test(shop: Shop) -> None:
        for method, path, kind, status in FORMS:
            answer = await shop.client.request(method, path, content=b"{}", headers={"content-type": kind})
            assert answer.status_code == status, path
            assert answer.json()["error"]

    in_a_shop(test)


def test_receipts_that_are_not_known() -> None:
    async def test(shop: Shop) -> None:
        for verb in ("settle", "release", "extend", "reject", "fail"):
            answer = await shop.say(verb, {"receipt": "x\u2028"})
            assert (answer["done"], "not known" in answer["error"]) == (False, True)

    in_a_shop(test)


def test_a_body_that_is_too_large() -> None:
    async def test(shop: Shop) -> None:
        assert (await shop.post("settle", {"receipts": ["x" * 5000]})).status_code == 413

    in_a_shop(test, how={"limits": Limits(body=4096)})


def test_an_answer_is_bounded() -> None:
    async def test(shop: Shop) -> None:
        await shop.c.publish_many({"x": "x" * 3000} for _ in range(4))
        assert len(await shop.receive(limit=10)) <= 2

    in_a_shop(test, how={"limits": Limits(body=4096)})


def test_data_that_are_no_json() -> None:
    async def main() -> None:
        train = Train("shop", workers=Workers(total=4))

        @train.on("shop")
        async def order(payload: bytes) -> None: ...

        remote = RemoteHandlers(train)
        async with train.connect("memory://far-bytes", listeners=()) as c, c.running():
            app: Any = Gateway([c], remote=[remote])
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
                await c.publish(b"\xff\x00")
                answer = await client.post("/trains/shop/receive", json={})
                [got] = answer.json()["deliveries"]
                assert got["event"]["data_base64"] == "/wA="
                document = {"receipts": [{"receipt": got["receipt"]}]}
                assert (await client.post("/trains/shop/settle", json=document)).json()["receipts"][0]["done"]

    asyncio.run(main())


def test_events_of_one_message_are_settled_together() -> None:
    async def test(shop: Shop) -> None:
        events = [{"specversion": "1.0", "id": f"b{n}", "source": "/", "type": "t", "data": {}} for n in range(2)]
        batch = Event("batch", "t", "/", 1e9, msgspec.json.encode(events), None, "application/cloudevents-batch+json")
        await shop.c.publish(batch)
        for name in ("b0", "b1"):
            [got] = await shop.receive()
            assert got["event"]["id"] == name
            assert await shop.left() == 1
            assert (await shop.say("settle", got))["done"]
        async with asyncio.timeout(10):
            while await shop.left():
                await asyncio.sleep(0.02)

    in_a_shop(test)


def test_middleware_surrounds_the_consumer() -> None:
    async def main() -> None:
        train, passed = Train("shop", workers=Workers(total=4)), list[str]()

        @train.middleware
        async def around(ctx: Any, call_next: Any) -> None:
            passed.append("in")
            await call_next()
            passed.append("out")

        @train.on("shop")
        async def order(payload: object) -> None:
            passed.append("handler")

        remote = RemoteHandlers(train)
        async with train.connect("memory://far-around", listeners=()) as c, c.running():
            app: Any = Gateway([c], remote=[remote])
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
                await c.publish(1)
                [got] = (await client.post("/trains/shop/receive", json={})).json()["deliveries"]
                document = {"receipts": [{"receipt": got["receipt"]}]}
                assert (await client.post("/trains/shop/settle", json=document)).json()["receipts"][0]["done"]
        assert passed == ["in", "out"]

    asyncio.run(main())


def test_a_consumer_gets_new_events_before_the_rest_of_a_backlog() -> None:
    async def main() -> None:
        train = Train("shop", limit=Volume(20), spares=1)

        @train.on("shop")
        async def order(payload: object) -> None: ...

        remote = RemoteHandlers(train)
        async with train.connect("memory://far-turns", listeners=()) as c, c.running():
            app: Any = Gateway([c], remote=[remote])
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
                for number in (1, 2):
                    await c.publish_many(range(20))
                    async with asyncio.timeout(20):
                        while c.manifest.active is None or c.manifest.active.number == number:
                            await asyncio.sleep(0.02)
                await c.publish_many(range(5))
                wagons = list[int]()
                for _ in range(12):
                    [got] = (await client.post("/trains/shop/receive", json={"limit": 1, "wait": 5})).json()[
                        "deliveries"
                    ]
                    wagons.append(got["wagon"])
                    await client.post("/trains/shop/settle", json={"receipts": [{"receipt": got["receipt"]}]})
        assert wagons.count(3) == 5

    asyncio.run(main())


def test_handlers_of_batches_are_refused() -> None:
    train = Train("shop")

    @train.on("shop", batch=10)
    async def order(payloads: list[int]) -> None: ...

    with pytest.raises(UsageError, match="leave batch= out"):
        RemoteHandlers(train)


def test_the_document_has_the_routes_only_where_it_works() -> None:
    async def test(shop: Shop) -> None:
        paths = (await shop.client.get("/openapi.json")).json()["paths"]
        assert {f"/trains/{{train}}/{v}" for v in ("receive", "settle", "release", "extend", "reject", "fail")} < set(
            paths
        )
        bare: Any = Gateway([shop.c])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(bare), base_url="http://x") as client:
            assert "/trains/{train}/receive" not in (await client.get("/openapi.json")).json()["paths"]
            assert (await client.post("/trains/shop/receive", json={})).status_code == 404

    in_a_shop(test)
