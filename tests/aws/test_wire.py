"""Events as messages, names of queues, URLs: no server needed."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventwagon.drivers.aws.place import Place, parse
from eventwagon.drivers.aws.queues import batches
from eventwagon.drivers.aws.wire import INLINE, MOST_BYTES, REFERENCE, event_from, key_of, letter, reference_from
from eventwagon.errors import EventTooLarge, UsageError
from eventwagon.event import DEAD, JSON, Channel, Event, legible

_ALLOWED = re.compile("[\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")  # what SQS takes


def back(event: Event) -> Event:
    return event_from(letter(event, "c").body.encode(), message="m", sent=1.0)


@given(st.text(), st.binary() | st.text().map(str.encode) | st.text().map(lambda t: json.dumps(t).encode()))
def test_any_text_and_any_bytes_come_back_in_characters_that_sqs_takes(text: str, data: bytes) -> None:
    event = Event("id" + text, "t" + text, "s", 1.5, data, "s" + text, JSON, {"a1": text})
    if legible(text) == text:
        assert back(event) == event
    assert _ALLOWED.fullmatch(letter(event, "c").body)


def test_json_data_stand_in_the_body_as_json() -> None:
    body = json.loads(letter(Event("1", "t", "s", 0.0, b'{"a": [1, 2]}'), "c").body)
    assert body["data"] == {"a": [1, 2]}
    assert body["specversion"] == "1.0"
    assert "data_base64" not in body
    assert "data_base64" in json.loads(letter(Event("1", "t", "s", 0.0, b'{"a": '), "c").body)


def test_data_that_were_written_loosely_keep_every_byte() -> None:
    for data in (b'{"a":  1}', b' {"a": 1}', b"1 ", b'"\\u0000"', b"[1,\n2]", b"1e400", b"NaN", b""):
        assert back(Event("1", "t", "s", 0.0, data)).data == data


def test_what_others_sent_is_taken() -> None:
    plain = event_from(b"hello", message="m-1", sent=5.0, kind=None)
    assert (plain.id, plain.type, plain.data, plain.time) == ("m-1", "unknown", b"hello", 5.0)
    body = b'{"specversion": "1.0", "id": "7", "type": "T", "source": "/x", "n": 3}'
    bare = event_from(body, message="m", sent=5.0, kind=None)
    assert (bare.id, bare.type, bare.source, bare.data, bare.extensions) == ("7", "T", "/x", b"", {"n": "3"})
    assert event_from(b'{"a": 1}', message="m", sent=0.0, kind=None).data == b'{"a": 1}'


def test_a_large_event_is_named_in_its_message_and_a_larger_one_refused() -> None:
    small, large = (letter(Event("1", "t", "s", 0.0, b"x" * size), "c") for size in (100, INLINE))
    assert small.message[0] == small.body
    body, kind = large.message
    assert kind == REFERENCE
    assert reference_from(body) == large.key == key_of(Event("1", "t", "s", 0.0, b""))
    for odd in ('{"key":""}', '{"key":"' + "é" * 600 + '"}', '{"key":5}', "{}", "[" * 100_000, '{"key":"\\ud800"}'):
        assert reference_from(odd) is None
    with pytest.raises(
        EventTooLarge, match=r"event 1 for c is \d+ bytes as JSON; a row of the table takes up to 390000"
    ):
        letter(Event("1", "t", "s", 0.0, b"x" * MOST_BYTES), "c")


def test_a_key_is_of_id_and_source_and_fits() -> None:
    def key(name: str, source: str) -> str:
        return key_of(Event(name, "t", source, 0.0, b""))

    assert key("1", "a") != key("1", "b")
    assert key("1", "a") == key("1", "a")
    long = {key("ü" * 1000 + end, "s") for end in "ab"}
    assert len(long) == 2
    assert all(len(each.encode()) <= 1024 for each in long)


def test_a_call_holds_ten_messages_and_less_than_sqs_takes() -> None:
    sizes = [1, 60_000, 65_000, 65_000, 65_000, 65_000, *[1] * 25]
    parts = list(batches({"MessageBody": "x" * size} for size in sizes))
    assert [len(entry["MessageBody"]) for part in parts for entry in part] == sizes
    assert all(len(part) <= 10 and sum(len(e["MessageBody"]) + 128 for e in part) <= 262_144 for part in parts)


def test_queues_have_names_of_their_own_that_sqs_takes() -> None:
    place = Place(prefix="p" * 16)
    trains = ["a", "a-b", "a_v1-x", "a-dead", "t" * 48]
    names = ["", DEAD, "x", "x-dead", "n" * 48, "n" * 47 + "m"]
    channels = [Channel(t, n, c) for t, n, c in itertools.product(trains, (0, 1, 11, 123_456), names) if n or c]
    queues = [place.queue(channel) for channel in channels]
    assert len(set(queues)) == len(channels)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,80}", queue) for queue in queues)
    assert Place().queue(Channel("signups", 7)) == "eventwagon-signups_v7"


def test_a_url_says_where() -> None:
    place = parse("sqs://eu-west-1/acme?table=trains&endpoint=http://127.0.0.1:5000&poll=0.5&resend=60")
    assert place == Place(
        region="eu-west-1",
        prefix="acme",
        endpoint="http://127.0.0.1:5000",
        table="trains",
        poll=0.5,
        resend=60.0,
    )
    assert parse("sqs://") == Place()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqs://eu-west-1/acme?shards=3", "unknown option shards; sqs knows endpoint, table, poll, resend"),
        ("sqs://key:secret@eu-west-1/acme", "no keys in the URL"),
        ("sqs://localhost/acme", "'localhost' is no region"),
        ("sqs://eu-west-1/Acme", "prefix 'Acme'"),
        ("sqs://eu-west-1/acme?endpoint=localhost:5000", "give a URL"),
        ("sqs://eu-west-1/acme?table=x", "table='x'"),
        ("sqs://eu-west-1/acme?poll=0", "poll='0'"),
    ],
)
def test_a_wrong_url_is_told(url: str, says: str) -> None:
    with pytest.raises(UsageError) as told:
        parse(url)
    assert says in str(told.value)
    assert "secret" not in str(told.value)
