"""The two doors: any attribute of an event, and any payload, is refused with UsageError or comes back equal."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventwagon import Connection, Context, Event, Train
from eventwagon.drivers.aws import wire as sqs
from eventwagon.drivers.kafka import wire as kafka
from eventwagon.drivers.pulsar import wire as pulsar
from eventwagon.drivers.redis import entries as redis
from eventwagon.errors import EventTooLarge, UsageError
from eventwagon.event import JSON, Channel, checked
from eventwagon.payload import codec, encode, shape
from eventwagon.runtime.handler import Handler
from eventwagon.testing.virtual_time import run
from tests.fuzz import examples
from tests.support import World
from tests.unit import test_payloads as kinds

TEXT = st.text(st.characters(codec=None, categories=None), max_size=12) | st.sampled_from(
    ["", " ", "\ud800", "a\nb", "\0", "\x1b[31m", "\ufffe", "é" * 2000, "x" * 3000, "../x", "order.made", JSON, "😀"]
)
ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXT
    | st.binary(max_size=8)
    | st.just([])
    | st.just(object())
)
WORD = TEXT | st.text("abc", min_size=1, max_size=8) | ANYTHING
TIME = (
    st.floats() | st.integers() | st.floats(0, 2e9) | st.sampled_from([1.7e12, 1.7e9, -1e11, 253402300799.9, True, "1"])
)
NAME = st.text("abc012", min_size=1, max_size=8) | TEXT | st.sampled_from(["id", "data", "traceparent", "deadbecause"])
EXTENSIONS = st.dictionaries(NAME, TEXT | ANYTHING, max_size=3) | ANYTHING | st.just({})
FINE = st.text("abz019 .:/é😀", min_size=1, max_size=8).filter(lambda text: not text.isspace())
GOOD = st.builds(
    Event,
    id=FINE,
    type=FINE,
    source=FINE,
    time=st.floats(-6.2e10, 2.5e11),
    data=st.binary(max_size=40),
    subject=st.none() | FINE,
    content_type=st.just(JSON) | FINE,
    extensions=st.dictionaries(st.text("abc012", min_size=1, max_size=8), st.just("") | FINE, max_size=3),
)
ODD = st.builds(
    Event,
    id=WORD,
    type=WORD,
    source=WORD,
    time=TIME,
    data=st.binary(max_size=40) | ANYTHING,
    subject=st.none() | WORD,
    content_type=st.just(JSON) | WORD,
    extensions=EXTENSIONS,
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "id": WORD,
        "type": WORD,
        "source": WORD,
        "time": TIME,
        "data": ANYTHING,
        "subject": WORD,
        "content_type": WORD,
        "extensions": EXTENSIONS,
    },
)
ALMOST = st.builds(lambda event, changes: msgspec.structs.replace(event, **changes), GOOD, CHANGES)


@asynccontextmanager
async def worlds(train: Train) -> AsyncIterator[list[Connection]]:
    with tempfile.TemporaryDirectory() as directory:
        async with (
            World().connect(train) as memory,
            train.connect(f"sqlite:///{directory}?sync=normal", listeners=()) as sqlite,
        ):
            yield [memory, sqlite]


async def stored(connection: Connection) -> list[Event]:
    return [event async for event in connection.broker.read(Channel("t", 1))]


@given(GOOD)
def test_what_cloudevents_allows_is_taken_as_it_is(event: Event) -> None:
    assert checked(event, 262_144) == event


@examples(25)
@given(st.lists(GOOD | ODD | ALMOST, min_size=1, max_size=20))
def test_an_event_of_the_users_is_refused_or_stored_as_it_is(events: list[Event]) -> None:
    async def main() -> None:
        async with worlds(Train("t")) as connections:
            for connection in connections:
                await connection.found()
                accepted = []
                for event in events:
                    try:
                        await connection.publish(event)
                    except (UsageError, EventTooLarge):
                        continue
                    accepted.append(event)
                assert await stored(connection) == accepted
            first, second = [await stored(connection) for connection in connections]
            assert first == second

    asyncio.run(main())


@examples(25)
@given(
    st.lists(
        st.fixed_dictionaries({}, optional={"id": WORD, "event_type": WORD, "subject": WORD}), min_size=1, max_size=20
    )
)
def test_what_publish_is_given_is_refused_or_stored(options: list[dict[str, Any]]) -> None:
    async def main() -> None:
        async with worlds(Train("t")) as connections:
            for connection in connections:
                await connection.found()
                accepted = []
                for option in options:
                    try:
                        name = await connection.publish(1, **option)
                    except UsageError:
                        continue
                    assert option.get("id") in (name, None)
                    accepted.append((name, option.get("event_type") or "int", option.get("subject"), b"1"))
                assert [(e.id, e.type, e.subject, e.data) for e in await stored(connection)] == accepted

    asyncio.run(main())


def _by_sqs(event: Event) -> Event:
    return sqs.event_from(sqs.letter(event, "t_v1").body.encode(), message="m", sent=0.0)


def _by_pulsar(event: Event) -> Event:
    return pulsar.event_from(pulsar.properties(event), event.data, position="p", published=0.0)


def _by_redis(event: Event) -> Event:
    _, fields, data = redis.pack([event], 1)
    assert isinstance(fields, bytes)
    assert isinstance(data, bytes)
    (texts,) = msgspec.msgpack.decode(fields)
    return redis.unpack("t_v1", [(b"0-1", [*(text.encode() for text in texts), b"data", data])])[0]


def _by_kafka(event: Event, *, structured: bool = False) -> Event:
    _, value, headers = kafka.encode(event, structured=structured)
    got = kafka.decode(_KafkaMessage(value, [(k, v.encode() if isinstance(v, str) else v) for k, v in headers]))  # type: ignore[arg-type]
    assert got is not None
    return got


class _KafkaMessage(NamedTuple):
    """The parts of it that an event of ours needs."""

    data: bytes
    written: list[tuple[str, bytes | None]]

    def value(self) -> bytes:
        return self.data

    def headers(self) -> list[tuple[str, bytes | None]]:
        return self.written

    def topic(self) -> str:
        return "t_v1"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return 7

    def timestamp(self) -> tuple[int, int]:
        return 1, 0


def _by_structured_kafka(event: Event) -> Event:
    return _by_kafka(event, structured=True)


@pytest.mark.parametrize("through", [_by_sqs, _by_pulsar, _by_redis, _by_kafka, _by_structured_kafka])
@examples(300)
@given(event=GOOD | ALMOST | ODD)
def test_what_the_door_lets_in_every_brokers_wire_can_hold(through: Callable[[Event], Event], event: Event) -> None:
    try:
        event = checked(event, 262_144)
    except (UsageError, EventTooLarge):
        return
    got = through(event)
    assert abs(got.time - event.time) < 1e-4  # they write microseconds
    assert msgspec.structs.replace(got, time=event.time) == event


def _inner(n: int) -> None: ...


@examples(60)
@given(
    parent=GOOD,
    emits=st.lists(
        st.fixed_dictionaries(
            {"payload": st.just(1) | ALMOST}, optional={"event_type": WORD, "subject": WORD, "extensions": EXTENSIONS}
        ),
        max_size=5,
    ),
)
def test_what_is_emitted_is_refused_or_stored(parent: Event, emits: list[dict[str, Any]]) -> None:
    async def main() -> None:
        handlers = {"inner": Handler("inner", _inner, shape(_inner))}
        context = Context(parent, 1, "t", 1, "", handlers, 262_144, lambda: 5.0)
        for emit in emits:
            before = list(context.emitted)
            try:
                context.emit("inner", **emit)
            except (UsageError, EventTooLarge):
                assert context.emitted == before
                continue
            payload, event = emit["payload"], context.emitted[-1][1]
            if isinstance(payload, Event):
                assert event == payload
            else:
                assert event.extensions == {**parent.extensions, **(emit.get("extensions") or {})}
                assert event.subject == (parent.subject if emit.get("subject") is None else emit["subject"])
        async with World().connect(Train("t")) as connection:
            await connection.found()
            sent = [event for _, event in context.emitted]
            await connection.broker.publish(Channel("t", 1), sent)
            assert await stored(connection) == sent

    run(main())


@attrs.define
class Node:
    _name: str
    _of: list[Node] = attrs.Factory(list)


class Model(pydantic.BaseModel):
    at: datetime | None = None
    value: float = 0.0
    number: int = pydantic.Field(default=0, alias="theNumber")
    parts: dict[str, "Model"] = {}  # noqa: UP037 - Pydantic resolves it


JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.integers(), inner, max_size=3) | st.tuples(inner)
    ),
    max_leaves=8,
)
MODEL = st.recursive(
    st.builds(
        Model,
        at=st.none() | st.datetimes() | st.datetimes(timezones=st.just(UTC)),
        value=st.floats(),
        theNumber=st.integers(),
    ),
    lambda inner: st.builds(Model, parts=st.dictionaries(TEXT, inner, max_size=2)),
    max_leaves=4,
)
NODE = st.recursive(
    st.builds(Node, TEXT), lambda inner: st.builds(Node, TEXT, st.lists(inner, max_size=2)), max_leaves=5
)
PAYLOADS: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers() | ANYTHING,
    float: st.floats() | ANYTHING,
    str: TEXT,
    bytes: st.binary(),
    bytes | str: st.binary() | TEXT,
    bytearray | None: st.binary().map(bytearray) | st.none(),
    list: st.lists(JSON_VALUE, max_size=3),
    dict: st.dictionaries(TEXT, JSON_VALUE, max_size=3),
    dict[int, str]: st.dictionaries(st.integers(), TEXT, max_size=3),
    dict[str, float]: st.dictionaries(TEXT, st.floats(), max_size=3),
    tuple[int, str]: st.tuples(st.integers(), TEXT),
    set[int]: st.sets(st.integers(), max_size=3),
    frozenset[str]: st.frozensets(TEXT, max_size=3),
    datetime: st.datetimes() | st.datetimes(timezones=st.timezones()),
    date: st.dates(),
    time: st.times(),
    timedelta: st.timedeltas(),
    Decimal: st.decimals(),
    UUID: st.uuids(),
    kinds.Colour: st.sampled_from(kinds.Colour),
    kinds.Data: st.builds(kinds.Data, st.integers() | TEXT, TEXT | st.none()) | st.builds(kinds.Wider, st.integers()),
    kinds.Loose: st.builds(kinds.Loose, JSON_VALUE),
    kinds.Reading: st.builds(kinds.Reading, st.floats()),
    kinds.Cat | kinds.Dog: st.builds(kinds.Cat, st.integers()) | st.builds(kinds.Dog, st.integers()),
    kinds.Left | kinds.Right: st.builds(kinds.Left, st.integers())
    | st.builds(kinds.Right, st.integers(), st.integers()),
    kinds.Sparse: st.builds(kinds.Sparse, TEXT, st.none() | st.datetimes()),
    kinds.Pet: st.builds(kinds.ModelCat, n=st.integers()) | st.builds(kinds.ModelDog, n=st.integers()),
    kinds.OfModels: st.builds(kinds.OfModels, st.builds(kinds.User, userId=st.integers()), st.just([])),
    Model: MODEL,
    list[Model]: st.lists(MODEL, max_size=2),
    Model | bytes: MODEL | st.binary(),
    Node: NODE,
    dict[str, Node]: st.dictionaries(TEXT, NODE, max_size=2),
}


@examples(1500)
@given(st.sampled_from(list(PAYLOADS)).flatmap(lambda annotation: st.tuples(st.just(annotation), PAYLOADS[annotation])))
def test_a_payload_comes_back_equal_or_is_refused(given: tuple[Any, Any]) -> None:
    annotation, payload = given
    both = codec(annotation)
    try:
        data, content_type = both.encode(payload)
    except UsageError:
        return
    got = both.decode(Event("1", "t", "/s", 0.0, data, None, content_type))
    assert got == payload
    if type(payload) not in (bytes, bytearray, int):
        assert type(got) is type(payload)


@examples(500)
@given(JSON_VALUE)
def test_plain_json_of_a_publisher_that_knows_no_handler_holds_every_value(payload: object) -> None:
    try:
        data, _ = encode(payload)
    except UsageError:
        return
    assert msgspec.json.decode(data) == _as_json(payload)


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _as_json(item) for key, item in value.items()}
    return [_as_json(item) for item in value] if isinstance(value, list | tuple) else value
