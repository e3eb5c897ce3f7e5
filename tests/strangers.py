"""Messages of others, in every broker alike: good and bad ones beside ours, and the official CloudEvents package."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any, NamedTuple

from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings import kafka as binding
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from eventwagon import Context, Reject, Train, Volume, Workers
from eventwagon.cloudevents import BATCH, STRUCTURED
from eventwagon.contracts.broker import Broker
from eventwagon.event import DEAD, Channel, Event
from tests.support import until


class Written(NamedTuple):
    """A message of somebody else's: its attributes under their plain names, and what it holds."""

    attributes: dict[str, bytes]
    data: bytes


Write = Callable[[Channel, Sequence[Written]], Awaitable[None]]

GOOD = {"specversion": b"1.0", "source": b"/shop", "type": b"Order"}
BATCHED: list[Any] = [
    {"specversion": "1.0", "id": "batched 1", "source": "/shop", "type": "Order", "data": True},
    {"specversion": "1.0", "id": "a\0b", "source": "/shop", "type": "Order", "data": 1},
    {"id": "batched 2", "data": {"n": 1}},
    5,
]
DEEP = b'{"specversion":"1.0","x":' + b"[" * 100_000

STRUCTURED_ONES = [
    Written(
        {"datacontenttype": STRUCTURED.encode()},
        b'{"specversion":"1.0","id":"structured","source":"/shop","type":"Order","urgent":true,"data":true}',
    ),
    Written({"datacontenttype": STRUCTURED.encode()}, DEEP),
    Written({"datacontenttype": BATCH.encode()}, json.dumps(BATCHED).encode()),
    Written({"datacontenttype": BATCH.encode()}, b'{"no": "array"}'),
]
BINARY_ONES = [
    Written(
        {**GOOD, "id": b"at the edge", "time": b"0001-01-01T00:00:00.000000Z", "datacontenttype": b"application/json"},
        b"1",
    ),
    Written({**GOOD, "id": b"binary"}, b"1"),
    Written({"id": b"only an id"}, b"1"),
    Written({**GOOD, "id": b"control", "subject": b"a\nb"}, b"\xff\x00"),
    Written({**GOOD, "id": b"old", "specversion": b"0.3"}, b"old"),
    Written({**GOOD, "id": b"many", **{f"x{n}": b"v" for n in range(5000)}}, b"many"),
]
LATIN_1 = Written(
    {
        **GOOD,
        "id": b"latin",
        "source": b"Z\xfcrich",
        "time": b"2026-01-31T23:59:59.000001Z",
        "datacontenttype": b"application/json",
    },
    b"latin",
)


async def beside_ours(
    name: str, url: str, write: Write, written: Sequence[Written], dead: Sequence[Written] = ()
) -> None:
    """What can be read is handled once, with ours; what can't be stands in the dead letters with its bytes, outlives
    its wagon, and hurts nobody; so does what they wrote among the `dead` letters."""
    seen: Counter[str] = Counter()
    events: dict[str, Event] = {}
    train = Train(name, limit=Volume(1000), workers=Workers(total=2), observe_every=0.2, keep_drained=1.0)

    @train.on(name)
    async def handle(event: Event, ctx: Context) -> None:
        seen[event.id] += 1
        events[event.id] = event

    good, bad = _expected(written)
    async with train.connect(url, listeners=()) as connection:
        await connection.found()
        ours = [await connection.publish({"n": 1}, event_type="Order", subject="k")]
        await write(Channel(name, 1), written)
        await write(Channel(name, 1, DEAD), dead)
        ours.append(await connection.publish(True))
        async with connection.running():
            async with asyncio.timeout(60):
                await until(lambda: len(seen) == 2 + len(good))
                while len(letters := [e async for e in connection.dead_letters()]) < len(bad) + len(dead):
                    await asyncio.sleep(0.05)
            assert Counter(letter.data for letter in letters) == Counter([*bad, *(one.data for one in dead)])
            assert all(e.extensions["deadbecause"].startswith("can't be decoded: ") for e in letters)
            assert all(e.extensions["undecodable"] for e in letters)
            assert sum(e.extensions.get("deadwagon") == "1" for e in letters) == len(bad)
            await connection.request_switch()
            async with asyncio.timeout(90):
                await until(lambda: connection.manifest.wagon(1) is None)
            after = {letter.id: letter.data async for letter in connection.dead_letters()}
            assert after == {letter.id: letter.data for letter in letters}
        for channel in await connection.broker.channels(name):
            await connection.broker.delete(channel)
    assert set(seen.values()) == {1}
    assert seen.keys() == {*ours, *good}
    for each in good:
        assert events[each].type == "unknown" if each in ("only an id", "batched 2") else "Order"
        assert events[each].source == "unknown" if each in ("only an id", "batched 2") else "/shop"
    if "structured" in good:
        assert (events["structured"].data, events["structured"].extensions) == (b"true", {"urgent": "true"})
        assert events["batched 1"].data == b"true"


def hurt_nobody(url: str, write: Write, *, latin_1: bool = True) -> None:
    """All of them at once. `latin_1`: its client can write what is no UTF-8."""
    more = [LATIN_1] if latin_1 else []
    written, dead = [*more, *BINARY_ONES, *STRUCTURED_ONES], [*more, BINARY_ONES[3], STRUCTURED_ONES[1]]
    asyncio.run(beside_ours(f"t{token_hex(5)}", url, write, written, dead))


def _batched(name: str, *payloads: object) -> bytes:
    return json.dumps(
        [
            {"specversion": "1.0", "id": f"{name} {n}", "source": "/shop", "type": "Order", "data": payload}
            for n, payload in enumerate(payloads)
        ]
    ).encode()


async def batches_beside_ours(name: str, url: str, write: Write, **settings: Any) -> None:
    """Messages that hold several events, in the ingress and in an inner channel: each event is handled, one that is
    rejected dies alone, a message with one that always fails dies whole after its last attempt, and ours are handled
    once."""
    seen: Counter[str] = Counter()
    inner: Counter[str] = Counter()
    defaults: dict[str, Any] = {"observe_every": 0.2, "keep_drained": 1.0, **settings}
    train = Train(name, limit=Volume(1000), workers=Workers(total=3), attempts=3, backoff=0.2, **defaults)

    @train.on(name)
    async def handle(payload: Any, ctx: Context) -> None:
        seen[ctx.event.id] += 1
        if payload == "once" and seen[ctx.event.id] == 1:
            raise ValueError("the first time")
        if payload == "reject":
            raise Reject("no")
        if payload == "never":
            raise ValueError("never")
        if payload == "on":
            await ctx.emit("inner", payload)

    @train.on("inner")
    async def keep(payload: Any, ctx: Context) -> None:
        inner[ctx.event.id] += 1

    def of_batch(data: bytes, kind: str = BATCH) -> Written:
        return Written({"datacontenttype": kind.encode()}, data)

    never, many = _batched("never", "fine", "never"), _batched("many", *range(300))
    written = [
        of_batch(_batched("once", True, "once", None, "on")),
        of_batch(_batched("reject", 1, "reject", 3, "on"), f"{BATCH}; charset=UTF-8"),
        of_batch(never, BATCH.upper()),
        of_batch(many),
        of_batch(b"[]"),
        of_batch(b"[[]]"),
        of_batch(b'[{"specversion":"1.0","id":"deep","source":"/s","type":"t","data":' + b"[" * 50_000),
    ]
    expected = {f"once {n}" for n in range(4)} | {f"reject {n}" for n in range(4)} | {f"many {n}" for n in range(300)}
    expected |= {"never 0", "never 1"}
    async with train.connect(url, listeners=()) as connection:
        await connection.found()
        ours = [await connection.publish("ours")]
        await write(Channel(name, 1), written)
        await write(Channel(name, 1, "inner"), [of_batch(_batched("inside", 1, 2))])
        ours.append(await connection.publish("ours"))
        async with connection.running():
            async with asyncio.timeout(90):
                await until(lambda: seen.keys() >= expected | {*ours}, seconds=90)
                await until(lambda: len(inner) == 4, seconds=90)
                while len(letters := [e async for e in connection.dead_letters()]) < 4:
                    await asyncio.sleep(0.1)
            await connection.request_switch()
            async with asyncio.timeout(90):
                await until(lambda: connection.manifest.wagon(1) is None, seconds=90)
            letters = [letter async for letter in connection.dead_letters()]
        for channel in await connection.broker.channels(name):
            await connection.broker.delete(channel)
    assert Counter(letter.data for letter in letters) == Counter([b'"reject"', never, b"[]", written[-1].data])
    assert {letter.extensions["deadattempts"] for letter in letters if letter.data == never} == {"3"}
    assert seen.keys() == expected | {*ours}
    assert [seen[each] for each in ours] == [1, 1]
    assert (seen["once 1"], seen["never 1"]) == (2, 3)
    assert all(seen[f"many {n}"] == 1 for n in range(300))
    assert inner.keys() >= {"inside 0", "inside 1"}


def batches_hurt_nobody(url: str, write: Write, **settings: Any) -> None:
    """On a real server."""
    asyncio.run(batches_beside_ours(f"t{token_hex(5)}", url, write, **settings))


def _expected(written: Sequence[Written]) -> tuple[set[str], list[bytes]]:
    """The ids that can be read, and the data of the others."""
    good, bad = set[str](), list[bytes]()
    for attributes, data in written:
        kind, name = attributes.get("datacontenttype", b"").decode(), attributes.get("id", b"").decode()
        if kind == BATCH and data.startswith(b"["):
            good |= {"batched 1", "batched 2"}
            bad += [json.dumps(BATCHED[1]).encode(), b"5"]
        elif kind == STRUCTURED and data != DEEP:
            good.add("structured")
        elif name in ("at the edge", "binary", "only an id"):
            good.add(name)
        else:
            bad.append(data)
    return good, bad


# --- the official package -------------------------------------------------------------------


def theirs() -> list[BaseCloudEvent]:
    """Events as its users make them."""
    when = datetime(2026, 1, 31, 23, 59, 59, 500_000, UTC)
    return [
        CloudEvent(
            {
                "id": "sdk 1",
                "source": "/shop",
                "type": "Order",
                "time": when,
                "specversion": "1.0",
                "subject": "k",
                "datacontenttype": "application/json",
                "tenant": "Zürich",
            },
            {"n": 1, "ok": True},
        ),
        CloudEvent(
            {
                "id": "sdk 2",
                "source": "/shop",
                "type": "Order",
                "time": when,
                "specversion": "1.0",
                "datacontenttype": "text/plain",
            },
            "grüezi",
        ),
    ]


def by_package(*, structured: bool) -> list[Written]:
    """Their messages."""
    convert = binding.to_structured if structured else binding.to_binary
    found = []
    for event in theirs():
        message = convert(event, JSONFormat())
        names = {name.removeprefix("ce_"): value for name, value in message.headers.items()}
        names["datacontenttype"] = names.pop("content-type")
        found.append(Written(names, message.value))
    return found


def read_by_package(attributes: dict[str, bytes], data: bytes) -> BaseCloudEvent:
    """A message of ours in binary mode, as the package reads it."""
    headers = {
        "content-type" if name == "datacontenttype" else f"ce_{name}": value for name, value in attributes.items()
    }
    return binding.from_binary(binding.KafkaMessage(headers, None, data), JSONFormat())


OURS = Event(
    "ours",
    "Order",
    "/shop",
    1_769_903_999.5,
    b'{"n": 1, "ok": true}',
    "k",
    "application/json",
    {"tenant": "Z\u00fcrich"},
)


def same_to_package(read: BaseCloudEvent) -> None:
    """It is OURS."""
    assert (read.get_id(), read.get_type(), read.get_source(), read.get_subject()) == ("ours", "Order", "/shop", "k")
    assert read.get_time() == datetime(2026, 1, 31, 23, 59, 59, 500_000, UTC)
    assert read.get_data() == {"n": 1, "ok": True}
    assert read.get_extension("tenant") == "Zürich"


def same_to_us(events: Sequence[Event]) -> None:
    """They are `theirs`."""
    assert [e.id for e in events] == ["sdk 1", "sdk 2"]
    assert {(e.type, e.source, e.time) for e in events} == {("Order", "/shop", 1_769_903_999.5)}
    assert [e.subject for e in events] == ["k", None]
    assert json.loads(events[0].data) == {"n": 1, "ok": True}
    assert (events[0].content_type, dict(events[0].extensions)) == ("application/json", {"tenant": "Zürich"})
    assert (events[1].content_type, events[1].data, events[1].extensions) == ("text/plain", "grüezi".encode(), {})


Read = Callable[[Channel], Awaitable[tuple[dict[str, bytes], bytes]]]
"""The first message of a channel, read with a plain client: its attributes under their plain names, and its data."""


def both_ways(made: Callable[[], Broker], read: Read, write: Write) -> None:
    """The official package reads what we write, and we read what it writes."""

    @asynccontextmanager
    async def holding(*events: Event) -> AsyncIterator[tuple[Broker, Channel]]:
        channel = Channel(f"t{token_hex(5)}", 1)
        async with made() as broker:
            await broker.create(channel)
            if events:
                await broker.publish(channel, events)
            yield broker, channel
            await broker.delete(channel)

    async def main() -> None:
        async with holding(OURS) as (_, channel):
            same_to_package(read_by_package(*await read(channel)))
        for structured in (False, True):
            async with holding() as (broker, channel):
                await write(channel, by_package(structured=structured))
                same_to_us([event async for event in broker.read(channel)])

    asyncio.run(main())
