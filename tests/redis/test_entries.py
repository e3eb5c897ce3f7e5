"""Events as fields, and back."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from eventwagon.drivers.redis.entries import Entry, event_time, pack, unpack
from eventwagon.event import Event

TEXT = st.text(st.characters(max_codepoint=0xFDCF, exclude_categories=["Cs", "Cc"]) | st.just("🚃"))
WORD = TEXT.map(lambda text: text + "w")
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=64).filter(
    lambda name: (
        name not in ("specversion", "id", "source", "type", "time", "datacontenttype", "dataschema", "subject", "data")
    )
)
EVENTS = st.builds(
    Event,
    id=WORD,
    type=WORD,
    source=WORD,
    time=st.floats(-6e10, 2.5e11),
    data=st.binary(),
    subject=st.none() | WORD,
    content_type=WORD,
    extensions=st.dictionaries(NAMES, TEXT, max_size=3),
)


def stored(events: list[Event]) -> list[Entry]:
    """What the server's script makes of them."""
    _, fields, *data = pack(events, 1)
    assert isinstance(fields, bytes)
    return [
        (b"1700000000000-%d" % number, [*(text.encode() for text in texts), b"data", payload])  # type: ignore[list-item]
        for number, (texts, payload) in enumerate(zip(msgspec.msgpack.decode(fields), data, strict=True))
    ]


@given(st.lists(EVENTS, max_size=4))
def test_they_come_back(events: list[Event]) -> None:
    for there, back in zip(events, unpack("c", stored(events)), strict=True):
        assert abs(there.time - back.time) < 1e-4
        assert msgspec.structs.replace(back, time=there.time) == there


@given(st.datetimes(datetime(1900, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC)))
def test_times_as_others_write_them(time: datetime) -> None:
    for text in (time.isoformat(), time.isoformat().replace("+00:00", "Z"), time.isoformat(timespec="microseconds")):
        found = event_time([b"5000-0", text.encode()])
        assert found is not None
        assert abs(found - time.timestamp()) < 1e-4


def test_no_times() -> None:
    assert event_time([b"5000-0", b"yesterday"]) == 5.0
    assert event_time([b"5000-0", b"2026-13-31T23:59:59.000001Z"]) == 5.0
    assert event_time([b"5000-0", b""]) == 5.0
    assert event_time(None) is None
    assert unpack("c", [(b"5500-7", [b"data", b"\xff", b"subject", b"\xff"])]) == [
        Event(
            "c/5500-7",
            "unknown",
            "unknown",
            5.5,
            b"\xff",
            None,
            "application/octet-stream",
            {
                "undecodable": "c/5500-7",
                "deadbecause": "can't be decoded: subject is no UTF-8 from byte 0 on",
                "rawheaders": '[["subject", {"base64": "/w=="}]]',
            },
        )
    ]
