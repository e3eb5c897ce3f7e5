"""What the codec makes of messages, one by one."""

from __future__ import annotations

import sys

import pytest

from eventwagon.cloudevents import (
    BATCH,
    STRUCTURED,
    Pairs,
    is_batch,
    parts,
    read,
    rfc3339,
    seconds,
    undecodable,
)
from eventwagon.event import BINARY, EARLIEST, JSON, LATEST, Event, checked


def got(pairs: Pairs, data: bytes = b"1", *, bare: bool = False) -> Event:
    return read(pairs, data, position="c_v1/7", written=5.0, bare=bare)


def structured(body: bytes) -> Event:
    return got([("content-type", STRUCTURED)], body)


def test_what_is_left_out_is_the_same_everywhere() -> None:
    plain = Event("c_v1/7", "unknown", "unknown", 5.0, b"1", None, JSON)
    leaving_out: tuple[Pairs, ...] = (
        [],
        [("ce_id", None)],
        [("ce_id", b""), ("ce-subject", " "), ("Content-Type", None)],
        [("other", b"\xff")],
    )
    for pairs in leaving_out:
        assert got(pairs) == plain
    assert got([], bare=True) == plain
    assert structured(b'{"data": 1}') == plain
    assert structured(b'{"id": "", "source": null, "time": "yesterday", "data": 1}') == plain
    assert list(parts(Event("c_v1", "b", "b", 5.0, b'[{"data": 1}]', None, BATCH))) == [
        Event("c_v1/0", "unknown", "unknown", 5.0, b"1", None, JSON)
    ]


@pytest.mark.parametrize(
    ("document", "data", "content_type"),
    [
        (b'"data": true', b"true", JSON),
        (b'"data": null', b"null", JSON),
        (b'"data": "text"', b'"text"', JSON),
        (b'"data": {"a":  1e400}', b'{"a":  1e400}', JSON),
        (b'"datacontenttype": "text/plain", "data": "gr\xc3\xbcezi"', b"gr\xc3\xbcezi", "text/plain"),
        (b'"datacontenttype": "text/plain", "data": 5', b"5", "text/plain"),
        (b'"datacontenttype": "a/b+json; q=1", "data": "x"', b'"x"', "a/b+json; q=1"),
        (b'"data_base64": "AP8="', b"\x00\xff", BINARY),
        (b'"datacontenttype": "a/b", "data_base64": "AP8=", "data": null', None, ""),
        (b'"datacontenttype": "a/b", "data_base64": null, "data": "x"', b"x", "a/b"),
        (b'"data_base64": "no base64"', None, ""),
        (b'"id": "x"', b"", JSON),
    ],
)
def test_the_data_of_an_event_in_json(document: bytes, data: bytes | None, content_type: str) -> None:
    event = structured(b"{" + document + b"}")
    if data is None:
        assert event.extensions["undecodable"] == "c_v1/7"
    else:
        assert (event.data, event.content_type) == (data, content_type)


def test_attributes_that_are_no_text_become_text() -> None:
    event = structured(b'{"a": true, "b": -1, "c": 1.50, "d": null, "dataschema": "/x", "data": 1}')
    assert event.extensions == {"a": "true", "b": "-1", "c": "1.50"}


def test_headers_of_binary_mode_say_that_the_content_type_is_the_data_s() -> None:
    """Unless the data are the very event of the headers: then they only repeat it."""
    named = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/s"), ("content-type", STRUCTURED.encode())]
    for data in (b"no json", b"[" * 100_000, b'{"id": "2", "source": "/s"}', b'{"id": "1"}'):
        assert got(named, data) == Event("1", "unknown", "/s", 5.0, data, None, STRUCTURED)
    assert got(named, b'{"id": "1", "source": "/s", "type": "t", "data": 5}') == Event("1", "t", "/s", 5.0, b"5")
    assert got([*named[:3], ("content-type", BATCH)], b"[]").id == "1"


@pytest.mark.parametrize(
    ("pairs", "data", "says"),
    [
        ([("ce_source", b"Z\xfcrich")], b"1", "source is no UTF-8 from byte 1 on"),
        ([("ce_id", b"a\0")], b"1", "an event's id holds U+0000 at 1"),
        ([("ce_Bad-Name", b"x")], b"1", "'bad-name'"),
        ([("ce_data", b"x")], b"1", "data is an attribute of CloudEvents itself"),
        ([("ce_type", b"x" * 3000)], b"1", "3,000 bytes"),
        ([("ce_specversion", b"0.3")], b"1", "its CloudEvents version is 0.3; only 1.0 is read"),
        ([("content-type", "application/cloudevents+avro")], b"1", "application/cloudevents+avro; only JSON is read"),
        ([("content-type", STRUCTURED)], b"no json", "it is not the JSON of an event"),
        ([("content-type", STRUCTURED)], b'{"a":' * 100_000, "it is nested too deeply"),
        ([("content-type", STRUCTURED)], b'{"a": {"b": 1}}', "its attribute a is neither text, number nor boolean"),
        ([("content-type", BATCH)], b"{}", "it is not the JSON of an event"),
        ([("content-type", b"\xff")], b"1", "content-type is no UTF-8"),
    ],
)
def test_what_can_not_be_decoded_says_why(pairs: Pairs, data: bytes, says: str) -> None:
    event = got(pairs, data)
    assert says in event.extensions["deadbecause"]
    assert event.extensions["deadbecause"].startswith("can't be decoded: ")
    assert (event.id, event.extensions["undecodable"], event.data) == ("c_v1/7", "c_v1/7", data)
    assert checked(event, sys.maxsize) == event


def test_headers_are_kept_whole_however_long_and_whatever_they_hold() -> None:
    event = undecodable(b"", [("a", "x" * 9000), (b"\xff", "\x7f\ud800")], position="p", written=5.0, because="no")
    assert checked(event, sys.maxsize) == event
    whole = event.extensions["rawheaders"] + event.extensions["rawheaders2"]
    assert whole == '[["a", "' + "x" * 9000 + '"], [{"base64": "/w=="}, "\\u007f\\ud800"]]'


def test_a_time_is_read_only_where_it_can_be_written_again() -> None:
    for text in (
        "0001-01-01T00:00:00+14:00",
        "0001-01-01T00:00:00.000000Z",
        "9999-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59-14:00",
        "2026-06-30T23:59:60Z",
        "",
        "2026-01-01T00:00:00.00000²Z",
    ):
        assert seconds(text) is None
    for time in (EARLIEST, LATEST, 0.0, -0.5, 1_769_903_999.000001):
        assert seconds(rfc3339(time)) == time
    assert seconds("2026-01-31t23:59:59z") == seconds("2026-01-31T23:59:59") == 1_769_903_999.0


def test_parts_that_are_bad_leave_the_others_alone() -> None:
    batch = got(
        [("content-type", BATCH + "; charset=utf-8")],
        b'[{"id": "1"}, {"id": "\\u0000"}, 5, {"id": "2", "x": [1]}, {"id": "3"}]',
    )
    assert is_batch(batch)
    found = list(parts(batch))
    assert [event.id for event in found] == ["1", "c_v1/7/1", "c_v1/7/2", "c_v1/7/3", "3"]
    assert [event.data for event in found if "undecodable" in event.extensions] == [
        b'{"id": "\\u0000"}',
        b"5",
        b'{"id": "2", "x": [1]}',
    ]
