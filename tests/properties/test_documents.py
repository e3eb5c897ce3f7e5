"""What is stored is read back equal, or refused before it is stored; what can't be read is told, never a traceback."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventwagon import Age, Lag, Settings, Throughput, Train, Volume, Wait, Workers
from eventwagon.contracts.facts import (
    Entry,
    StepFailed,
    Switched,
    UnknownFact,
    decode_entry,
    encode_entry,
    sentence,
    sound_entry,
)
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest, Request, Wagon, decode, encode, sound
from eventwagon.contracts.orchestrator import WagonSpec
from eventwagon.contracts.reading import Reading
from eventwagon.contracts.registry import Member, Snapshot, decode_members, encode_member
from eventwagon.errors import BrokenManifest, Conflict, Defect, UsageError
from eventwagon.limits import Pressure, capacity, measured
from eventwagon.policy.edits import Edit, differing
from eventwagon.settings import make_settings
from eventwagon.testing.virtual_time import run
from eventwagon.values import MOST, check_revision, real, text, whole
from tests.support import SignUp, World, signups, state_of

# --- numbers ------------------------------------------------------------------------------


class Index:
    """As an int of numpy's is."""

    def __index__(self) -> int:
        return 7


odd = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(),
    st.binary(),
    st.fractions(),
    st.sampled_from([2**53, 2**53 + 1, 2**64, 1e300, -0.0, 10**400, Fraction(10**400), Index(), [], {}, "1"]),
)

pytestmark = pytest.mark.filterwarnings("ignore:.* is in seconds")  # any number is thrown at them


@given(odd)
def test_a_whole_number_is_an_int_or_refused(value: Any) -> None:
    try:
        number = whole("n", value)
    except UsageError:
        return
    assert type(number) is int
    assert 1 <= number <= MOST
    assert number == (7 if isinstance(value, Index) else value)


@given(odd)
def test_a_number_is_a_finite_float_or_refused(value: Any) -> None:
    try:
        number = real("n", value, zero=True)
    except UsageError:
        return
    assert type(number) is float
    assert math.isfinite(number)
    assert math.copysign(1.0, number) == 1.0
    assert number == pytest.approx(float(value))


@pytest.mark.parametrize("value", [1e4, 10_000, Fraction(10_000)])
def test_numbers_that_are_equal_declare_the_same(value: Any) -> None:
    for make in (Volume, Lag):
        assert make(value) == make(10_000)
        assert repr(make(value)) == repr(make(10_000))
    assert type(capacity(Volume(value))) is int
    assert Workers(total=8.0) == Workers(total=8)  # type: ignore[arg-type]
    assert Settings(cooldown=1).declared() == Settings(cooldown=1.0).declared()
    assert _declared(spares=2.0, attempts=3.0) == _declared(spares=2, attempts=3)
    assert _declared(workers=Workers(each=4.0)) == _declared(workers=Workers(each=4))  # type: ignore[arg-type]


def _declared(**given: Any) -> dict[str, str]:
    return make_settings(**given).declared()


def test_what_older_programs_declared_is_the_same() -> None:
    older = {"limit": "Volume(10000.0)", "workers": "Workers(total=8, floor=1)", "cooldown": "1", "prepare": "0.5"}
    theirs = msgspec.structs.replace(Manifest(train="t"), declared={**Settings(cooldown=1).declared(), **older})
    ours = Settings(cooldown=1, workers=Workers(total=8))
    assert differing(theirs, ours, ()) == {}
    ours = Settings(cooldown=2, limit=Volume(5), workers=Workers(total=8))
    assert set(differing(theirs, ours, ())) == {"cooldown", "limit"}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Volume(1e300),  # type: ignore[arg-type]
        lambda: Volume(2**64),
        lambda: Volume(1.5),  # type: ignore[arg-type]
        lambda: Volume(True),
        lambda: Age(True),
        lambda: Age(1e300),
        lambda: Age(5e-324),
        lambda: Lag(-0.0),  # type: ignore[arg-type]
        lambda: Wait(math.nan),
        lambda: Throughput(math.inf),
        lambda: Workers(total="8"),  # type: ignore[arg-type]
        lambda: Settings(cooldown=10**400),
        lambda: Settings(at_cap=[]),  # type: ignore[arg-type]
    ],
)
def test_odd_numbers_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        make()


# --- limits of users' own -----------------------------------------------------------------


class Own:
    """A limit that does what it is told."""

    def __init__(self, does: Callable[[], Any], shows: Callable[[], Any] = lambda: "Own()") -> None:
        self._does = does
        self._shows = shows

    def __repr__(self) -> str:
        return self._shows()  # type: ignore[no-any-return]

    def measure(self, reading: Reading) -> Pressure:
        return self._does()  # type: ignore[no-any-return]


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def _raise(error: BaseException) -> Any:
    raise error


_BAD = [
    lambda: Pressure(math.inf, "much"),
    lambda: Pressure(-math.inf, "little"),
    lambda: Pressure(math.nan, "?"),
    lambda: Pressure("1", "text"),  # type: ignore[arg-type]
    lambda: Pressure(None, "text"),  # type: ignore[arg-type]
    lambda: Pressure(0.5, None),  # type: ignore[arg-type]
    lambda: Pressure(0.5, "half \ud800 a character"),
    lambda: Pressure(10**400, "a huge number"),
    lambda: 0.5,
    lambda: None,
    lambda: _raise(Silent()),
    lambda: _raise(SystemExit(3)),
    lambda: _raise(asyncio.CancelledError()),
    lambda: _raise(GeneratorExit()),
    lambda: _raise(BaseExceptionGroup("all", [SystemExit()])),
    lambda: _raise(ValueError("half \ud800 a character")),
]


@pytest.mark.parametrize("does", _BAD)
def test_a_limit_that_fails_is_told_and_gives_a_finite_pressure(does: Callable[[], Any]) -> None:
    pressure, (fault,) = measured(Own(does), Reading(number=1, at=0.0, age=0.0))
    assert math.isfinite(pressure.value)
    assert (pressure.why + fault.why).encode()
    assert fault.why


def test_a_long_reason_is_cut() -> None:
    pressure, faults = measured(Own(lambda: Pressure(2.0, "x" * 10**6)), Reading(number=1, at=0.0, age=0.0))
    assert (len(pressure.why), faults) == (500, ())


def test_interrupting_a_limit_interrupts() -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(Own(lambda: _raise(KeyboardInterrupt())), Reading(number=1, at=0.0, age=0.0))


@pytest.mark.parametrize("does", [*_BAD, lambda: Pressure(2.0, "y" * 10**6)])
def test_the_train_goes_on_whatever_its_limit_does(does: Callable[[], Any]) -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        async with world.running(signups(handled, limit=Own(does))) as c:
            await c.publish(SignUp("a"))
            await c.wait_switched(await c.request_switch())
            await c.publish(SignUp("b"))
            await asyncio.sleep(5)
            assert handled == ["a", "b"]
            entries = [e async for e in c.journal()]
            told = [e.fact for e in entries if isinstance(e.fact, StepFailed)]
            assert len(told) == (0 if does not in _BAD else 1)
            assert [decode_entry(encode_entry(e)) for e in entries] == entries
            assert decode(encode(c.manifest)) == c.manifest

    run(main())


def test_a_limit_whose_words_fail_or_change_is_refused() -> None:
    counter = iter(range(100))
    for shows in (lambda: 1 / 0, lambda: f"Own({next(counter)})", lambda: "\ud800", lambda: "x" * 10**6, lambda: 3):
        with pytest.raises(UsageError, match="repr"):
            Train("t", limit=Own(lambda: None, shows))

    class Plain:
        def measure(self, reading: Reading) -> Pressure:
            return Pressure(0.0, "")

    assert Settings(limit=Plain()).declared() == Settings(limit=Plain()).declared()
    assert (Volume(3) | Plain()).__repr__() == (Volume(3) | Plain()).__repr__()


# --- texts and revisions -------------------------------------------------------------------


@given(st.one_of(st.text(st.characters(codec=None)), st.binary(), st.none(), st.integers()))
def test_a_reason_is_a_line_that_can_be_stored_or_refused(value: Any) -> None:
    try:
        line = text("why", value)
    except UsageError:
        return
    assert isinstance(value, str)
    assert len(line) <= 500
    assert isinstance(line.encode(), bytes)
    assert not any(ord(c) < 32 for c in line)


@pytest.mark.parametrize("why", [None, b"x", 3, "\ud800", "esc \x1b[31m", "nul \0", "\x9b"])
def test_a_switch_or_a_stop_is_not_asked_for_with_what_is_no_reason(why: Any) -> None:
    async def main() -> None:
        world = World()
        async with world.connect(signups([])) as c:
            await c.publish(SignUp("a"))
            before = c.manifest
            with pytest.raises(UsageError, match="the reason"):
                await c.request_switch(why)
            with pytest.raises(UsageError, match="the reason"):
                await c.request_stop(why)
            assert (await c.refresh()).manifest == before
            await c.request_switch("a\nlong one " + "x" * 10**6)
            assert c.manifest.request is not None
            assert len(c.manifest.request.why) == 500

    run(main())


_NO_REVISIONS = [
    "../../x",
    "/etc",
    ".hidden",
    "-rf",
    "a/b",
    "a b",
    "a\n",
    "\ud800",
    "x" * 64,
    "{revision}",
    "$(id)",
    b"v1",
    7,
]


@pytest.mark.parametrize("revision", _NO_REVISIONS)
def test_a_revision_is_checked_at_every_door(revision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="revision"):
        Train("t", revision=revision)
    with pytest.raises(UsageError, match="revision"):
        WagonSpec(train="t", number=1, unit=1, revision=revision, channels=(), dead_letters=None, workers=1)  # type: ignore[arg-type]
    if isinstance(revision, str) and revision.isprintable():
        monkeypatch.setenv("EVENTWAGON_REVISION", revision)
        with pytest.raises(UsageError, match="revision"):
            Train("t")

    async def main() -> None:
        monkeypatch.delenv("EVENTWAGON_REVISION", raising=False)
        async with World().connect(signups([])) as c:
            with pytest.raises(UsageError, match="revision"):
                await c.request_switch(revision=revision)
            assert c.manifest.revision == ""

    run(main())


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True))
def test_a_revision_is_taken(revision: str) -> None:
    assert check_revision(revision) == revision


# --- the door to the manifest --------------------------------------------------------------

_ANY: st.SearchStrategy[Any] = st.one_of(
    odd, st.text(st.characters(codec=None)), st.sampled_from([State.ACTIVE, (), ("a",), (1,), "x" * 20_000])
)


@given(st.sampled_from(Wagon.__struct_fields__), _ANY, st.sampled_from(Manifest.__struct_fields__), _ANY)
def test_any_edit_is_read_back_as_it_is_or_refused_before_it_is_stored(
    field: str, value: Any, outer: str, other: Any
) -> None:
    async def main() -> None:
        world = World()
        async with world.connect(signups([])) as c:
            await c.publish(SignUp("a"))
        async with state_of(world, signups([])) as state:
            base = state.snapshot
            wagon = msgspec.structs.replace(base.manifest.wagons[0], **{field: value})
            edited = msgspec.structs.replace(base.manifest, wagons=(wagon,))
            if outer != "wagons":
                edited = msgspec.structs.replace(edited, **{outer: other})
            try:
                await state.store(Edit(edited), base=base)
            except (Defect, Conflict):
                assert (await world.registry.read("signups")) == base
                return
            stored: Snapshot = await world.registry.read("signups")
            assert decode(encode(stored.manifest)) == stored.manifest

    run(main())


def test_an_edit_that_makes_no_sense_is_a_defect() -> None:
    two = tuple(Wagon(number=n, state=State.ACTIVE, opened_at=0.0, created_at=0.0) for n in (1, 2))
    with pytest.raises(Defect, match="all active"):
        sound(Manifest(train="t", wagons=two, next_number=3))
    with pytest.raises(Defect, match="read again"):
        sound(Manifest(train="t", request=Request(None, 0.0)))  # type: ignore[arg-type]


def test_a_long_or_odd_text_from_elsewhere_is_made_right() -> None:
    wagon = Wagon(number=1, opened_at=0.0, trouble="\ud800" + "x" * 10**6)
    (found,) = sound(Manifest(train="t", wagons=(wagon,), next_number=2)).wagons
    assert found.trouble.startswith("\\ud800x")
    assert len(found.trouble) <= 1001
    fact = StepFailed(train="t", step="\udfff", because="y" * 10**6)
    assert len(encode_entry(sound_entry(Entry(0.0, "me", fact)))) < 2000


@given(st.floats())
def test_figures_of_facts_are_finite(figure: float) -> None:
    entry = Entry(1.0, "me", Switched(train="t", old=1, new=2, pressure=figure, because=""))
    try:
        found = sound_entry(entry)
    except Defect:
        assert not math.isfinite(figure)
    else:
        assert found == entry


# --- reading ------------------------------------------------------------------------------


@given(st.binary())
def test_any_bytes_are_an_entry(data: bytes) -> None:
    entry = decode_entry(data)
    assert sentence(entry.fact)
    assert decode_entry(encode_entry(entry)) == entry


@pytest.mark.parametrize(
    "data",
    [
        b'{"at":5.0,"by":"p","fact":{"fact":"FromTheFuture","train":"t","x":[1]}}',
        b'{"at":5.0,"by":"p","fact":{"fact":"Switched","train":"t"}}',
        b'{"at":5.0,"by":"p","fact":{"fact":"Switched","train":"t","old":1,"new":2,"pressure":null,"because":""}}',
    ],
)
def test_an_entry_of_another_version_is_shown_as_such(data: bytes) -> None:
    entry = decode_entry(data)
    assert isinstance(entry.fact, UnknownFact)
    assert (entry.at, entry.by, entry.fact.train) == (5.0, "p", "t")
    assert entry.fact.kind in sentence(entry.fact)
    assert entry.fact.raw == data.decode()


def test_deep_nesting_is_no_traceback() -> None:
    assert isinstance(decode_entry(b"[" * 100_000).fact, UnknownFact)
    assert decode_members([b"[" * 100_000]) == []
    with pytest.raises(BrokenManifest):
        decode(b'{"train":' + b"[" * 100_000)


def test_a_check_in_that_cant_be_read_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    good = [Member(name="b"), Member(name="a")]
    said = [encode_member(good[0]), b'{"name":3}', b"\xff", b"", encode_member(good[1])]
    assert decode_members(said) == [good[1], good[0]]
    assert decode_members(said) == [good[1], good[0]]
    assert all("is ignored" in line for line in caplog.messages)


def test_a_manifest_that_cant_be_read_says_how_to_go_on() -> None:
    with pytest.raises(BrokenManifest, match=r"manifest of train t .*kept in /x/train.db.*pip install --upgrade"):
        decode(b"{", train="t", kept="/x/train.db")
    two = Manifest(train="t", wagons=(Wagon(number=3, opened_at=0.0),), next_number=2)
    with pytest.raises(BrokenManifest, match="wagon numbers"):
        decode(encode(two))
