"""What the dashboard shows of trains, and what its actions do to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest

from eventwagon import Connection, UsageError
from eventwagon.contracts.broker import Depth
from eventwagon.contracts.facts import Entry, Switched, SwitchRefused
from eventwagon.dashboard import Dashboard, app
from eventwagon.dashboard.dead import key_of
from eventwagon.dashboard.encoding import encode
from eventwagon.dashboard.paces import Paces
from eventwagon.dashboard.picture import refusal_after
from eventwagon.dashboard.shapes import TrainShape, Verdict, WagonShape, Waiting, Waits
from eventwagon.dashboard.verdict import verdict_of
from eventwagon.event import Channel, Event
from eventwagon.views.notes import conditions, later_note, losses
from eventwagon.views.train import View, WagonView, look
from tests.dashboards import OURS, TOKEN, CountedBroker, CountedRegistry, a_train, browser, done, logged_in

NOW = 1_750_000_000.0
_ELSEWHERE = {  # where the page finds what `status` calls otherwise
    "paused": "pause",
    "elastic_by_default": "workers_text",
    "later_next": "later",
    "unremoved": "notes",
    "stopped": "replays",  # and the verdict
    "removed": None,  # the past wagons of the stream
}


def test_everything_that_status_shows_is_there() -> None:
    for view, shape in ((View, TrainShape), (WagonView, WagonShape)):
        names = {_ELSEWHERE.get(name, name) for name in view.__struct_fields__} - {None}
        assert names <= set(shape.__struct_fields__), names - set(shape.__struct_fields__)


@asynccontextmanager
async def _at_work(**how: Any) -> AsyncIterator[tuple[Connection, httpx.AsyncClient]]:
    """A train at work, and somebody who has logged in."""
    broker, registry = CountedBroker(), CountedRegistry()
    async with AsyncExitStack() as stack:
        c = await stack.enter_async_context(a_train().connect(broker=broker, registry=registry, listeners=()))
        await stack.enter_async_context(c.running())
        client = await stack.enter_async_context(logged_in(app(c, token=TOKEN, every=0.2, **how)))
        yield c, client


async def _settled(c: Connection, count: int) -> None:
    async with asyncio.timeout(20):
        while sum(d[""].settled or 0 for d in (await c.depths()).values()) < count:
            await asyncio.sleep(0.02)


def test_its_figures_are_those_of_status() -> None:
    async def main() -> None:
        async with _at_work() as (c, client):
            await c.publish_many(range(50))
            await _settled(c, 50)
            await asyncio.sleep(0.3)
            shown = (await client.get("api/trains/orders")).json()
            view = await look(c, "memory")
            (w,) = shown["wagons"]
            (own,) = view.wagons
            for name in ("published", "settled", "waiting", "in_flight", "inside", "dead", "limit", "state", "reason"):
                assert w[name] == getattr(own, name), name
            assert shown["declared"] == view.declared
            notes = [*losses(view, view.wagons), *later_note(view), *conditions(view, view.wagons)]
            assert {note["text"] for note in shown["notes"]} == {note.text for note in notes}
            assert shown["verdict"]["level"] == "ok"
            assert w["fills"] == [{"limit": "Volume(1000)", "pressure": 0.05, "why": "50 of 1,000 events taken"}]
            (card,) = (await client.get("api/trains")).json()["trains"]
            changing = {"verdict", "arrivals", "settled"}
            for name in card.keys() - changing:
                assert card[name] == shown[name], name

    asyncio.run(main())


def test_a_wagons_figures_reconcile_and_the_journal_is_found() -> None:
    async def main() -> None:
        async with _at_work() as (c, client):
            await c.publish_many(range(30))
            await _settled(c, 30)
            first = await c.request_switch("a <b>new</b> release", by="anna")
            await c.wait_switched(first)
            await c.wait_drained(first)
            live = (await client.get("api/trains/orders/wagons/2")).json()
            assert live["live"]
            assert live["balance"]["ok"]
            assert [channel["name"] for channel in live["channels"]] == ["", "dead"]
            past = (await client.get("api/trains/orders/wagons/1")).json()
            assert (past["live"], past["past"]["published"], past["past"]["settled"]) == (False, 30, 30)
            assert past["balance"] == {
                "ok": True,
                "sentence": "30 published = 30 settled; nothing was left when it was removed",
            }
            assert {1} <= {n for row in past["journal"] for n in row["wagons"]}
            found = (await client.get("api/trains/orders/journal", params={"q": "ANNA release"})).json()["rows"]
            assert [(row["kind"], row["who"]) for row in found] == [("SwitchRequested", "anna")]
            assert "<b>new</b>" in found[0]["text"]
            newest = (await client.get("api/trains/orders/journal?limit=2")).json()
            assert (len(newest["rows"]), newest["more"]) == (2, True)
            older = (await client.get(f"api/trains/orders/journal?before={newest['rows'][0]['at']}")).json()
            assert older["rows"][-1]["at"] < newest["rows"][0]["at"]
            assert older["more"] is False
            about = (await client.get("api/trains/orders/journal?wagon=2")).json()["rows"]
            assert about
            assert all(2 in row["wagons"] for row in about)

    asyncio.run(main())


@pytest.mark.parametrize("payloads", [False, True])
def test_dead_letters_are_grouped_and_their_data_is_hidden_unless_allowed(payloads: bool) -> None:
    async def main() -> None:
        async with _at_work(payloads=payloads) as (c, client):
            await c.publish_many([-1, -2, -17, 5])
            await _settled(c, 4)
            answer = await client.get("api/trains/orders/dead")
            assert answer.headers["content-type"] == "application/json"
            found = answer.json()
            (group,) = found["groups"]
            assert (found["total"], found["complete"], group["count"]) == (3, True, 3)
            assert group["because"].startswith("ValueError: <script>alert(-#)</script> is below #")
            page = (await client.get(f"api/trains/orders/dead/{group['key']}?limit=2")).json()
            rest = (await client.get(f"api/trains/orders/dead/{group['key']}?limit=2&after=2")).json()
            letters = [*page["letters"], *rest["letters"]]
            assert (page["more"], rest["more"], len(letters)) == (True, False, 3)
            assert {each["hidden"] for each in letters} == {not payloads}
            assert sorted(each["data"] or 0 for each in letters) == ([-17, -2, -1] if payloads else [0, 0, 0])
            assert (await client.get("api/trains/orders/dead/nothing")).json() == {"letters": [], "more": False}

    asyncio.run(main())


def test_dead_letters_of_others_are_grouped_whatever_is_in_them() -> None:
    def letter(because: str) -> Event:
        return Event("1", "t", "/s", 0.0, b"\xff", extensions={"deadbecause": because, "deadwagon": "x"})

    same = [
        "no answer from 10.0.0.1:8080 for 01977430-2228-7b20-bee8-7270a75543ed",
        "no answer from 10.0.0.22:81 for 01977430-2228-7b20-bee8-7270a75543ee",
    ]
    assert len({key_of(letter(each))[0] for each in same}) == 1
    assert len({key_of(letter(each))[0] for each in ("a", "b", "", "\ud800", "x" * 10_000)}) == 5


def test_each_action_is_previewed_and_done() -> None:
    async def main() -> None:
        async with _at_work() as (c, client):
            await c.publish_many(range(10))
            await _settled(c, 10)

            async def act(verb: str, **asked: Any) -> dict[str, Any]:
                wagon = f"?wagon={asked['wagon']}" if "wagon" in asked else ""
                preview = (await client.get(f"api/trains/orders/actions/{verb}{wagon}")).json()
                assert preview["allowed"], preview
                assert preview["effects"]
                assert preview["counts"]["wagons"] >= 1
                answer = await client.post(f"api/trains/orders/actions/{verb}", json={"by": "anna", **asked})
                assert answer.status_code == 202, answer.text
                job = await done(client, answer.json()["job"]["id"])
                await c.refresh()
                await asyncio.sleep(0.3)  # the next reading
                return job

            job = await act("pause", reason="the <mail> server moves", publishing=True)
            assert job["state"] == "done", job
            paused = c.manifest.paused
            assert paused is not None
            assert (paused.why, paused.by, paused.publishing) == (
                "the <mail> server moves", "anna at the dashboard", True,
            )  # fmt: skip
            shown = (await client.get("api/trains/orders")).json()
            assert (shown["pause"]["by"], shown["verdict"]["word"]) == ("anna at the dashboard", "paused")
            again = (await client.get("api/trains/orders/actions/pause")).json()
            assert (again["allowed"], again["refused"]) == (False, "orders is paused already")
            assert (await act("resume"))["text"] == "orders is resumed"
            assert c.manifest.paused is None
            assert (await act("pause", wagon=1))["state"] == "done"
            assert c.manifest.wagons[0].paused is not None
            assert (await act("resume", wagon=1))["text"] == "orders_v1 is resumed"
            assert (await act("switch"))["text"] == "switched from orders_v1 to orders_v2"
            assert c.manifest.active is not None
            assert c.manifest.active.number == 2
            drained = await act("drain", reason="upgrade")
            assert drained["text"] == "every wagon up to orders_v2 is drained and removed"
            assert [w.number for w in c.manifest.wagons] == [3]
            rows = (await client.get("api/trains/orders/journal?q=anna")).json()["rows"]
            assert {"DeliveryPaused", "DeliveryResumed", "SwitchRequested"} <= {row["kind"] for row in rows}
            mistyped = await client.post("api/trains/orders/actions/pause", json={"wagn": 3})
            assert mistyped.status_code == 400
            assert c.manifest.paused is None, "it would be the whole train"
            gone = await client.post("api/trains/orders/actions/pause", json={"wagon": 77})
            failed = await done(client, gone.json()["job"]["id"])
            assert failed["state"] == "failed"
            assert "there is no wagon orders_v77" in failed["text"]

    asyncio.run(main())


async def _dead_of(c: Connection, client: httpx.AsyncClient, count: int) -> dict[str, str]:
    """The groups' keys, by reason, once there are so many letters."""
    async with asyncio.timeout(20):
        while len([e async for e in c.dead_letters()]) < count:
            await asyncio.sleep(0.05)
    found = (await client.get("api/trains/orders/dead")).json()
    return {group["because"]: group["key"] for group in found["groups"]}


def test_dead_letters_are_retried_and_dropped_as_they_were_counted() -> None:
    async def main() -> None:
        async with _at_work() as (c, client):
            await c.publish_many([-1, -2, -3, 5])
            (key,) = (await _dead_of(c, client, 3)).values()
            retry, drop = (f"api/trains/orders/dead/{key}/actions/{verb}" for verb in ("retry", "drop"))
            preview = (await client.get(retry)).json()
            assert (preview["allowed"], preview["counts"]) == (True, {"letters": 3})
            assert preview["effects"][0] == (
                "3 events will be published again, with the same ids, into the active wagon."
            )
            ids = {e.id async for e in c.dead_letters()}
            answer = await client.post(
                retry, json={"by": "anna", "reason": "prices are back", "digest": preview["digest"]}
            )
            assert answer.status_code == 202, answer.text
            job = await done(client, answer.json()["job"]["id"])
            assert (job["state"], job["text"], job["by"]) == (
                "done",
                "3 dead letters published again",
                "anna at the dashboard",
            )
            (key,) = (await _dead_of(c, client, 3)).values()  # they died again
            assert {e.id async for e in c.dead_letters()} == ids
            rows = (await client.get("api/trains/orders/journal?q=anna")).json()["rows"]
            assert {"DeadLettersRetried"} <= {row["kind"] for row in rows}

            before = (await client.get(drop)).json()
            assert before["warnings"] == ["They can't be got back."]
            await c.publish(-4)
            await _dead_of(c, client, 4)
            answer = await client.post(drop, json={"digest": before["digest"]})
            job = await done(client, answer.json()["job"]["id"])
            assert job["state"] == "failed"
            assert "have changed since they were counted: now there are 4. Nothing was done" in job["text"]
            assert len([e async for e in c.dead_letters()]) == 4
            now = (await client.get(drop)).json()
            answer = await client.post(drop, json={"digest": now["digest"]})
            job = await done(client, answer.json()["job"]["id"])
            assert (job["state"], job["text"]) == ("done", "4 dead letters deleted")
            assert [e async for e in c.dead_letters()] == []
            found = (await client.get("api/trains/orders/dead")).json()
            assert found["groups"] == [], "it is read again once the job is done"
            assert (await client.get(drop)).status_code == 404
            everything = (await client.get("api/trains/orders/dead/all/actions/drop")).json()
            assert (everything["allowed"], everything["refused"]) == (False, "there are none")

    asyncio.run(main())


def test_a_group_whose_reason_is_a_part_of_anothers_is_told_from_it() -> None:
    async def main() -> None:
        broker = CountedBroker()
        async with AsyncExitStack() as stack:
            c = await stack.enter_async_context(
                a_train().connect(broker=broker, registry=CountedRegistry(), listeners=())
            )
            await stack.enter_async_context(c.running())
            client = await stack.enter_async_context(logged_in(app(c, token=TOKEN, every=0.2)))
            await c.publish(1)
            await _settled(c, 1)
            reasons = ("17", "", "error 18", "error 19", "no answer")
            letters = [
                Event(f"id-{n}", "t", "/s", NOW, b"1", extensions={"deadbecause": why, "deadat": str(NOW + n)})
                for n, why in enumerate(reasons)
            ]
            await broker.publish(Channel("orders", 1, "dead"), letters)
            keys = await _dead_of(c, client, 5)
            assert set(keys) == {"#", "", "error #", "no answer"}
            for because, left in (("#", 4), ("", 3), ("error #", 1)):
                drop = f"api/trains/orders/dead/{keys[because]}/actions/drop"
                preview = (await client.get(drop)).json()
                assert preview["counts"] == {"letters": 2 if because == "error #" else 1}
                answer = await client.post(drop, json={"digest": preview["digest"]})
                job = await done(client, answer.json()["job"]["id"])
                assert job["state"] == "done", job
                assert len([e async for e in c.dead_letters()]) == left

    asyncio.run(main())


def test_bad_orders_about_dead_letters_are_refused() -> None:
    async def main() -> None:
        async with _at_work() as (c, client):
            await c.publish(-1)
            await _dead_of(c, client, 1)
            drop = "api/trains/orders/dead/all/actions/drop"
            bodies: list[Any] = [{}, {"digest": 3}, {"digest": "x", "all": True}, [], {"digest": None}]
            for body in bodies:
                assert (await client.post(drop, json=body)).status_code == 400, body
            for path in ("dead/all/actions/pause", "dead/zz/actions/drop", "actions/drop", "actions/retry"):
                answer = await client.post(f"api/trains/orders/{path}", json={"digest": "x"})
                assert answer.status_code == 404, path
            answer = await client.post(drop, json={"digest": "\u0000" * 10})
            assert (await done(client, answer.json()["job"]["id"]))["state"] == "failed"
            assert len([e async for e in c.dead_letters()]) == 1

    asyncio.run(main())


def test_jobs_are_bounded_in_number() -> None:
    async def main() -> None:
        registry = CountedRegistry()
        async with a_train().connect(broker=CountedBroker(), registry=registry, listeners=()) as c:
            async with logged_in(app(c, token=TOKEN, every=0.2)) as client:  # nobody observes: no switch is ever made
                await c.found()
                asked = [client.post("api/trains/orders/actions/switch", json={}) for _ in range(12)]
                answers = await asyncio.gather(*asked)  # all while the train is read for the first time
                assert sorted(answer.status_code for answer in answers) == [202] * 10 + [429] * 2
                pause = await client.post("api/trains/orders/actions/pause", json={})
                assert pause.status_code == 202  # others are not held up
                preview = (await client.get("api/trains/orders/actions/switch")).json()
                assert "No observer is alive" in preview["warnings"][0]
            assert not [task for task in asyncio.all_tasks() if "dashboard" in task.get_name()]  # they have an owner

    asyncio.run(main())


def test_who_waits_for_a_registry_that_hangs_gets_an_answer_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(CountedRegistry):
        async def entries(self, train: str, *, last: int | None = None) -> AsyncIterator[Entry]:
            if last is None:
                await asyncio.sleep(3600)
            async for entry in super().entries(train, last=last):
                yield entry

    class HangingBroker(CountedBroker):
        async def read(self, channel: Channel) -> AsyncIterator[Event]:
            await asyncio.sleep(3600)
            async for event in super().read(channel):
                yield event

    async def main() -> None:
        monkeypatch.setattr("eventwagon.dashboard.routes._PATIENCE", 0.3)
        monkeypatch.setattr("eventwagon.dashboard.dead._PATIENCE", 0.9)
        connecting = a_train().connect(broker=HangingBroker(), registry=Hanging(), listeners=())
        async with connecting as c, browser(app(c, every=0.2), **OURS) as client:
            await c.found()
            await client.get("api/trains/orders")
            for page in ("journal?q=x", "dead", "dead/abc"):
                began = time.monotonic()
                answers = await asyncio.gather(*(client.get(f"api/trains/orders/{page}") for _ in range(4)))
                assert [answer.status_code for answer in answers] == [503] * 4, page
                assert time.monotonic() - began < 1.8, page  # not one after the other

    asyncio.run(main())


def test_previews_speak_of_one_event_in_the_singular() -> None:
    async def main() -> None:
        connecting = a_train().connect(broker=CountedBroker(), registry=CountedRegistry(), listeners=())
        async with connecting as c, browser(app(c, every=0.2), **OURS) as client:
            await c.publish(1)
            said = {
                verb: " ".join((await client.get(f"api/trains/orders/actions/{verb}")).json()["effects"])
                for verb in ("switch", "pause", "resume", "drain")
            }
            assert "1 event waits in it" in said["switch"]
            assert "1 event waits until" in said["pause"]
            assert "1 event is handed out" in said["resume"]
            assert "1 event is still to be handled in 1 wagon" in said["drain"]

    asyncio.run(main())


def test_one_train_that_cannot_be_read_hides_no_other_and_comes_back() -> None:
    async def main() -> None:
        registry, broker = CountedRegistry(), CountedBroker()
        async with AsyncExitStack() as stack:
            trains = [
                await stack.enter_async_context(a_train(name).connect(broker=broker, registry=registry, listeners=()))
                for name in ("apples", "pears")
            ]
            for c in trains:
                await c.found()
            client = await stack.enter_async_context(browser(app(trains, every=0.1), **OURS))

            async def cards() -> dict[str, Any]:
                return {card["train"]: card for card in (await client.get("api/trains")).json()["trains"]}

            assert (await cards())["apples"]["trouble"] is None
            registry.failing.add("apples")
            await asyncio.sleep(0.3)
            broken = (await cards())["apples"]
            assert broken["verdict"]["word"] == "can't read"
            assert "the shelf of apples is out of reach" in broken["trouble"]["why"]
            assert broken["active"] == 1  # the last that is known
            assert (await cards())["pears"]["trouble"] is None
            assert (await client.get("api/trains/apples")).json()["trouble"]["since"] == broken["trouble"]["since"]
            registry.failing.clear()
            await asyncio.sleep(0.3)
            assert (await cards())["apples"]["trouble"] is None

    asyncio.run(main())


def test_a_driver_that_raises_anything_or_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventwagon.dashboard.watching._PATIENCE", 0.3)

    class Broken(CountedRegistry):
        raises: BaseException | None = None

        async def members(self, train: str) -> Any:
            if self.raises is not None:
                raise self.raises
            return await super().members(train)

    class Stuck(CountedRegistry):
        async def members(self, train: str) -> Any:
            await asyncio.sleep(3600)

    async def main() -> None:
        broken, broker = Broken(), CountedBroker()
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(
                a_train("apples").connect(broker=broker, registry=broken, listeners=())
            )
            second = await stack.enter_async_context(
                a_train("pears").connect(broker=broker, registry=Stuck(), listeners=())
            )
            await first.found()
            await second.found()
            client = await stack.enter_async_context(browser(app([first, second], every=0.1)))
            for error in (RuntimeError("nobody\nknows"), asyncio.CancelledError(), KeyError("x")):
                broken.raises = error
                await asyncio.sleep(0.15)
                found = {card["train"]: card for card in (await client.get("api/trains")).json()["trains"]}
                assert type(error).__name__ in found["apples"]["trouble"]["why"]
                assert found["pears"]["trouble"]["why"] == "no answer within 0.3 s"
            broken.raises = None
            await asyncio.sleep(0.6)
            found = {card["train"]: card for card in (await client.get("api/trains")).json()["trains"]}
            assert found["apples"]["trouble"] is None

    asyncio.run(main())


def test_a_url_that_cannot_be_read_says_so(tmp_path: Any) -> None:
    async def main() -> None:
        (tmp_path / "file").write_text("no folder")
        async with browser(app(f"sqlite:///{tmp_path}/file/deeper", every=0.1)) as client:
            found = (await client.get("api/trains")).json()
            assert found["trains"] == []
            assert found["trouble"]["why"]
            assert (await client.get("api/trains/orders")).status_code == 503

    asyncio.run(main())


def test_only_named_trains_are_shown() -> None:
    async def main() -> None:
        url = "memory://dashboard-names"
        async with AsyncExitStack() as stack:
            for name in ("apples", "pears"):
                await (await stack.enter_async_context(a_train(name).connect(url, listeners=()))).found()
            client = await stack.enter_async_context(browser(app(url, trains=["pears"])))
            assert [card["train"] for card in (await client.get("api/trains")).json()["trains"]] == ["pears"]
            assert (await client.get("api/trains/apples")).status_code == 404

    asyncio.run(main())


def test_a_backlog_in_inner_channels_is_a_backlog() -> None:
    def at(settled: int, inside: int) -> dict[int, dict[str, Depth]]:
        empty = Depth(published=10, settled=10, waiting=0, in_flight=0)
        inner = Depth(published=settled + inside, settled=settled, waiting=inside, in_flight=0, oldest_at=NOW - 70)
        return {1: {"": empty, "mail": inner, "dead": Depth(published=3, settled=0, waiting=3, in_flight=0)}}

    paces = Paces()
    assert paces.look(at(0, 50), 0.0) == {}
    assert paces.look(at(0, 50), 1.0) == {1: 0.0}
    assert paces.look(at(40, 10), 5.0) == {1: 8.0}
    for second in range(6, 40):
        paces.look(at(40, 10), second)
    assert paces.look(at(40, 10), 40.0) == {1: 0.0}
    assert paces.look({1: {"": Depth()}}, 41.0) == {}

    async def main() -> None:
        train = a_train(grace=0.1)

        @train.on("mail")
        async def mail(n: int) -> None:
            await asyncio.sleep(3600)

        broker, registry = CountedBroker(), CountedRegistry()
        async with train.connect(broker=broker, registry=registry, listeners=()) as c, c.running():
            await c.found()
            await broker.publish(Channel("orders", 1, "mail"), [Event("1", "t", "/s", time.time() - 60, b"1")])
            await c.wait_switched(await c.request_switch())
            async with browser(app(c, every=0.1)) as client:
                await client.get("api/trains/orders")
                await asyncio.sleep(0.3)
                shown = (await client.get("api/trains/orders")).json()
            assert (shown["inside"], shown["waits"]["backlog"]["expected"]) == (1, None)
            assert shown["waits"]["new"]["oldest"] == 0
            assert shown["wagons"][0]["drain_left"] is None
            assert shown["verdict"]["word"] != "idle"

    asyncio.run(main())


def test_no_text_can_turn_around_what_follows() -> None:
    shown = encode({"a": ["\u202egpj.exe", "line\nline", "naïve <b>"], "\u202e": float("nan")})
    assert shown == r'{"a":["\\u202egpj.exe","line\\nline","naïve <b>"],"\\u202e":null}'.encode()


def test_a_refusal_that_is_over_lasted_until_then() -> None:
    no = SwitchRefused(
        train="orders", number=1, pressure=1.0, figures="", because="the cap of 4 live wagons is reached"
    )
    yes = Switched(train="orders", old=1, new=2, pressure=1.0, because="full")
    refusal = None
    for at, fact in ((100.0, no), (190.0, yes), (200.0, yes)):
        refusal = refusal_after(refusal, Entry(at, "host-1", fact))
    assert refusal is not None
    assert (refusal.current, refusal.lasted) == (False, 90.0)


def test_two_connections_to_one_train_are_refused() -> None:
    c = a_train().connect("memory://dashboard-twice")
    with pytest.raises(UsageError, match="one connection for each train"):
        app([c, c])
    assert isinstance(app(c), Dashboard)


def _verdict(view: View, *, expected: float | None, promise: float | None = 2.0, waiting: int | None = 5) -> Verdict:
    notes = [*losses(view, view.wagons), *later_note(view), *conditions(view, view.wagons)]
    waits = Waits(Waiting(expected, 90.0))
    return verdict_of(view, waits, promise, notes, waiting=waiting, at_work=0, settled=1.0)


def test_the_worst_comes_first_in_the_verdict() -> None:
    async def main() -> View:
        async with a_train().connect("memory://dashboard-verdict", listeners=()) as c, c.running():
            await c.publish(1)
            await asyncio.sleep(0.3)
            return await look(c, "memory")

    view = asyncio.run(main())
    replace = msgspec.structs.replace
    active = view.wagons[0]
    assert _verdict(view, expected=0.5).word == "on time"
    assert _verdict(view, expected=0.5, promise=None).word == "working"
    assert _verdict(view, expected=0.0, waiting=0).level == "ok"
    assert _verdict(view, expected=3.0).word == "late"  # an event that is retried waits long, and breaks no promise
    assert _verdict(view, expected=None).word == "late"
    assert _verdict(view, expected=None).sentence.startswith("New events have waited 90 s so far; 2.0 s are promised.")
    late = replace(view, refusing="at the cap of 8 wagons")
    assert _verdict(late, expected=3.0).word == "refusing"
    lost = replace(late, wagons=[replace(active, lost=3)])
    assert _verdict(lost, expected=3.0).sentence.startswith("Events were lost: orders_v1 lost 3 events.")
    assert _verdict(replace(view, members=[]), expected=0.0).word == "unwatched"
    assert _verdict(replace(view, wagons=[]), expected=None).word == "starting"
    dying = replace(view, wagons=[replace(active, dead=70, settled=70)])
    assert _verdict(dying, expected=0.0, waiting=0).level == "warn"
    assert "70 events of the live wagons went to the dead letters" in _verdict(dying, expected=0.0, waiting=0).sentence
    assert _verdict(replace(view, wagons=[replace(active, dead=1, settled=70)]), expected=0.5).word == "on time"
    undo = "undo 6 of orders_v1: stopped at mail; 1 dead letter (prices): eventwagon undo orders --resume 6"
    assert _verdict(replace(view, replays=[undo]), expected=0.5).word == "on time"
    stopped = _verdict(replace(view, replays=[undo], stopped=[undo]), expected=0.5)
    assert (stopped.level, stopped.word) == ("warn", "attention")
    assert stopped.sentence.startswith("Undo 6 of orders_v1: stopped at mail")
    opened = _verdict(replace(view, open={"mail": ["20 of 20 failed"]}), expected=0.5)
    assert (opened.level, opened.word) == ("bad", "attention")
    assert "The circuit breaker of mail is open: 20 of 20 failed" in opened.sentence
