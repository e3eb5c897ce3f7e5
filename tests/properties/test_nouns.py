"""What holds for the lifecycle's table, events, names, settings and facts."""

from __future__ import annotations

import math
import random
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventwagon.contracts import facts
from eventwagon.contracts.facts import (
    DECISIONS,
    Entry,
    Fact,
    WagonDrained,
    WagonRemoved,
    decode_entry,
    encode_entry,
    sentence,
)
from eventwagon.contracts.lifecycle import TRANSITIONS, IllegalMove, Move, State, after, diagram
from eventwagon.contracts.manifest import Wagon
from eventwagon.display.text import as_line
from eventwagon.errors import UsageError
from eventwagon.event import DEAD, Channel, Event, born, check_channel_name, check_train_name, child_id, new_ids
from eventwagon.limits import Volume
from eventwagon.settings import Settings, make_settings

# --- lifecycle ----------------------------------------------------------------------------


def _reached(state: State | None) -> set[State | None]:
    found: set[State | None] = {state}
    while more := {to for (at, _), to in TRANSITIONS.items() if at in found} - found:
        found |= more
    return found


def test_every_state_is_reached_and_leads_to_removal() -> None:
    assert _reached(State.PROVISIONING) == {*State, None}
    assert all(None in _reached(state) for state in State)
    assert {move for _, move in TRANSITIONS} == set(Move)


@given(st.sampled_from(State), st.sampled_from(Move))
def test_only_what_stands_in_the_table_can_happen(state: State, move: Move) -> None:
    if (state, move) in TRANSITIONS:
        assert after(state, move) == TRANSITIONS[state, move]
    else:
        with pytest.raises(IllegalMove, match=state):
            after(state, move)


def test_the_diagram_shows_every_transition() -> None:
    lines = [line.strip() for line in diagram().splitlines()]
    assert lines[0] == "stateDiagram-v2"
    assert len(lines) == len(TRANSITIONS) + 2
    for (state, move), to in TRANSITIONS.items():
        assert f"{state} --> {to or '[*]'}: {move}" in lines


# --- events and names ---------------------------------------------------------------------

times = st.floats(0, 4e9, allow_nan=False)


@given(st.integers(0, 50), times, st.integers(0, 2**32))
def test_ids_are_version_7_uuids_of_their_time(count: int, now: float, seed: int) -> None:
    ids = new_ids(count, now, random.Random(seed).randbytes)
    assert len(ids) == len(set(ids)) == count
    for text in ids:
        found = uuid.UUID(text)
        assert str(found) == text
        assert (found.version, found.variant) == (7, uuid.RFC_4122)
        assert found.int >> 80 == int(now * 1000)


@given(times, times)
def test_ids_sort_by_time(a: float, b: float) -> None:
    if int(a * 1000) < int(b * 1000):
        assert new_ids(1, a) < new_ids(1, b)


ids = times.map(lambda now: new_ids(1, now)[0]) | st.text(max_size=40)
names = st.from_regex(r"[a-z][a-z0-9_-]{0,10}", fullmatch=True)


def _event(event_id: str, at: float = 1_700_000_000.25) -> Event:
    return Event(event_id, "T", "/s", at, b"")


@given(ids, names, st.integers(0, 1000))
def test_child_ids_are_stable_and_keep_the_time(parent: str, channel: str, index: int) -> None:
    child = child_id(_event(parent), channel, index)
    assert child == child_id(_event(parent), channel, index)
    found = uuid.UUID(child)
    assert (found.version, found.variant) == (7, uuid.RFC_4122)
    assert born(_event(child, at=0.0)) == pytest.approx(born(_event(parent)), abs=0.001)
    try:
        is_ours = uuid.UUID(parent).version == 7 and len(parent) == 36
    except ValueError:
        assert born(_event(parent)) == 1_700_000_000.25  # a foreign id says nothing: the event's own time
        return
    if is_ours:
        assert child[:13] == parent[:13].lower()


@given(st.lists(st.tuples(ids, names, st.integers(0, 5)), unique=True, max_size=30))
def test_child_ids_differ(children: list[tuple[str, str, int]]) -> None:
    made = {child_id(_event(parent), channel, index) for parent, channel, index in children}
    assert len(made) == len(children)


@given(names, names, st.integers(1, 100))
def test_good_names_are_taken(train: str, channel: str, wagon: int) -> None:
    if train.rpartition("_v")[2].isdigit() and "_v" in train:
        with pytest.raises(UsageError):
            check_train_name(train)
    else:
        assert check_train_name(train) == train
    if channel != DEAD:
        assert check_channel_name(channel) == channel


@pytest.mark.parametrize(
    "name", ["", "A", "1a", "-a", "_a", "a.b", "a b", "a/b", "../a", "ü", "a\n", "a" * 49, None, 3, "a:b", "a*"]
)
def test_bad_names_are_refused(name: Any) -> None:
    for checked in (check_train_name, check_channel_name):
        with pytest.raises(UsageError):
            checked(name)


def test_taken_names_are_refused() -> None:
    with pytest.raises(UsageError, match="dead"):
        check_channel_name(DEAD)
    for name in ("a_v1", "user_v12", "a_v1_v2"):
        with pytest.raises(UsageError, match="_v"):
            check_train_name(name)


@st.composite
def channels(draw: st.DrawFn) -> Channel:
    train = draw(names.filter(lambda n: not ("_v" in n and n.rpartition("_v")[2].isdigit())))
    wagon = draw(st.integers(0, 30))
    return Channel(train, wagon, draw(names | st.just(DEAD) | st.just("") if wagon else st.just(DEAD)))


@given(st.lists(channels(), unique=True, max_size=30))
def test_no_two_channels_have_one_name(found: list[Channel]) -> None:
    assert len({str(channel) for channel in found}) == len(found)


# --- settings -----------------------------------------------------------------------------

_NO_COUNT = [0, -1, 1.5, "1", None, True]
_NO_SECONDS = [-1, math.nan, math.inf, "1", None, True]
_WRONG: dict[str, list[Any]] = {
    "limit": [None, 3, "Volume(1)"],
    "workers": [None, 8, "8"],
    "at_cap": ["stop", "", None, 3],
    "prepare": [0, -1, 1.01, math.nan, math.inf, "x", None],
    "reuse": [1, "yes"],
    "spares": [-1, 1.5, "1", None, True, 32],
    "attempts": [wrong for wrong in _NO_COUNT if wrong is not None],
    "breaker": [True, {}, 20, "Breaker()"],
    "pause_on": [True, {}, 0.2, "PauseOn()", (0.2, 50)],
    "once": [0, *(wrong for wrong in _NO_SECONDS if wrong is not None), 10.0],
    "archive": ["", "archive", "gs://bucket", True, 3, b"file:///x", "file://x", "s3://"],
    "max_event_bytes": [0, 1023, 2048.5, None],
    "ledger": ["", "var/ledger", 3, b"sqlite:///x", "://", True, "\ud800"],
}
for name in ("wagons", "provision_attempts", "publish_batch", "keep"):
    _WRONG[name] = _NO_COUNT
for name in ("cooldown", "hold", "backoff", "backoff_most", "grace", "keep_drained", "keep_warm", "idle_after"):
    _WRONG[name] = _NO_SECONDS
for name in (
    "observe_every",
    "provision_timeout",
    "handler_timeout",
    "visibility",
    "publish_timeout",
    "member_ttl",
    "lease",
):
    _WRONG[name] = [0, *_NO_SECONDS]


@pytest.mark.parametrize(("name", "wrong"), [(name, value) for name, values in _WRONG.items() for value in values])
def test_a_wrong_setting_is_named(name: str, wrong: object) -> None:
    with pytest.raises(UsageError, match=name):
        make_settings(**{name: wrong})


def test_every_setting_is_checked() -> None:
    assert set(Settings.__struct_fields__) == set(_WRONG)


def test_an_unknown_setting_is_named_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"wagon_count.*wagons"):
        make_settings(wagon_count=3)


def test_what_is_declared_tells_differences() -> None:
    same, other = Settings(limit=Volume(5)).declared(), Settings(limit=Volume(6)).declared()
    assert same == Settings(limit=Volume(5)).declared()
    assert {name for name in same if same[name] != other[name]} == {"limit"}
    assert all(name in Settings.__struct_fields__ for name in same)


# --- facts --------------------------------------------------------------------------------

st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
_ALL_FACTS: list[type[Fact]] = [
    *DECISIONS,
    facts.EventDied,
    facts.EventRetried,
    facts.EventSnoozed,
    facts.EventsSkipped,
    facts.SwitchSeen,
]


def _fact(kind: Any) -> st.SearchStrategy[Any]:
    hints = {f.name: f.type for f in msgspec.structs.fields(kind)}
    wagon = st.builds(Wagon, number=st.integers(1, 99), opened_at=st.floats(0, 4e9), closed_because=st.text())
    return st.builds(kind, **{name: wagon if hint is Wagon else st.from_type(hint) for name, hint in hints.items()})


@pytest.mark.parametrize("kind", DECISIONS)
def test_every_decision_comes_back_from_the_journal(kind: type) -> None:
    @given(_fact(kind), st.floats(0, 4e9), st.text())
    def comes_back(fact: Any, at: float, by: str) -> None:
        entry = Entry(at, by, fact)
        assert decode_entry(encode_entry(entry)) == entry

    comes_back()


@pytest.mark.parametrize("kind", _ALL_FACTS)
def test_every_fact_has_a_sentence(kind: type) -> None:
    @given(_fact(kind))
    def has_one(fact: Any) -> None:
        said = sentence(fact)
        assert said
        for figure in ("number", "because", "what"):
            if (value := getattr(fact, figure, None)) is not None:  # no number: it is about the whole train
                assert as_line(str(value)) in said or "***" in said  # what looks like a secret is left out
        assert said.isprintable()

    has_one()


def test_a_figure_that_is_not_known_is_no_none_in_a_sentence() -> None:
    assert sentence(WagonDrained(train="t", number=1, published=None, settled=None, seconds=2.0)).endswith(
        "totals unknown"
    )
    never = Wagon(number=1, opened_at=0.0)
    assert sentence(WagonRemoved(train="t", wagon=never, dead=0)) == "t_v1 removed: it was never in use"
    vanished = Wagon(number=1, opened_at=0.0, active_at=1.0)
    assert "took is not known, 2 dead letters kept" in sentence(WagonRemoved(train="t", wagon=vanished, dead=2))


def test_the_list_of_facts_is_closed() -> None:
    """Every fact that the module defines is a decision, or one of the three that only listeners hear of."""
    base = facts.Switched.__base__
    assert base is not None
    defined = {v for v in vars(facts).values() if isinstance(v, type) and issubclass(v, base) and v is not base}
    assert defined == set(_ALL_FACTS)
