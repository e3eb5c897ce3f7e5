"""Retries and the circuit breaker: pure, so any history can be tried."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventwagon import Breaker, Retry, Settings, Snooze
from eventwagon.breaker import PATIENCE, USUAL, Again, Circuit, Retries
from eventwagon.errors import AFTER_MOST, UsageError

LUCK = st.floats(0.0, 1.0, exclude_max=True)
DEFAULTS = Settings()
BREAKER = Breaker()
assert DEFAULTS.breaker == BREAKER

handlings = st.lists(
    st.tuples(st.booleans(), st.integers(0, 30), st.floats(0.0, 100.0), LUCK, st.integers(1, 8)), max_size=80
)
"""Each: whether it succeeded, of which event, seconds after the one before, luck, the attempt."""


def circuit(attempts: int | None = None, breaker: Breaker | None = BREAKER) -> Circuit:
    return Circuit("mail", breaker, Retries(attempts, DEFAULTS.backoff, DEFAULTS.backoff_most))


def opened(attempts: int | None = None) -> tuple[Circuit, float]:
    """A circuit that opened, and when."""
    c = circuit(attempts)
    for n in range(BREAKER.last):
        c.failed(f"first-{n}", 1, 100.0 + n / 100, 0.5, because="away")
    assert c.opened_at is not None
    return c, c.opened_at


@given(handlings)
def test_it_opens_only_above_its_figures(history: list[tuple[bool, int, float, float, int]]) -> None:
    c, now, seen = circuit(), 0.0, list[tuple[float, int | None]]()
    for ended_well, event, pause, luck, attempt in history:
        now += pause
        if ended_well:
            c.succeeded(str(event), now, now)
            seen.append((now, None))
            continue
        c.failed(str(event), attempt, now, luck, because="away")
        seen.append((now, event))
        counting = [x for x in seen[-BREAKER.last :] if x[0] >= now - BREAKER.within]
        failed = [x[1] for x in counting if x[1] is not None]
        enough = len(counting) == BREAKER.last or (
            len(counting) >= BREAKER.least and now - counting[0][0] >= BREAKER.sparse
        )
        due = enough and len(failed) >= 0.8 * len(counting) - 1e-9 and len(set(failed)) >= BREAKER.events
        assert (c.opened_at is not None) == due
        if due:
            return


@given(st.integers(3, 20), st.floats(0.0, 2.9), LUCK)
def test_it_opens_when_all_of_the_last_twenty_failed(events: int, pause: float, luck: float) -> None:
    c = circuit()
    for n in range(50):
        c.succeeded(f"{n}", 0.0, 0.0)
    for n in range(20):
        c.failed(f"bad-{n % events}", 1, n * pause, luck, because="away")
    assert c.opened_at is not None
    assert "the last: away" in c.because


@given(st.integers(1, 100), st.floats(0.0, 30.0))
def test_two_bad_events_never_open_it(failures: int, pause: float) -> None:
    c = circuit()
    for n in range(failures):
        c.failed(f"bad-{n % 2}", 1, n * pause, 0.5, because="bad")
    assert c.opened_at is None


@given(st.lists(LUCK, min_size=1, max_size=40))
def test_probes_come_one_at_a_time_after_pauses_that_grow_and_are_bounded(lucks: list[float]) -> None:
    c, now = opened()
    first = c.due - now
    assert BREAKER.pause / 2 <= first <= BREAKER.pause
    for n, luck in enumerate(lucks, 1):
        assert (c.held, c.room) == (True, 0)
        assert not c.look((now + c.due) / 2)
        now = c.due
        assert c.look(now)
        assert (c.held, c.room > 0) == (False, True)
        c.take("probe")
        assert (c.held, c.room) == (True, 0)
        assert not c.look(now + 1e6), "one at a time"
        again = c.failed("other", 1, now, luck, because="was in flight")
        assert again is not None
        assert not again.counts
        assert (c.probe, c.probes) == ("probe", n - 1)
        again = c.failed("probe", 1, now, luck, because="away")
        assert again is not None
        assert not again.counts
        whole = min(BREAKER.pause_most, BREAKER.pause * 2.0**n)
        assert whole / 2 - 1e-6 <= c.due - now <= whole + 1e-6


@given(st.integers(0, 20), st.booleans())
def test_the_first_success_closes_it(failed_probes: int, by_a_probe: bool) -> None:
    c, now = opened()
    for _ in range(failed_probes):
        now = c.due
        c.look(now)
        c.take("probe")
        c.failed("probe", 1, now, 0.5, because="away")
    if by_a_probe:
        now = c.due
        c.look(now)
        c.take("probe")
    assert c.succeeded("probe", now, now)
    assert (c.opened_at, c.held, c.because, c.probe) == (None, False, "", None)
    c.failed("other", 1, now, 0.5, because="away")
    assert c.opened_at is None, "what was before does not count any more"


@given(st.booleans())
def test_what_says_nothing_of_the_channel_lets_the_next_probe_go(gone: bool) -> None:
    c, now = opened()
    c.look(c.due)
    c.take("probe")
    assert not c.passed("another", gone=gone)
    assert c.passed("probe", gone=gone)
    assert not c.held
    assert c.opened_at == now


@given(st.integers(0, 99))
def test_bad_events_can_not_keep_good_ones_from_being_the_probe(bad: int) -> None:
    """However many bad ones come first: so many are fetched that a good one is among them, and it is taken in its
    turn."""
    c, _ = opened()
    for n in range(bad):
        c.failed(f"bad-{n}", 1, 101.0, 0.5, because="bad")
    chosen = []
    for _ in range(2):
        c.look(c.due)
        at_hand = [*list(c.failing), "good"][-c.room :]
        assert "good" in at_hand
        chosen.append(at_hand[c.choose(at_hand)])
        c.take(chosen[-1])
        c.failed(chosen[-1], 1, c.due, 0.5, because="away")
    assert chosen[0] == "good"
    assert chosen[1] != "good" or len(c.failing) == 1


# --- giving up ------------------------------------------------------------------------------


@given(st.integers(1, 10), st.lists(LUCK, min_size=12, max_size=12), st.booleans())
def test_attempts_that_were_given_are_exact(attempts: int, lucks: list[float], works: bool) -> None:
    c = circuit(attempts)
    for attempt in range(1, attempts + 1):
        again = c.failed("bad", attempt, attempt * 1.0, lucks[attempt], because="bad")
        if works:
            c.succeeded("good", attempt * 1.0, attempt * 1.0)
        assert (again is None) == (attempt == attempts)
        assert again is None or again.counts


def test_one_attempt_is_one_whatever_happens() -> None:
    c, now = opened(attempts=1)
    c.look(c.due)
    c.take("probe")
    assert c.failed("probe", 1, now, 0.5, because="away") is None


@given(st.lists(LUCK, min_size=200, max_size=200))
def test_alone_an_event_outlives_ten_minutes_and_dies_within_eleven(lucks: list[float]) -> None:
    c, now, attempt = circuit(), 1000.0, 1
    for luck in lucks:
        again = c.failed("alone", attempt, now, luck, because="away")
        if again is None:
            break
        attempt += again.counts
        assert attempt <= USUAL
        assert 0.25 <= again.pause <= DEFAULTS.backoff_most
        now += again.pause
    assert PATIENCE <= now - 1000.0 <= PATIENCE + DEFAULTS.backoff_most


@given(st.lists(LUCK, min_size=USUAL, max_size=USUAL), st.integers(0, USUAL - 1))
def test_beside_others_that_succeed_it_dies_soon(lucks: list[float], after: int) -> None:
    """Where one that began after its first failure succeeded, be it only one."""
    c, now = circuit(), 1000.0
    again: Again | None = None
    for attempt, luck in enumerate(lucks, 1):
        again = c.failed("bad", attempt, now, luck, because="bad")
        if attempt - 1 == min(after, USUAL - 2):
            c.succeeded("good", now, now)
        if again is not None:
            now += again.pause
    assert again is None
    assert now - 1000.0 <= 8.0


def test_what_began_before_its_first_failure_is_no_evidence() -> None:
    """A slow handler may have used the service before it went away."""
    c = circuit()
    for attempt in range(1, USUAL + 1):
        again = c.failed("event", attempt, 10.0 * attempt, 0.5, because="away")
        c.succeeded("slow", 9.0, 10.0 * attempt + 1)
    assert again is not None
    assert not again.counts


def test_what_succeeded_before_the_breaker_opened_is_no_evidence() -> None:
    c = circuit()
    c.failed("event", 1, 10.0, 0.5, because="a reason of its own")
    c.succeeded("good", 11.0, 11.0)
    for n in range(20):
        c.failed(f"{n}", 1, 12.0, 0.5, because="away")
    assert c.opened_at is not None
    c.succeeded("good", 9.0, 13.0)  # closed by one that began long before
    again = c.failed("event", USUAL, 14.0, 0.5, because="away")
    assert again is not None
    assert not again.counts


def test_what_a_handler_asks_for_is_the_pause() -> None:
    c = circuit()
    assert c.failed("event", 1, 0.0, 0.5, because="", after=7.0) == Again(7.0, True)
    assert c.failed("event", USUAL, 0.0, 0.5, because="", after=7.0) == Again(7.0, False)
    assert c.uncounted("event") == 1
    opened_one, _ = opened()
    assert opened_one.failed("event", 1, 0.0, 0.5, because="", after=7.0) == Again(7.0, False)


@given(st.integers(1, 10**9), LUCK, st.floats(0.0, 1e6), st.floats(0.0, 1e6))
def test_a_pause_is_never_less_than_half_and_never_too_long(
    failures: int, luck: float, backoff: float, most: float
) -> None:
    pause = Retries(None, backoff, most).pause(failures, luck)
    whole = min(most, backoff * 2.0 ** min(failures - 1, 60))
    assert whole / 2 <= pause <= whole


def test_what_is_remembered_is_bounded() -> None:
    c = circuit(breaker=None)
    for n in range(5000):
        c.failed(str(n), 1, float(n), 0.5, because="away")
    assert len(c.failing) <= 1000


# --- figures and arguments --------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"last": 0},
        {"last": True},
        {"least": 21},
        {"events": 21},
        {"events": 0},
        {"share": 0.0},
        {"share": 1.1},
        {"share": math.nan},
        {"within": 0},
        {"within": math.inf},
        {"sparse": -1.0},
        {"pause": 0.0},
        {"pause": "1"},
        {"pause": 5.0, "pause_most": 4.0},
        {"pause_most": True},
    ],
)
def test_wrong_figures_are_usage_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="Breaker: "):
        Breaker(**wrong)


@pytest.mark.parametrize("wrong", [True, {}, 20, "Breaker()"])
def test_a_wrong_breaker_is_a_usage_error(wrong: Any) -> None:
    with pytest.raises(UsageError, match="breaker="):
        Settings(breaker=wrong)


@pytest.mark.parametrize(
    "wrong", [math.nan, math.inf, -math.inf, -1, True, "5", b"5", 365 * 86400, 2**70, [], AFTER_MOST + 1]
)
def test_wrong_pauses_are_usage_errors(wrong: Any) -> None:
    with pytest.raises(UsageError, match="after must be a number of seconds"):
        Retry(after=wrong)
    with pytest.raises(UsageError, match="after must be a number of seconds"):
        Snooze(after=wrong)


def test_a_snooze_says_when() -> None:
    with pytest.raises(UsageError):
        Snooze(after=None)  # type: ignore[arg-type]
    assert Retry().after is None
    assert str(Retry(1, "busy")) == "busy"
    assert Snooze(AFTER_MOST).after == AFTER_MOST
