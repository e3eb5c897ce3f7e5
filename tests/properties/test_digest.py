"""Digests over the ids of events: in any order, in any parts, and never blind to one event more or less."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from eventwagon.policy.digest import digest_of, digest_of_encoded, together, written

_ids = st.lists(st.text(st.characters(), max_size=20), max_size=30)


@given(_ids, st.randoms(), st.integers(0, 30))
def test_neither_the_order_nor_the_parts_matter(ids: list[str], random: Random, cut: int) -> None:
    whole = digest_of(ids, "parse")
    mixed = list(ids)
    random.shuffle(mixed)
    assert digest_of(mixed, "parse") == whole
    assert together(digest_of(mixed[:cut], "parse"), digest_of(mixed[cut:], "parse")) == whole


@given(st.lists(st.text(max_size=20), max_size=30))
def test_ids_as_they_are_stored_have_the_same_digest(ids: list[str]) -> None:
    assert digest_of_encoded([each.encode() for each in ids], "parse") == digest_of(ids, "parse")


@given(_ids, st.text(max_size=20))
def test_one_event_more_is_another_digest(ids: list[str], more: str) -> None:
    assert digest_of([*ids, more]) != digest_of(ids)
    assert digest_of([*ids, more, more]) != digest_of([*ids, more])


def test_channel_and_id_are_told_apart() -> None:
    assert digest_of(["bc"], "a") != digest_of(["c"], "ab")
    assert digest_of(["x"]) != digest_of(["x"], "parse")


def test_a_digest_is_the_same_in_every_release() -> None:
    """Records hold digests for years."""
    assert digest_of([]) == together() == 0
    assert written(digest_of(["a", "b"], "parse")) == "17d7aad04251525bbba663302ef78f40"
    assert written(-1) == "f" * 32
