"""What holds for every limit and every reading."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventwagon.contracts.reading import Reading, Sample
from eventwagon.errors import UsageError
from eventwagon.limits import Age, All, Any_, Lag, Limit, Throughput, Volume, Wait, capacity, parse_limit, slo

counts = st.integers(1, 10**9)
positive = st.floats(1e-3, 1e9, allow_nan=False)
simple: st.SearchStrategy[Limit] = st.one_of(
    st.builds(Volume, counts),
    st.builds(Age, positive),
    st.builds(Lag, counts),
    st.builds(Throughput, positive, seconds=st.floats(0.01, 45.0), low=st.floats(0.01, 1.0)),
    st.builds(Wait, positive, cut=positive),
)

pytestmark = pytest.mark.filterwarnings("ignore:.* is in seconds")  # any number is thrown at them
limits = st.recursive(simple, lambda inner: st.builds(Any_, inner, inner) | st.builds(All, inner, inner), max_leaves=5)


@st.composite
def samples(draw: st.DrawFn) -> tuple[Sample, ...]:
    """Looks at a wagon: time and totals only grow."""
    at, published, settled, found = draw(st.floats(0, 2e9)), 0, 0, []
    for step, more, done in draw(
        st.lists(st.tuples(st.floats(0.01, 5), st.integers(0, 5000), st.integers(0, 5000)), max_size=40)
    ):
        at, published = at + step, published + more
        settled = min(published, settled + done)
        found.append(Sample(at, published, settled, published - settled))
    return tuple(found)


@st.composite
def readings(draw: st.DrawFn) -> Reading:
    published = draw(st.none() | st.integers(0, 10**9))
    settled = draw(st.none() | st.integers(0, published or 0))
    figure = st.none() | st.integers(0, 10**9)
    age = st.floats(0, 1e6)
    return Reading(
        number=1,
        at=2e9,
        age=draw(age),
        published=published,
        settled=settled,
        waiting=draw(figure),
        in_flight=draw(figure),
        oldest_age=draw(st.none() | age),
        newest_age=draw(st.none() | age),
        settle_rate=draw(st.none() | st.floats(0, 1e6)),
        samples=draw(samples()),
    )


def replace(reading: Reading, **changes: Any) -> Reading:
    return msgspec.structs.replace(reading, **changes)


def value(limit: Limit, reading: Reading) -> float:
    return limit.measure(reading).value


@given(limits, readings())
@example(Wait(1.0), Reading(number=1, at=2e9, age=0.0, published=1, settled=0, settle_rate=5e-324))
def test_pressure_is_a_number_from_0_up_with_a_reason(limit: Limit, reading: Reading) -> None:
    pressure = limit.measure(reading)
    assert pressure.value >= 0
    assert math.isfinite(pressure.value)
    assert pressure.why


@given(limits)
def test_nothing_known_is_no_pressure(limit: Limit) -> None:
    assert value(limit, Reading(number=1, at=2e9, age=0.0)) == 0


@given(limits, limits, readings())
def test_or_is_the_fuller_and_the_emptier(a: Limit, b: Limit, reading: Reading) -> None:
    assert value(Any_(a, b), reading) == max(value(a, reading), value(b, reading))
    assert value(All(a, b), reading) == min(value(a, reading), value(b, reading))


def test_operators_make_them() -> None:
    assert Volume(1) | Age(2) | Lag(3) == Any_(Any_(Volume(1), Age(2)), Lag(3))
    assert Volume(1) & Age(2) == All(Volume(1), Age(2))
    with pytest.raises(UsageError, match="measure"):
        Volume(1) | 3  # type: ignore[operator]


@given(readings(), st.integers(1, 10**6))
def test_monotone_in_what_they_are_about(reading: Reading, more: int) -> None:
    known = replace(reading, published=reading.published or 0, settled=reading.settled or 0)
    fuller = replace(known, published=(known.published or 0) + more)
    older = replace(known, age=known.age + more)
    for limit, later in ((Volume(1000), fuller), (Lag(1000), fuller), (Wait(2.0), fuller), (Age(60), older)):
        assert value(limit, later) >= value(limit, known)
    slower = replace(known, settle_rate=1.0)
    faster = replace(known, settle_rate=1.0 + more)
    assert value(Wait(2.0), slower) >= value(Wait(2.0), faster)


@given(limits)
def test_what_is_written_can_be_read(limit: Limit) -> None:
    again = parse_limit(repr(limit))
    assert repr(again) == repr(limit)  # `a | (b | c)` may come back as `(a | b) | c`, which is the same
    assert (capacity(again), slo(again)) == (capacity(limit), slo(limit))


@given(simple, simple, simple)
def test_what_is_written_is_equal(a: Limit, b: Limit, c: Limit) -> None:
    for limit in (a, Any_(a, b), All(a, b), Any_(Any_(a, b), c), All(Any_(a, b), c), Any_(All(a, b), c)):
        assert parse_limit(repr(limit)) == limit


@given(limits, readings())
def test_what_is_written_measures_alike(limit: Limit, reading: Reading) -> None:
    assert value(parse_limit(repr(limit)), reading) == value(limit, reading)


@given(st.text(alphabet="VolumeAgLWait()|&,=.0123456789 _-'\"[]{}*+\n\0x", max_size=40))
def test_what_cannot_be_read_is_a_usage_error(text: str) -> None:
    with suppress(UsageError):
        assert isinstance(parse_limit(text), Limit)


@pytest.mark.parametrize(
    "text",
    [
        "Volume(0)",
        "Volume(1.5)",
        "Volume()",
        "Age(-1)",
        "Age('x')",
        "Wait(1, cut=0)",
        "Lag(True)",
        "Throughput(1, low=2)",
        "Throughput(1, low='x')",
        "Volume(1) + Age(2)",
        "print(1)",
        "Volume(print(1))",
        "",
        "x.Volume(1)",
    ],
)
def test_wrong_limits_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError):
        parse_limit(text)


@given(limits, readings())
def test_full_at_its_capacity(limit: Limit, reading: Reading) -> None:
    bound = capacity(limit)
    if bound is not None:
        assert value(limit, replace(reading, published=bound)) >= 1


# --- Throughput ---------------------------------------------------------------------------


def looks(*stretches: tuple[float, float], every: float = 0.1) -> Reading:
    """A reading of a wagon that took events at `rate` for `seconds`, stretch by stretch."""
    at, published = 1000.0, 0.0
    found = [Sample(at, 0, 0, 0)]
    for rate, seconds in stretches:
        for _ in range(round(seconds / every)):
            at, published = at + every, published + rate * every
            found.append(Sample(at, round(published), 0, 0))
    return Reading(number=1, at=at, age=at - 1000.0, published=round(published), settled=0, samples=tuple(found))


LIMIT = Throughput(1000, seconds=4.0, low=0.8)


@given(st.floats(1010, 1e6), st.floats(4.2, 30))
def test_sustained_is_full(rate: float, seconds: float) -> None:
    assert value(LIMIT, looks((rate, seconds))) >= 1


@given(st.floats(1, 1e6), st.floats(0.5, 3.6))
def test_a_short_burst_is_not(rate: float, seconds: float) -> None:
    assert value(LIMIT, looks((rate, seconds))) < 1
    assert (
        value(LIMIT, looks((10, 5.0), (rate, seconds - 0.3))) < 1 + 1.0 / 4
    )  # its windows blur a quarter of `seconds`


@given(st.floats(0, 990), st.floats(1, 30))
def test_below_the_mark_it_never_fills(rate: float, seconds: float) -> None:
    assert value(LIMIT, looks((rate, seconds))) == 0


@given(st.floats(820, 999), st.floats(0.2, 2.0))
def test_a_dip_above_low_is_forgiven(dip: float, seconds: float) -> None:
    assert value(LIMIT, looks((1100, 2.2), (dip, seconds), (1100, 2.2))) >= 1


@given(st.floats(0, 700), st.floats(2.0, 5.0))
def test_a_dip_below_low_begins_anew(dip: float, seconds: float) -> None:
    assert value(LIMIT, looks((1100, 8.0), (dip, seconds), (1100, 1.0))) < 1
    assert value(LIMIT, looks((1100, 8.0), (dip, seconds))) == 0


# --- Wait ---------------------------------------------------------------------------------


@given(st.floats(0, 100), st.integers(0, 10**6))
def test_a_cold_start_goes_by_the_next_events_age(age: float, outstanding: int) -> None:
    reading = Reading(number=1, at=0.0, age=1.0, published=outstanding, settled=0, oldest_age=age)
    for rate in (None, 0.0):
        assert value(Wait(4.0), replace(reading, settle_rate=rate)) == age / 2.0
    assert value(Wait(4.0), replace(reading, published=None)) == age / 2.0


@given(st.integers(0, 10**6), st.floats(0.1, 1e5), st.floats(0, 1e4))
def test_a_known_rate_decides_alone(outstanding: int, rate: float, age: float) -> None:
    reading = Reading(number=1, at=0.0, age=1.0, published=outstanding, settled=0, oldest_age=age, settle_rate=rate)
    assert value(Wait(4.0), reading) == outstanding / rate / 2.0


def test_the_strictest_promise_counts() -> None:
    assert slo(Wait(3) | Volume(1) | Wait(2) & Age(1)) == 2
    assert slo(Volume(1)) is None


@pytest.mark.parametrize("wrong", [0, -1, 1.1, "x", None, float("nan"), True])
def test_a_wrong_low_mark_is_a_usage_error(wrong: Any) -> None:
    with pytest.raises(UsageError, match="low"):
        Throughput(1000, low=wrong)
