"""What becomes of a record, whatever is in it."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventwagon.bridge import Record, Rules, Unmapped, event_of
from eventwagon.bridge.mapping import RESERVED, From
from eventwagon.errors import UsageError
from eventwagon.event import Event, checked

MOST = 262_144
RULES = Rules(source="kafka://h/orders", most=MOST)


def record(value: bytes = b'{"id": 7}', **more: Any) -> Record:
    return Record(**{"position": "kafka/orders/0/7@1", "value": value, "time": 1_700_000_000.5, **more})


def event(value: bytes = b'{"id": 7}', rules: Rules = RULES, **more: Any) -> Event:
    found = event_of(record(value, **more), rules)
    assert isinstance(found, Event), found
    return found


def refused(value: bytes = b'{"id": 7}', rules: Rules = RULES, **more: Any) -> Unmapped:
    found = event_of(record(value, **more), rules)
    assert isinstance(found, Unmapped), found
    return found


def rules(**more: str) -> Rules:
    return Rules.parse("kafka://h/orders", MOST, **more)


def test_a_plain_record_is_known_by_its_position() -> None:
    assert event(key=b"ada") == Event(
        "kafka/orders/0/7@1", "unknown", "kafka://h/orders", 1_700_000_000.5, b'{"id": 7}', "ada"
    )


@pytest.mark.parametrize("mark", ["ce_", "ce-", "CE_", "Ce-"])
def test_a_cloud_event_in_headers_keeps_its_attributes(mark: str) -> None:
    headers = [
        (f"{mark}specversion", b"1.0"),
        (f"{mark}id", b"a"),
        (f"{mark}source", b"/shop"),
        (f"{mark}type", b"placed"),
        (f"{mark}time", b"2023-11-14T22:13:20Z"),
        (f"{mark}subject", b"ada"),
        (f"{mark}tenant", b"7"),
        ("content-type", b"text/plain"),
    ]
    assert event(b"hello", headers=headers) == Event(
        "a", "placed", "/shop", 1_700_000_000.0, b"hello", "ada", "text/plain", {"tenant": "7"}
    )


@pytest.mark.parametrize("headers", [(), [("content-type", b"application/cloudevents+json; charset=utf-8")]])
def test_a_cloud_event_as_body_is_read(headers: Any) -> None:
    body = {"specversion": "1.0", "id": "a", "source": "/shop", "type": "placed", "data": {"id": 7}}
    found = event(json.dumps(body).encode(), headers=headers)
    assert (found.id, found.type, found.source, found.data) == ("a", "placed", "/shop", b'{"id": 7}')


def test_headers_become_attributes_and_nothing_is_lost_of_those_that_can_not() -> None:
    headers = [
        ("X-Tenant-Id", b"7"),
        ("traceparent", b"00-1-2-01"),
        ("x_tenant_id", b"8"),  # the same name again
        ("Id", b"no id"),
        ("deadbecause", b"mine"),
        ("binary", b"\xff"),
        ("äö", b"no letter"),
        ("empty", None),
    ]
    found = event(headers=headers).extensions
    rest = json.loads(found["rawheaders"])
    assert {name: value for name, value in found.items() if name != "rawheaders"} == {
        "xtenantid": "7",
        "traceparent": "00-1-2-01",
        "empty": "",
    }
    assert rest == [
        ["x_tenant_id", "8"],
        ["Id", "no id"],
        ["deadbecause", "mine"],
        ["binary", {"base64": "/w=="}],
        ["äö", "no letter"],
    ]


@pytest.mark.parametrize("name", sorted(RESERVED - {"undecodable"}))
def test_no_writer_sets_what_has_a_meaning_in_a_train(name: str) -> None:
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"a"),
        ("ce_type", b"t"),
        ("ce_source", b"/s"),
        (f"ce_{name}", b"x"),
    ]
    assert name not in event(headers=headers).extensions
    body = {"specversion": "1.0", "id": "a", "source": "/s", "type": "t", "data": 1, name: "x"}
    assert name not in event(json.dumps(body).encode()).extensions


def test_the_key_is_kept_whatever_the_subject_is() -> None:
    assert event(key=b"ada", headers=[("ce_subject", b"bob")]).extensions == {"partitionkey": "ada"}
    found = event(key=b"\x00\x01")
    assert found.subject is None
    assert found.extensions == {"rawkey": "AAE="}
    assert event(key=b"").subject is None


def test_headers_that_are_called_like_what_the_bridge_keeps_hide_nothing() -> None:
    found = event(key=b"\x00\x01", headers=[("RawKey", b"theirs"), ("rawheaders2", b"theirs, too")])
    assert found.extensions["rawkey"] == "AAE="
    assert json.loads(found.extensions["rawheaders"]) == [["RawKey", "theirs"], ["rawheaders2", "theirs, too"]]
    found = event(key=b"ada", headers=[("ce_subject", b"bob"), ("partitionkey", b"theirs")])
    assert found.extensions == {"partitionkey": "theirs", "rawkey": b64encode(b"ada").decode()}


@pytest.mark.parametrize(
    ("where", "subject"),
    [
        ("key", "ada"),
        ("header:X-Customer", "bob"),
        ("body:customer", "eve"),
        ("body:number", "1e3"),
        ("body:flag", "true"),
    ],
)
def test_the_subject_comes_from_where_it_is_wanted(where: str, subject: str) -> None:
    body = b'{"customer": "eve", "number": 1e3, "flag": true}'
    found = event(body, rules(key=where, kind=where), key=b"ada", headers=[("x-customer", b"bob")])
    assert (found.subject, found.type) == (subject, subject)


@pytest.mark.parametrize("where", ["key", "header:x", "body:x", "body:list", "body:none", "body:empty"])
def test_what_is_wanted_and_not_there_is_refused(where: str) -> None:
    body = b'{"list": [1], "none": null, "empty": ""}'
    found = refused(body, rules(key=where))
    assert found.letter.data == body
    assert found.letter.id == found.letter.extensions["undecodable"] == "kafka/orders/0/7@1"
    assert found.because


def test_the_body_is_that_of_the_event() -> None:
    body = b'{"specversion": "1.0", "id": "a", "source": "/s", "type": "t", "data": {"customer": "eve"}}'
    assert event(body, rules(key="body:customer")).subject == "eve"


def test_a_type_may_be_given() -> None:
    assert event(rules=rules(kind="order.placed")).type == "order.placed"


@pytest.mark.parametrize("text", ["header:", "body:", "nothing", "header", "Key"])
def test_an_unknown_place_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--key"):
        From.parse(text, "--key")


def test_an_event_for_an_inner_channel_says_so() -> None:
    assert event(rules=rules(channel="ship")).extensions == {"laterchannel": "ship"}
    with pytest.raises(UsageError):
        rules(channel="No Channel")


def test_a_record_that_is_too_large_is_refused_with_its_bytes() -> None:
    found = refused(b"x" * (MOST + 1))
    assert "max_event_bytes" in found.because
    assert len(found.letter.data) == MOST + 1


@pytest.mark.parametrize(
    "headers",
    [
        [("ce_specversion", b"2.0"), ("ce_id", b"a"), ("ce_type", b"t"), ("ce_source", b"/s")],
        [("ce_id", b"\xff")],
        [("ce_id", b"a\x00b")],
        [("ce_id", b"x" * 3000)],
        [("content-type", b"application/cloudevents+json")],
        [("content-type", b"application/cloudevents+avro")],
    ],
)
def test_a_broken_cloud_event_is_refused_with_its_headers(headers: Any) -> None:
    found = refused(b"[1", headers=[*headers, ("x", b"1")], key=b"ada")
    assert found.letter.data == b"[1"
    kept = json.loads(found.letter.extensions["rawheaders"])
    assert kept[0][0] == headers[0][0]
    assert kept[-1] == ["key", "ada"]


def test_what_the_source_refuses_is_refused() -> None:
    assert refused(trouble="it is no JSON").because == "it is no JSON"


HOSTILE = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"[" * 100_000,
            b'{"a":' * 5000,
            b"\xed\xa0\x80",
            b'"\\ud800"',
            b'{"specversion": "1.0", "specversion": 1, "id": {}, "data": NaN}',
            b'{"specversion":"1.0","id":"","source":" ","type":"\\u0000","time":"9999-99-99"}',
            b'{"specversion":"1.0","data":1,"data_base64":"AA=="}',
            b'{"n": 1e999999, "x": -0.0, "customer": "\\u202e[/bold]"}',
            b"",
        ]
    ),
)
NAMES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["ce_id", "ce-time", "CE_TYPE", "content-type", "ce_subject", "x", "X" * 90, "ce_undecodable", "key", "\x00"]
    ),
)


@given(
    value=HOSTILE,
    headers=st.lists(st.tuples(NAMES, st.one_of(st.none(), HOSTILE)), max_size=8),
    key=st.one_of(st.none(), HOSTILE),
    at=st.one_of(st.floats(), st.sampled_from([0.0, -1.0, 1e18, float("nan"), float("-inf")])),
    key_from=st.sampled_from(["", "key", "header:x", "body:customer", "body:n"]),
)
def test_any_record_becomes_an_event_or_a_letter_and_always_the_same(
    value: bytes, headers: Any, key: bytes | None, at: float, key_from: str
) -> None:
    one = record(value, headers=headers, key=key, time=at)
    found = event_of(one, rules(key=key_from))
    assert msgspec.json.encode(found) == msgspec.json.encode(event_of(one, rules(key=key_from)))
    if isinstance(found, Unmapped):
        assert found.letter.data == value
        assert found.letter.extensions["undecodable"] == one.position
        assert found.because
        assert math.isfinite(found.letter.time)
    else:
        assert checked(found, MOST) == found
        assert not RESERVED & found.extensions.keys() - {"rawheaders"}


@pytest.mark.parametrize(
    "form",
    [
        "application/cloudevents+json",
        b"application/cloudevents+json; charset=utf-8",
        " Application/CloudEvents-Batch+JSON",
        "application/cloudevents+avro",
        "application/json",
    ],
)
def test_a_tombstone_is_an_event_without_data_whatever_its_content_type(form: str | bytes) -> None:
    found = event(b"", key=b"ada", headers=[("Content-Type", form)])
    assert found == event(b"", key=b"ada")
    assert (found.data, found.subject, found.id) == (b"", "ada", "kafka/orders/0/7@1")
    own = [("ce_specversion", b"1.0"), ("ce_id", b"a"), ("ce_source", b"/shop"), ("ce_type", b"deleted")]
    found = event(b"", key=b"ada", headers=[("Content-Type", form), *own])
    assert (found.id, found.type, found.data, found.content_type) == ("a", "deleted", b"", "application/json")


def test_a_document_that_is_none_is_no_tombstone() -> None:
    assert "JSON" in refused(b" ", headers=[("content-type", "application/cloudevents+json")]).because
