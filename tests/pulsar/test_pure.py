"""URLs, names, figures and the wire format, without a server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventwagon.drivers.pulsar.address import channel_of, parse
from eventwagon.drivers.pulsar.positions import snapshot
from eventwagon.drivers.pulsar.wire import event_from, properties
from eventwagon.errors import UsageError
from eventwagon.event import Channel, Event

TEXT = st.text(st.characters(max_codepoint=0xFDCF, exclude_categories=["Cs", "Cc"]) | st.just("🚃"), max_size=20)
WORD = TEXT.map(lambda text: text + "w")


@given(
    st.builds(
        Event,
        id=WORD,
        type=WORD,
        source=WORD,
        time=st.floats(-1e9, 4e9),
        data=st.binary(max_size=50),
        subject=st.none() | WORD,
        content_type=WORD,
        extensions=st.dictionaries(st.from_regex(r"x[a-z0-9]{0,10}", fullmatch=True), TEXT, max_size=3),
    )
)
def test_an_event_comes_back_as_it_was(event: Event) -> None:
    back = event_from(properties(event), event.data, position="1:1:-1", published=5.0)
    for name in ("id", "type", "source", "data", "subject", "content_type", "extensions"):
        assert getattr(back, name) == getattr(event, name)
    assert abs(back.time - event.time) < 2e-6


def test_what_a_foreign_client_leaves_out() -> None:
    bare = event_from({}, b"x", position="signups_v1/3:7:-1", published=5.0)
    assert bare == Event("signups_v1/3:7:-1", "unknown", "unknown", 5.0, b"x")
    other = event_from(
        {
            "ce_id": "a",
            "ce_type": "t",
            "ce_source": "s",
            "ce_time": "2026-01-02T03:04:05+01:00",
            "ce_datacontenttype": "a/b",
        },
        b"",
        position="p",
        published=5.0,
    )
    assert other == Event("a", "t", "s", 1767319445.0, b"", None, "a/b")
    assert event_from({"ce-time": "yesterday"}, b"", position="p", published=5.0).time == 5.0


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (
            "pulsar://h:6650/public/default?tokn=a",
            "unknown option tokn (did you mean token?); pulsar knows admin, token",
        ),
        ("pulsar://h:6650/public", "/tenant/namespace"),
        ("pulsar:///public/default", "/tenant/namespace"),
        ("pulsar://h/public/default?admin=h:8080", "admin='h:8080': give a URL, say admin=http://h:8080"),
        ("pulsar://me:secret@h/public/default", "&token="),
        ("pulsar://h/public/default?prefetch=0", "from 1 to 10000"),
        ("pulsar://h/public/default?send_timeout=soon", "give a number"),
        ("pulsar+ssl://h/public/default?tls_insecure=maybe", "give true or false"),
        ("pulsar+ssl://h/public/default?tls_cert=a", "go together"),
    ],
)
def test_a_url_that_is_wrong(url: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(url + ("&" if "?" in url else "?") + "token=geheim")
    assert says in str(raised.value)
    assert "geheim" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_url_that_is_right() -> None:
    address = parse("pulsar+ssl://h:6651/acme/orders?token=a&tls_ca=/ca.pem")
    assert (address.service, address.admin) == ("pulsar+ssl://h:6651", "https://h:8443")
    assert address.topic(Channel("signups", 7, "dead")) == "persistent://acme/orders/signups_v7.dead"
    assert "a" not in address.place.removeprefix("pulsar+ssl://h:6651 (acme/orders)")
    assert parse("pulsar://h:6650").place == "pulsar://h:6650 (public/default)"


@pytest.mark.parametrize(
    "channel", [Channel("a", 1), Channel("a", 12, "b-c_v1"), Channel("a", 0, "dead"), Channel("a", 0)]
)
def test_a_topic_is_found_again(channel: Channel) -> None:
    assert channel_of(f"persistent://public/default/{channel}", "a") == channel


@pytest.mark.parametrize("name", ["ab_v1", "a_v0", "a-b", "a_v1.", "a_v1.B", "a_v1.b.c", "a.b-partition-0.x"])
def test_topics_of_others_are_left_alone(name: str) -> None:
    assert channel_of(f"persistent://public/default/{name}", "a") is None


def stats(**changes: Any) -> dict[str, Any]:
    cursor = {
        "markDeletePosition": "3:1",
        "readPosition": "3:9",
        "individuallyDeletedMessages": "[(3:4..3:6],(7:0..7:2]]",
    }
    found = {
        "ledgers": [{"ledgerId": 3, "entries": 10}, {"ledgerId": 7, "entries": 0}],
        "currentLedgerEntries": 5,
        "lastConfirmedEntry": "7:4",
        "state": "LedgerOpened",
        "cursors": {"eventwagon": {**cursor, "active": True}},
    }
    return {**found, **changes}


def test_figures_from_positions() -> None:
    found = snapshot(stats(), "eventwagon")
    assert found is not None
    assert (found.published, found.settled) == (15, 2 + 2 + 2)
    settled = {p for p in [*((3, n) for n in range(10)), *((7, n) for n in range(5))] if found.is_settled(p)}
    assert settled == {(3, 0), (3, 1), (3, 5), (3, 6), (7, 1), (7, 2)}
    assert not found.sealed


def test_figures_at_the_edges() -> None:
    empty = snapshot(
        stats(
            ledgers=[{"ledgerId": 3, "entries": 0}],
            currentLedgerEntries=0,
            lastConfirmedEntry="3:-1",
            cursors={"eventwagon": {"markDeletePosition": "3:-1", "readPosition": "3:0"}},
        ),
        "eventwagon",
    )
    assert empty is not None
    assert (empty.published, empty.settled, empty.attached) == (0, 0, False)
    assert snapshot(stats(cursors={}), "eventwagon") is None  # being created
    # sealed while it was written to: what was refused is counted all the same
    sealed = snapshot(stats(state="Terminated", currentLedgerEntries=24, lastConfirmedEntry="7:4"), "eventwagon")
    assert sealed is not None
    assert (sealed.published, sealed.sealed) == (15, True)
    # sealed right after it was loaded anew: the last ledger is empty
    sealed = snapshot(stats(state="Terminated", currentLedgerEntries=0, lastConfirmedEntry="3:9"), "eventwagon")
    assert sealed is not None
    assert sealed.published == 10
    crossing = snapshot(
        stats(
            cursors={
                "eventwagon": {
                    "markDeletePosition": "2:8",
                    "readPosition": "7:0",
                    "individuallyDeletedMessages": "[(3:7..7:1]]",
                }
            }
        ),
        "eventwagon",
    )
    assert crossing is not None
    assert (crossing.mark, crossing.settled) == (0, 4)
