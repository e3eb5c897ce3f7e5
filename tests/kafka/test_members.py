"""Who reads which partition: the assignment, and the members that the claims log keeps."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventwagon.drivers.kafka.claims import TTL, WagonClaims
from eventwagon.drivers.kafka.ownership import assign
from eventwagon.drivers.kafka.proposals import (
    FORMAT,
    Beat,
    Claim,
    Join,
    Leave,
    Member,
    Op,
    Release,
    Renew,
    Settle,
    encode,
)
from eventwagon.drivers.kafka.runs import add, cut, size, within
from tests.fuzz import examples

names = st.lists(st.sampled_from("abcdefgh"), max_size=8, unique=True)


@examples(200)
@given(st.lists(st.sampled_from(["", *"abcdefgh"]), max_size=16), names, st.integers(0, 1000))
def test_an_assignment_is_balanced_and_moves_little(owners: list[str], members: list[str], first: int) -> None:
    new = assign(owners, members, first)
    assert new == assign(owners, members[::-1], first)
    if not members:
        assert new == [""] * len(owners)
        return
    counts = [new.count(member) for member in members]
    assert sum(counts) == len(owners)
    assert max(counts) - min(counts) <= 1
    shares = sorted(counts, reverse=True)
    owned = sorted((owners.count(member) for member in members), reverse=True)
    stays = sum(min(pair) for pair in zip(owned, shares, strict=True))
    assert sum(a == b for a, b in zip(owners, new, strict=True)) == stays
    assert assign(new, members, first) == new


def test_channels_of_one_partition_begin_with_different_members() -> None:
    assert {assign([""], ["a", "b", "c"], salt)[0] for salt in range(3)} == {"a", "b", "c"}


spans = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=12)


@examples(200)
@given(spans, st.tuples(st.integers(0, 30), st.integers(0, 30)))
def test_runs_are_sets_of_offsets(given_spans: list[tuple[int, int]], other: tuple[int, int]) -> None:
    runs, model = list[tuple[int, int]](), set[int]()
    for start, stop in given_spans:
        more = set(range(start, stop))
        assert add(runs, start, stop) == len(more - model)
        model |= more
        assert [offset for a, b in runs for offset in range(a, b)] == sorted(model)
    assert all(a[1] < b[0] for a, b in pairwise(runs))
    assert size(runs) == len(model)
    window = set(range(*other))
    assert {o for a, b in within(runs, *other) for o in range(a, b)} == (model & window if window else set())
    if window:
        assert cut(runs, *other) == len(model & window)
        assert [o for a, b in runs for o in range(a, b)] == sorted(model - window)


class Log:
    """A claims log of format 2, and who reads what of the channel "" by it."""

    def __init__(self, partitions: int = 4) -> None:
        self.claims = WagonClaims()
        self.partitions = partitions
        self.now = 1000
        self.offset = 0
        self.claims.apply(0, self.now, encode([FORMAT]))

    def write(self, member: str, *ops: Op, later: int = 0) -> Any:
        self.now += later
        self.offset += 1
        return self.claims.apply(self.offset, self.now, encode([Member(member), *ops]))

    def join(self, *members: str) -> None:
        for member in members:
            self.write(member, Join("", self.partitions, f"process {member}"))

    @property
    def owners(self) -> str:
        return "".join(self.claims.channel("").partition(p).owner or "-" for p in range(self.partitions))


def test_members_share_the_partitions() -> None:
    log = Log()
    log.join("a")
    assert log.owners == "aaaa"
    log.join("b")
    assert sorted(log.owners) == ["a", "a", "b", "b"]
    log.join("c")
    assert sorted(set(log.owners)) == ["a", "b", "c"]
    log.write("a", Leave(""))
    assert sorted(log.owners) == ["b", "b", "c", "c"]
    assert set(log.claims.members) == {"b", "c"}
    log.write("b", Leave(""))
    log.write("c", Leave(""))
    assert log.owners == "----"
    assert not log.claims.members


def test_more_partitions_are_shared_by_all_who_live() -> None:
    """Also those that only one of them knows of so far: the log names them."""
    log = Log()
    log.join("a", "b")
    owners = log.owners
    log.partitions = 7
    log.join("a")
    assert log.owners[:4] == owners
    assert sorted(map(log.owners.count, "ab")) == [3, 4]
    assert log.claims.channel("").named == 7


def test_looking_at_a_partition_changes_no_answer() -> None:
    """A process may know of more partitions than the log names: others that have read the same do not."""
    one, other = Log(), Log()
    for log in (one, other):
        log.join("a")
        if log is one:
            channel = log.claims.channel("")
            assert channel.partition(5).fresh == 0
            assert channel.waiting_again(log.now, [6]) == 0
            assert channel.named == 4
        log.join("b", "c")
    assert one.owners == other.owners
    assert one.claims.dump() == other.claims.dump()


def test_who_owes_nothing_is_not_dropped() -> None:
    """An idle wagon needs no sign of life."""
    log = Log()
    log.join("a", "b")
    log.write("b", Beat("", []), later=100 * TTL)
    log.write("b", Beat("", []), later=TTL + 200)
    assert "a" in log.owners
    assert not log.claims.owes_a_beat("a", log.now)


@pytest.mark.parametrize("how", ["waits", "is claimed by others"])
def test_who_is_silent_while_something_is_dropped(how: str) -> None:
    log = Log()
    log.join("a", "b")
    p = log.owners.index("a")
    op: Op = Beat("", [(p, 5)]) if how == "waits" else Claim("", 5, 60_000, [(p, 5)])
    log.write("b", op, later=50 * TTL)
    assert log.claims.owes_a_beat("a", log.now)
    log.write("b", Beat("", []), later=TTL - 100)
    assert "a" in log.owners
    log.write("b", Beat("", []), later=200)
    assert log.owners == "bbbb"
    assert set(log.claims.members) == {"b"}
    log.write("a", Beat("", []))  # it is no member by that
    assert log.owners == "bbbb"
    log.join("a")
    assert sorted(log.owners) == ["a", "a", "b", "b"]


def test_a_sign_of_life_is_enough() -> None:
    log = Log()
    log.join("a", "b")
    p = log.owners.index("a")
    for turn in range(10):
        log.write("b", Claim("", 5, 60_000, [(p, 5 * turn + 5)]), later=TTL // 2)
        log.write("a", Beat("", []), later=TTL // 2)
    assert "a" in log.owners
    assert not log.claims.owes_a_beat("a", log.now)
    for _ in range(3):
        log.write("b", Beat("", []), later=TTL + 200)
    assert "a" in log.owners  # that it was alive after the last claim of others is enough


def test_the_only_member_owes_nothing_until_another_joins() -> None:
    log = Log()
    log.join("a")
    log.write("a", Beat("", [(0, 10)]))
    log.now += 100 * TTL
    log.join("b")
    assert "a" in log.owners


def test_a_channel_with_a_new_topic_begins_again() -> None:
    log = Log(2)
    log.join("a", "b")
    owners = log.owners
    ((_, (grant,)),) = log.write("a", Claim("", 5, 60_000, [(0, 9)]))
    log.write("a", Settle("", [], [(0, 0, 3, grant.claim)]))
    log.write("b", Renew(""))
    channel = log.claims.channel("")
    assert (channel.settled, channel.held(), channel.partition(0).fresh, log.owners) == (0, 0, 0, owners)
    assert channel.due() == float("inf")
    log.write("b", Claim("", 5, 60_000, [(0, 9)]))
    log.write("a", Settle("", [], [(0, 3, 5, grant.claim)]))  # late, and of the earlier topic
    assert (channel.settled, channel.held()) == (0, 5)
    other = WagonClaims()
    other.load(log.claims.dump())
    assert other.dump() == log.claims.dump()


def test_an_ended_process_is_no_member() -> None:
    log = Log()
    log.join("a", "b")
    log.write("b", Claim("", 5, 60_000, [(0, 5)], owner="process b"))
    log.write("a", Release("", [], 0, False, "process b"))
    assert log.owners == "aaaa"


def test_a_claim_takes_from_named_partitions_only() -> None:
    log = Log(2)
    log.join("a", "b")
    ((_, (grant,)),) = log.write("a", Claim("", 5, 100, [(0, 5)]))
    log.write("a", Release("", [(0, 0, 5, grant.claim)], 0, True))
    assert log.write("b", Claim("", 5, 100, [(1, 0)]))[0][1] == []
    assert [g[:4] for g in log.write("b", Claim("", 5, 100, [(0, 5)]))[0][1]] == [(0, 0, 5, 2)]


def test_a_snapshot_keeps_members_and_owners() -> None:
    log = Log()
    log.join("a", "b", "c")
    log.write("b", Claim("", 5, 60_000, [(0, 9)]), Beat("", [(1, 7)]), later=500)
    other = WagonClaims()
    other.load(log.claims.dump())
    assert other.dump() == log.claims.dump()
    record = encode([Member("b"), Leave(""), Beat("", [])])
    for claims in (other, log.claims):
        claims.apply(99, log.now + 2 * TTL, record)
        claims.apply(100, log.now + 4 * TTL, record)
    assert other.dump() == log.claims.dump()
    assert other.format == 2


def test_rebuilt_from_its_last_records_members_join_anew() -> None:
    log = Log()
    log.join("a")
    ((_, (grant,)),) = log.write("a", Claim("", 5, 60_000, [(0, 9)]))
    settle = encode([Member("a"), Settle("", [], [(0, 2, 4, grant.claim)])])
    claims = WagonClaims()
    claims.load(claims.rebuild(50, [(log.now, settle)]))
    assert (claims.format, claims.members) == (2, {})
    assert claims.channel("").settled == 2
    assert claims.channel("").partition(0).unsettled() == [(0, 2)]


def test_a_log_keeps_the_format_that_it_began_with() -> None:
    """In one of format 1 members and their names change nothing."""
    claims = WagonClaims()
    claims.apply(0, 10, encode([Claim("", 2, 1000, [(0, 2)])]))
    claims.apply(1, 10, encode([FORMAT, Member("a"), Join("", 2)]))
    assert claims.format == 1
    assert not claims.members
    other = WagonClaims()
    other.load(claims.dump())
    assert other.format == 1


def test_an_earlier_release_refuses_a_new_log_in_plain_words() -> None:
    """As its decoders do: neither a record nor a snapshot passes for one of its own."""
    old = msgspec.msgpack.Decoder(list[Claim | Settle | Release])
    with pytest.raises(msgspec.ValidationError, match="an older release of eventwagon can't serve the wagon"):
        old.decode(encode([FORMAT, Member("a"), Join("", 1)]))
    log = Log()
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.Decoder(tuple[int, int, dict[str, Any]]).decode(log.claims.dump())
