"""What the gateway reads of a request: a table of good and bad ones. The binding of CloudEvents to HTTP, 1.0.2."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventwagon.cloudevents import BATCH, STRUCTURED
from eventwagon.event import Event
from eventwagon.gateway.intake import events_of
from eventwagon.gateway.refusal import Refused

NOW = 1_800_000_000.0
GOOD: dict[str, Any] = {"specversion": "1.0", "id": "a1", "source": "/shop", "type": "ordered"}
HEADERS = {"ce-specversion": "1.0", "ce-id": "a1", "ce-source": "/shop", "ce-type": "ordered"}


def read(headers: dict[str, str] | list[tuple[bytes, bytes]], body: bytes, *, most: int = 100_000) -> list[Event]:
    pairs = [(k.encode(), v.encode("latin-1")) for k, v in headers.items()] if isinstance(headers, dict) else headers
    return events_of(pairs, body, now=NOW, most=most, most_events=3)


def structured(document: object, **how: Any) -> list[Event]:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return read({"content-type": STRUCTURED}, body, **how)


def batch(*documents: object) -> list[Event]:
    return read({"content-type": f"{BATCH}; charset=utf-8"}, json.dumps(documents).encode())


def test_structured() -> None:
    (event,) = structured(GOOD | {"time": "2027-01-15T08:00:00Z", "subject": "k", "tenant": "x", "data": {"n": 1}})
    assert event == Event("a1", "ordered", "/shop", NOW, b'{"n": 1}', "k", "application/json", {"tenant": "x"})


def test_structured_with_bytes() -> None:
    (event,) = structured(GOOD | {"data_base64": "AAEC"})
    assert (event.data, event.content_type, event.time) == (b"\x00\x01\x02", "application/octet-stream", NOW)


def test_binary() -> None:
    headers = HEADERS | {"ce-time": "2027-01-15T08:00:00Z", "content-type": "image/png", "ce-tenant": "x", "host": "h"}
    (event,) = read(headers, b"\x89PNG")
    assert event == Event("a1", "ordered", "/shop", NOW, b"\x89PNG", None, "image/png", {"tenant": "x"})


def test_binary_values_are_percent_encoded() -> None:
    (event,) = read(HEADERS | {"ce-subject": "Euro%20%E2%82%AC", "ce-type": '"a \\"b\\""'}, b"")
    assert (event.subject, event.type) == ("Euro €", 'a "b"')


def test_a_batch_and_an_empty_one() -> None:
    assert [e.id for e in batch(GOOD, GOOD | {"id": "a2"})] == ["a1", "a2"]
    assert batch() == []


@pytest.mark.parametrize("name", ["id", "source", "type", "specversion"])
def test_what_is_missing_is_named(name: str) -> None:
    less = {k: v for k, v in GOOD.items() if k != name}
    refusals: list[Callable[[], object]] = [
        lambda: structured(less),
        lambda: structured(GOOD | {name: None}),
        lambda: read({f"ce-{k}": v for k, v in less.items()}, b""),
        lambda: batch(less),
    ]
    for refuse in refusals:
        with pytest.raises(Refused, match=f"{name}: missing") as refused:
            refuse()
        assert refused.value.status == 400
    with pytest.raises(Refused, match=r"event 2 of 2: .*missing"):
        batch(GOOD, less)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[]", "JSON of another form than is due: Expected `object`, got `array`"),
        (b"\xff\xfe", "no JSON"),
        (b'{"id":"\xff"}', "id: it is no UTF-8"),
        (b"[" * 100_000, "(nested too deeply|no JSON|JSON of another form)"),
        (
            b'{"specversion":"1.0","id":"a","source":"s","type":"t","data":' + b"[" * 100_000,
            "nested too deeply|no JSON",
        ),
        (b'{"specversion":"1.0","id":"\\ud800","source":"s","type":"t"}', "no Unicode text: it has half"),
        (b'{"specversion":"1.0","id":"\\udc00","source":"s","type":"t"}', "no Unicode text: it has half"),
        (b'{"specversion":"1.0","id":"\\\\ud800', "no JSON: Input data was truncated"),
        (GOOD | {"id": ""}, "id: it is empty"),
        (GOOD | {"id": " "}, "id: it is empty"),
        (GOOD | {"id": 7}, "id: it must be text"),
        (GOOD | {"id": "a\x00b"}, r"id .*U\+0000"),
        (GOOD | {"id": "x" * 3000}, "id has 3,000 bytes"),
        (GOOD | {"specversion": "0.3"}, "specversion: it is 0.3; give 1.0"),
        (GOOD | {"specversion": 1.0}, "specversion: it must be text"),
        (GOOD | {"subject": 5}, "subject: it must be text"),
        (GOOD | {"datacontenttype": 5}, "datacontenttype: it must be text"),
        (GOOD | {"time": "yesterday"}, "time: yesterday is no time"),
        (GOOD | {"time": 1800000000}, "time: it must be text"),
        (GOOD | {"data": 1, "data_base64": "AA=="}, "both data and data_base64"),
        (GOOD | {"data_base64": "%"}, "base64"),
        (GOOD | {"Tenant": "x"}, "extension attribute's name"),
        (GOOD | {"tenant": {"a": 1}}, "tenant is neither text"),
        (GOOD | {"chainlevel": "1/2"}, "chainlevel: this attribute is eventwagon's own"),
        (GOOD | {"undo": "x/1"}, "undo: this attribute is eventwagon's own"),
        (GOOD | {"deadbecause": "x"}, "deadbecause: this attribute is eventwagon's own"),
        (GOOD | {"rawheaders2": "x"}, "rawheaders2: this attribute is eventwagon's own"),
        (GOOD | {"laterchannel": "x"}, "laterchannel: this attribute is eventwagon's own"),
        (GOOD | {"undecodable": "x"}, "undecodable: this attribute is eventwagon's own"),
    ],
)
def test_bad_documents(document: object, why: str) -> None:
    with pytest.raises(Refused, match=why) as refused:
        structured(document)
    assert refused.value.status == 400
    assert len(refused.value.why) < 500
    assert refused.value.why.isprintable()


@pytest.mark.parametrize(
    ("headers", "body", "status", "why"),
    [
        ({}, b"{}", 415, "this is no CloudEvent"),
        ({"content-type": "application/json"}, b"{}", 415, "this is no CloudEvent"),
        ({"content-type": "application/cloudevents+xml"}, b"<a/>", 415, r"application/cloudevents\+xml"),
        (HEADERS | {"content-type": "application/json"}, b"{", 400, "data: the body is no JSON"),
        (HEADERS | {"content-type": "application/json"}, b"[" * 100_000, 400, "data: the body is"),
        (HEADERS, b"plain", 400, "its content-type says JSON"),
        (HEADERS | {"ce-datacontenttype": "a/b"}, b"", 400, "datacontenttype: in this form"),
        (HEADERS | {"ce-subject": "%FF"}, b"", 400, "subject: .*percent-encoded"),
        (HEADERS | {"ce-time": "0000-00-00"}, b"", 400, "time: "),
        (HEADERS | {"ce-undoof": "x"}, b"", 400, "undoof: this attribute is eventwagon's own"),
    ],
)
def test_bad_requests(headers: dict[str, str], body: bytes, status: int, why: str) -> None:
    with pytest.raises(Refused, match=why) as refused:
        read(headers, body)
    assert refused.value.status == status


def test_a_header_that_is_there_twice() -> None:
    pairs = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
    for name in (b"ce-id", b"content-type"):
        with pytest.raises(Refused, match="is there twice"):
            read([*pairs, (b"content-type", b"text/plain"), (name, b"x")], b"")


def test_too_much() -> None:
    with pytest.raises(Refused, match="max_event_bytes=100") as refused:
        structured(GOOD | {"data": "x" * 200}, most=100)
    assert refused.value.status == 413
    with pytest.raises(Refused, match="the batch has 4 events; 3 are taken at once") as refused:
        batch(*[GOOD] * 4)
    assert refused.value.status == 413


@given(
    st.dictionaries(
        st.sampled_from([*GOOD, "time", "subject", "data", "data_base64", "x", "datacontenttype"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text(), max_size=2),
    ),
    st.booleans(),
)
def test_a_document_is_an_event_or_refused(document: dict[str, Any], base: bool) -> None:
    with suppress(Refused):
        (event,) = structured((GOOD if base else {}) | document)
        assert event.id == (GOOD | document)["id"]


@given(
    st.dictionaries(st.sampled_from([*HEADERS, "content-type", "ce-time", "ce-x"]), st.binary(max_size=30)), st.binary()
)
def test_a_request_is_an_event_or_refused(headers: dict[str, bytes], body: bytes) -> None:
    with suppress(Refused):
        (event,) = read([(k.encode(), v) for k, v in headers.items()], body)
        assert {"ce-id", "ce-source", "ce-type", "ce-specversion"} <= headers.keys() or event.content_type != "x"
