"""Whatever a message holds, on every broker, it becomes an event that can be written again. Examples once broke a
driver."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventwagon.cloudevents import BATCH, STRUCTURED, UNDECODABLE, parts, rfc3339
from eventwagon.drivers.aws import wire as sqs
from eventwagon.drivers.aws.subscription import QueueMessage
from eventwagon.drivers.kafka import wire as kafka
from eventwagon.drivers.pulsar import wire as pulsar
from eventwagon.drivers.redis import entries as redis
from eventwagon.event import Event, checked
from tests.fuzz import examples

# --- what travels ---------------------------------------------------------------------------


class KafkaMessage(NamedTuple):
    """As the client gives it."""

    given: Any
    data: bytes | None
    at: tuple[int, int] = (1, 5000)

    def headers(self) -> Any:
        if isinstance(self.given, Exception):
            raise self.given
        return self.given

    def value(self) -> bytes | None:
        return self.data

    def timestamp(self) -> tuple[int, int]:
        return self.at

    def topic(self) -> str:
        return "c_v1"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return 7


class PulsarMessage(NamedTuple):
    """As the client gives it."""

    given: Any
    payload: bytes

    def properties(self) -> Any:
        if isinstance(self.given, Exception):
            raise self.given
        return self.given

    def data(self) -> bytes:
        return self.payload

    def publish_timestamp(self) -> int:
        return 5000

    def message_id(self) -> PulsarMessage:
        return self

    def ledger_id(self) -> int:
        return 3

    def entry_id(self) -> int:
        return 7

    def batch_index(self) -> int:
        return -1


def by_redis(fields: list[tuple[bytes, bytes]], place: bytes = b"5000-0") -> Event:
    return redis.unpack("c_v1", [(place, [text for pair in fields for text in pair])])[0]


def by_kafka(headers: Any, data: bytes | None) -> Event:
    event = kafka.decode(KafkaMessage(headers, data))  # type: ignore[arg-type]
    assert event is not None
    return event


def by_pulsar(properties: Any, data: bytes) -> Event:
    return pulsar.event_of(PulsarMessage(properties, data), "c_v1")


def by_sqs(body: str, kind: str | None) -> Event:
    said = {} if kind is None else {"contentType": {"StringValue": kind}}
    event = QueueMessage({"MessageId": "m-1", "ReceiptHandle": "r", "Body": body, "MessageAttributes": said}).event
    return Event("m-1", "row", "row", 0.0, b"") if event is None else event


def _redis_again(event: Event) -> Event:
    _, fields, data = redis.pack([event], 1)
    assert isinstance(fields, bytes)
    assert isinstance(data, bytes)
    (texts,) = msgspec.msgpack.decode(fields)
    names = [text.encode() for text in texts]
    return by_redis([*zip(names[::2], names[1::2], strict=True), (b"data", data)])


def _kafka_again(event: Event) -> Event:
    binary, structured = (
        by_kafka([(k, v.encode() if isinstance(v, str) else v) for k, v in headers], value)
        for _, value, headers in (kafka.encode(event), kafka.encode(event, structured=True))
    )
    assert binary == structured
    return binary


def _pulsar_again(event: Event) -> Event:
    return by_pulsar(pulsar.properties(event), event.data)


def _sqs_again(event: Event) -> Event:
    return by_sqs(sqs.letter(event, "c").body, sqs.CONTENT_TYPE)


AGAIN = (_redis_again, _kafka_again, _pulsar_again, _sqs_again)


def sound(event: Event, again: Callable[[Event], Event]) -> Event:
    """It passes the door as it is, and comes back from its broker as it was written; so do its parts."""
    assert checked(event, sys.maxsize) == event
    back = again(event)
    assert abs(back.time - event.time) < 1e-4
    assert msgspec.structs.replace(back, time=event.time) == event
    if event.content_type.startswith(BATCH):
        for part in parts(event):
            assert not part.content_type.startswith(BATCH) or part.id
            if not part.content_type.startswith(BATCH):
                sound(part, again)
    return event


# --- what strangers write -------------------------------------------------------------------

ATTRIBUTES = (
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "subject",
    "datacontenttype",
    "dataschema",
    "data",
    "data_base64",
    "tenant",
    "traceparent",
    "undecodable",
    "deadbecause",
    "Bad-Name",
    "x_y",
    "",
)
TIMES = (
    "0001-01-01T00:00:00+14:00",
    "0001-01-01T00:00:00Z",
    "0001-01-01T23:59:59.999999Z",
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59-14:00",
    "9999-12-30T00:00:00.000000Z",
    "2026-06-30T23:59:60Z",
    "20260101",
    "2026-01-01t00:00:00z",
    "yesterday",
    "2026-01-01T00:00:00.0000²0Z",
    "1767319445",
)
WORDS = (
    "",
    " ",
    "1.0",
    "0.3",
    "1",
    "a",
    "é",
    "\x00",
    "a\nb",
    "\x7f",
    "\ufffe",
    "x" * 3000,
    "application/json",
    "text/plain",
    STRUCTURED,
    STRUCTURED + "; charset=utf-8",
    BATCH,
    "application/cloudevents+avro",
    "APPLICATION/JSON",
    sqs.CONTENT_TYPE,
    sqs.REFERENCE,
)
TEXT = st.sampled_from(TIMES + WORDS) | st.text(max_size=8)
BYTES = TEXT.map(lambda text: text.encode(errors="surrogatepass")) | st.binary(max_size=8)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(ATTRIBUTES), inner, max_size=4),
    max_leaves=8,
)
DOCUMENT = st.dictionaries(st.sampled_from(ATTRIBUTES) | st.text(max_size=3), JSONS, max_size=8)
PAYLOAD = (
    st.binary(max_size=12)
    | (JSONS | DOCUMENT | st.lists(DOCUMENT | JSONS, max_size=3)).map(lambda value: json.dumps(value).encode())
    | st.sampled_from(
        [b"[" * 3000, b'{"specversion":"1.0","x":' + b"[" * 3000, b'{"a":' * 3000, b'{"id":"\\ud800"}', b'{"data":tru']
    )
)
PREFIXED = st.tuples(st.sampled_from(["ce_", "ce-", "Ce-", "CE_"]), st.sampled_from(ATTRIBUTES)).map("".join)
HEADER = (
    PREFIXED | st.just("content-type") | st.sampled_from(["Content-Type", "foo", "ce_", "ce"]) | st.text(max_size=6)
)
FEW = examples(400)

OURS = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"1"),
    ("ce_source", b"/s"),
    ("ce_type", b"t"),
    ("ce_time", b"2026-01-31T23:59:59.000001Z"),
    ("content-type", b"application/json"),
]


def ours(**changes: bytes | None) -> list[tuple[str, bytes | None]]:
    return [(name, changes.get(name.removeprefix("ce_").replace("-", "_"), value)) for name, value in OURS]


def fields(**changes: bytes) -> list[tuple[bytes, bytes]]:
    """As we write them to Redis."""
    names = ("specversion", "id", "source", "type", "time")
    given = {name: value for (_, value), name in zip(OURS, names, strict=False)} | changes
    return [*((n.encode(), given[n]) for n in names), (b"datacontenttype", b"application/json"), (b"data", b"1")]


@FEW
@given(
    st.lists(st.tuples(st.sampled_from(ATTRIBUTES).map(str.encode) | BYTES, BYTES | PAYLOAD), max_size=9),
    st.just(b"5-1"),
)
@example(fields(source=b"Z\xfcrich"), b"5-1")
@example(fields(id=b""), b"5-1")
@example(fields(specversion=b"0.3"), b"5-1")
@example(fields(time=b"0001-01-01T00:00:00.000000Z"), b"5-1")
@example(fields(time=b"9999-12-31T23:59:59.999999Z"), b"5-1")
@example(fields(type=b"a\0b"), b"5-1")
@example([(b"user_id", b"5"), (b"\xff", b"\xff")], b"5-1")
@example([], b"18446744073709551615-18446744073709551615")
@example([(b"datacontenttype", STRUCTURED.encode()), (b"data", b"[" * 100_000)], b"5-1")
@example([(b"x" * 9000, b"\xff" * 9000)], b"5-1")
def test_any_entry_of_redis(entry: list[tuple[bytes, bytes]], place: bytes) -> None:
    event = sound(by_redis(entry, place), _redis_again)
    assert by_redis(entry, place) == event
    if event.extensions.get(UNDECODABLE) == "c_v1/5-1":
        assert event.data == dict(reversed(entry)).get(b"data", b"")
    about = [place, dict(reversed(entry)).get(b"time", b"")]
    redis.event_time(about)


@FEW
@given(st.lists(st.tuples(HEADER, BYTES | st.none()), max_size=9), PAYLOAD | st.none())
@example(ours(id=None), b"1")
@example(ours(source=None, type=None, time=None, content_type=None), b"1")
@example(ours(id=b"\xff"), b"1")
@example(ours(time=b"0001-01-01T00:00:00+14:00"), b"1")
@example(ours(content_type=STRUCTURED.encode()), b"no json")
@example(
    [("content-type", STRUCTURED.encode())],
    b'{"specversion":"1.0","id":"1","source":"/s","type":"t","urgent":true,"data":true}',
)
@example([("content-type", BATCH.encode())], b'[{"id":"1"},{"id":"\\u0000"},3,{"data":null}]')
def test_any_record_of_kafka(headers: list[tuple[str, bytes | None]], data: bytes | None) -> None:
    event = sound(by_kafka(headers, data), _kafka_again)
    assert by_kafka(headers, data) == event
    if event.extensions.get(UNDECODABLE) == "c_v1/0/7":
        assert event.data == (data or b"")


@pytest.mark.parametrize("at", [(0, -1), (1, -1), (1, 2**63 - 1), (1, -(2**63)), (2, 0)])
def test_any_time_of_a_record(at: tuple[int, int]) -> None:
    event = kafka.decode(KafkaMessage(None, b"1", at))  # type: ignore[arg-type]
    assert event is not None
    sound(event, _kafka_again)


@FEW
@given(st.dictionaries(HEADER, TEXT, max_size=9), PAYLOAD)
@example({"ce-id": "1", "ce-source": "\x00"}, b"1")
@example({"ce_time": "0001-01-01T00:00:00+14:00"}, b"1")
@example({"content-type": BATCH}, b"{}")
def test_any_message_of_pulsar(properties: dict[str, str], data: bytes) -> None:
    event = sound(by_pulsar(properties, data), _pulsar_again)
    if event.extensions.get(UNDECODABLE) == "c_v1/3:7:-1":
        assert event.data == data


@pytest.mark.parametrize("error", [UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), SystemError(), ValueError("x")])
def test_headers_that_the_client_itself_can_not_read(error: Exception) -> None:
    for event in (by_kafka(error, b"\xff"), by_pulsar(error, b"\xff")):
        assert event.data == b"\xff"
        assert event.extensions["deadbecause"].startswith("can't be decoded: ")
        sound(event, _kafka_again)


@FEW
@given(PAYLOAD.map(lambda data: data.decode(errors="surrogateescape")) | TEXT, st.sampled_from(WORDS) | st.none())
@example('{"specversion":"1.0","x":' + "[" * 100_000, None)
@example('{"specversion":"1.0","x":' + "[" * 100_000, sqs.CONTENT_TYPE)
@example("[" * 100_000, sqs.REFERENCE)
@example('{"key":""}', sqs.REFERENCE)
@example('{"key":"' + "é" * 600 + '"}', sqs.REFERENCE)
@example('{"specversion":"1.0","data_base64":5}', None)
@example("\ud800", None)
def test_any_message_of_sqs(body: str, kind: str | None) -> None:
    event = sound(by_sqs(body, kind), _sqs_again)
    if event.extensions.get(UNDECODABLE) == "m-1":
        assert event.data == body.encode(errors="surrogatepass")


@FEW
@given(PAYLOAD)
@example(b"[" * 100_000)
@example(b"{}")
def test_any_batch(data: bytes) -> None:
    batch = Event("b", "t", "s", 5.0, data, None, BATCH)
    found = list(parts(batch))
    assert list(parts(batch)) == found
    for again in AGAIN:
        for event in found:
            sound(event, again)


@pytest.mark.parametrize("attribute", ["id", "type", "source", "time", "contenttype"])
@pytest.mark.parametrize("driver", ["redis", "kafka", "kafka, structured", "pulsar"])
def test_nothing_is_kept_of_huge_attributes(driver: str, attribute: str) -> None:
    """Types, sources and times that recur are kept: not those of a stranger, who sends another megabyte each time."""

    def read(number: int) -> None:
        plain = {"id": "1", "source": "/s", "type": "t", "time": rfc3339(5.0), "contenttype": "text/plain"}
        said = {**plain, attribute: f"{number}" + "x" * 500_000}
        content = said.pop("contenttype")
        named = {"specversion": "1.0", **said}
        if driver == "redis":
            by_redis([(name.encode(), text.encode()) for name, text in {**named, "datacontenttype": content}.items()])
        elif driver == "kafka":
            headers = [(f"ce_{name}", text.encode()) for name, text in named.items()]
            by_kafka([*headers, ("content-type", content.encode())], b"1")
        elif driver == "pulsar":
            by_pulsar({**{f"ce_{name}": text for name, text in named.items()}, "content-type": content}, b"1")
        else:
            document = {**named, "datacontenttype": content, "data": 1}
            by_kafka([("content-type", STRUCTURED.encode())], msgspec.json.encode(document))

    read(0)
    tracemalloc.start()
    try:
        for number in range(1, 21):
            read(number)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "application/json"])
@pytest.mark.parametrize("more", [{}, {"subject": "s"}])
def test_a_structured_event_s_data_depend_on_its_content_type_alone(kind: str, more: dict[str, str]) -> None:
    """The CloudEvents JSON format, 3.1.1: data that are no JSON are a JSON string."""
    text = 'hello "you"'
    document = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "time": rfc3339(5.0)}
    document |= {"datacontenttype": kind, "data": text, **more}
    event = by_kafka([("content-type", STRUCTURED.encode())], msgspec.json.encode(document))
    assert event.data == (msgspec.json.encode(text) if kind == "application/json" else text.encode())


@pytest.mark.parametrize("content", [STRUCTURED, f" {STRUCTURED}", f"{STRUCTURED}; charset=utf-8"])
def test_headers_that_repeat_a_structured_event(content: str) -> None:
    """It is read from the document."""
    said = {"id": "1", "source": "/s", "type": "t", "time": rfc3339(5.0)}
    document = msgspec.json.encode({"specversion": "1.0", **said, "data": 5})
    headers = [(f"ce_{name}", text.encode()) for name, text in {"specversion": "1.0", **said}.items()]
    assert by_kafka([*headers, ("content-type", content.encode())], document).data == b"5"
