"""The options of a URL: read in one place for all drivers."""

from __future__ import annotations

import pytest

from eventwagon.contracts.address import Address
from eventwagon.drivers.opening import open_drivers
from eventwagon.errors import UsageError


def test_options_have_types() -> None:
    url = "shelf://me:p%40ss@host/a%20b?is_deep=YES&books=12&wait=2.5&wood=oak&at=http://h:1&odd=%F0%9F%93%9A"
    address = Address.of(url)
    assert (address.scheme, address.host, address.path) == ("shelf", "me:p%40ss@host", "/a b")
    assert address.only("is_deep", "books", "wait", "wood", "at", "odd")["odd"] == "📚"
    assert address.flag("is_deep")
    assert address.whole("books", 1) == 12
    assert address.seconds("wait", 1.0, least=2.5, most=2.5) == 2.5
    assert address.choice("wood", "pine", ("pine", "oak")) == "oak"
    assert address.http("at", "", example="http://h:1") == "http://h:1"


def test_options_have_defaults() -> None:
    address = Address.of("shelf:")
    assert address.only() == {}
    assert (address.flag("is_deep"), address.flag("is_deep", True)) == (False, True)
    assert (address.whole("books", 3), address.seconds("wait", 1.5), address.choice("wood", "oak", ("oak",))) == (
        *(3, 1.5),
        "oak",
    )


@pytest.mark.parametrize(
    "books", ["", "x", "1.0", "1e3", "0", "11", "-1", "+5", " 5", "5 ", "1_0", "\u0665", "9" * 5000, "²"]
)
def test_what_is_no_whole_number_within_bounds(books: str) -> None:
    address = Address("shelf://h?books=…", "shelf", "h", "", {"books": books}, float)
    with pytest.raises(UsageError, match=r"^shelf://h: books=.*: give a whole number from 1 to 10$") as refused:
        address.whole("books", 3, most=10)
    assert len(str(refused.value)) < 200
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("wait", ["", "x", "nan", "inf", "-inf", "0.09", "10.1", "1e400", "0x1", "3s"])
def test_what_is_no_time_within_bounds(wait: str) -> None:
    address = Address("shelf://h", "shelf", "h", "", {"wait": wait}, float)
    with pytest.raises(UsageError, match=r"shelf://h: wait=.*: give a number of seconds from 0.1 to 10"):
        address.seconds("wait", 1.0, least=0.1, most=10)


@pytest.mark.parametrize(
    ("url", "which"),
    [
        ("kafka://h?partitions=2&mode=binary&partitions=4", "option 'partitions'"),
        ("redis://h?registry=memory://&registry=memory://", "option 'registry'"),
        ("kafka://h?sasl.password=hunter2&hunter3&hunter3", "an option"),  # its & was to be %26
        ("kubernetes:?secret=a&secret=a", "option 'secret'"),
    ],
)
def test_an_option_is_given_once(url: str, which: str) -> None:
    for read in (Address.of, open_drivers):
        with pytest.raises(UsageError, match=f"{which} is given twice: give it once") as refused:
            read(url)
        assert "hunter" not in str(refused.value)


def test_words_and_flags_and_servers() -> None:
    address = Address.of("shelf://h?wood=gold&is_deep=perhaps&at=ftp://h&other=http://[")
    with pytest.raises(UsageError, match="wood='gold': give pine, ash or oak"):
        address.choice("wood", "oak", ("pine", "ash", "oak"))
    with pytest.raises(UsageError, match="is_deep='perhaps': give true or false"):
        address.flag("is_deep")
    for name in ("at", "other"):
        with pytest.raises(UsageError, match=f"{name}=.*: give a URL, say {name}=http://h:1"):
            address.http(name, "", example="http://h:1")
    with pytest.raises(UsageError, match="unknown option at, is_deep, other; shelf knows wood"):
        address.only("wood")


def test_no_error_repeats_a_secret() -> None:
    address = Address.of("shelf://me:hunter2@h/x?token=hunter3&books=hunter2&at=ftp://me:hunter4@h&wood=hunter3")
    refused = list[str]()
    for read in (
        lambda: address.only(),
        lambda: address.whole("books", 1),
        lambda: address.http("at", "", example="http://h"),
        lambda: address.choice("wood", "oak", ("oak", "ash")),
    ):
        with pytest.raises(UsageError) as caught:
            read()
        refused.append(str(caught.value))
    assert len(refused) == 4
    assert "hunter" not in "".join(refused)
    assert "hunter" not in address.where


def test_hosts_have_ports() -> None:
    with pytest.raises(UsageError, match=r"host 2 of 2 is none: an IPv6 address is written \[::1\]:1"):
        Address.of("shelf://[::1]:9,[x").places(1)
    assert Address.of("shelf://me:p@a,b:2,[::1]:3").places(1) == [("a", 1), ("b", 2), ("::1", 3)]
    assert Address.of("shelf:///x").places(1) == [("localhost", 1)]
    for hosts, why in (
        ("a:x,b", "the port of host 1 of 2 is no number from 1 to 65535"),
        ("a,b:99999", "the port of host 2 of 2 is"),
        ("a:0", "the port of the host is"),
        ("a,,b", "host 2 of 3 is none: write host:port,host2:port"),
        ("a b", "the host is none"),
    ):
        with pytest.raises(UsageError, match=why):
            Address.of(f"shelf://{hosts}").places(1)


def test_nothing_of_a_url_is_cut_off_in_silence() -> None:
    with pytest.raises(UsageError, match="sqlite:///a#b: write %23 for a # in a URL"):
        Address.of("sqlite:///a#b")
    assert Address.of("sqlite:///a%23b").path == "/a#b"
