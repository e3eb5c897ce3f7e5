"""The rule of events for later: whatever Kafka's compaction takes out of the log, a reader that starts then knows the
same as one that has read everything."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass, field
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from eventwagon.drivers.kafka.later import Add, Later, Tick, Until, claim_of, encode, hold_of
from tests.fuzz import examples

LAG = 3_600_000
"""ms for which a record is not compacted."""
SERIES = ("s", "u")


class Message(NamedTuple):
    offset: int
    time: int
    key: bytes
    value: bytes


@dataclass
class Log:
    """A compacted log, and a process that has read all of it."""

    live: Later = field(default_factory=lambda: Later(1000))
    messages: list[Message] = field(default_factory=list)
    now: int = 0
    offset: int = 0

    def append(self, key: bytes, value: bytes | None) -> bool:
        message = Message(self.offset, self.now, key, value or b"")
        self.offset += 1
        self.messages.append(message)
        return self.live.apply(*message)

    def compacted(self, upto: int) -> list[Message]:
        """The log without what the cleaner may take out of the first `upto` records: what a later one of them replaces;
        and, a day later, records without a value."""
        clean = [m for m in self.messages[:upto] if m.time <= self.now - LAG]
        last = {m.key: m.offset for m in clean}
        kept = [m for m in clean if last[m.key] == m.offset and (m.value or m.time > self.now - 24 * LAG)]
        return kept + self.messages[len(clean) :]


def fresh(messages: list[Message]) -> Later:
    """What a process knows that reads the log now."""
    later = Later(1000)
    for message in messages:
        later.apply(*message)
    return later


def name(number: int) -> bytes:
    return b"r" + number.to_bytes(16, "big")


def check(fresh: Later, live: Later, now: int) -> None:
    """Both know the same of all that decides what happens next."""

    def known(later: Later) -> object:
        claims = [(e.claimed if e.claimed > now else 0, max(e.held, now)) for e in later.entries()]
        entries = [(e.key, e.name, e.time, e.offset) for e in later.entries()]
        return sorted(zip(entries, claims, strict=True)), {series: (s.at, s.name) for series, s in later.series.items()}

    assert known(fresh) == known(live)
    once = {e.key for e in live.entries() if e.claimed}
    assert once <= {e.key for e in fresh.entries() if e.claimed} <= {e.key for e in live.entries() if e.marks}


steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "claim", "hold", "remove", "cancel", "tick", "again", "tidy", "compact", "wait"]),
        st.integers(0, 2),
        st.integers(0, 40_000),
    ),
    min_size=10,
    max_size=60,
)


@given(steps)
@examples(400)
def test_a_fresh_reader_knows_the_same(steps: list[tuple[str, int, int]]) -> None:
    log = Log()
    for number, (what, which, more) in enumerate(steps):
        log.now += 1 + more // 100
        entry = log.live.get(f" {which}")
        if what == "add":
            log.append(name(number), encode(Add(f" {which}", log.now + more - 20_000, b"x" * (which * 400))))
        elif what == "tick":
            series, at = SERIES[which % 2], float(more // 5000)
            event = Add(f" {series}{at}", log.now, b"t") if series in log.live.series else None
            log.append(name(number), encode(Tick(series, at, event)))
        elif what == "again":  # the client may send a record twice
            last = log.messages[-1] if log.messages else None
            if last is not None and last.value and last.key[:1] == b"r":
                log.append(last.key, last.value)
        elif what in ("claim", "hold") and (which == 2 or entry is not None):
            key = entry.name if entry else name(10**6)  # of one that is gone, or never was
            until = Until(log.now + more, what == "claim" and entry is not None and entry.claimed > 0)
            log.append((claim_of if what == "claim" else hold_of)(key), encode(until))
        elif what in ("remove", "cancel"):
            ready = log.live.entries()
            for row in log.live.to_delete(ready[which]) if which < len(ready) else ():
                log.append(*row)
        elif what == "tidy":
            for row in log.live.to_tidy(1 + which):
                log.append(*row)
        elif what == "wait":
            for row in log.live.to_tidy(1000):  # somebody tidies at least once an hour
                log.append(*row)
            log.now += which * LAG * 10
        elif what == "compact":
            log.messages = log.compacted(int(len(log.messages) * more / 40_000))
        for upto in (0, number * 7 % (len(log.messages) + 1), len(log.messages)):
            check(fresh(log.compacted(upto)), log.live, log.now)


def test_nothing_is_left_of_what_is_done() -> None:
    """Events that come and go leave one record for each series, and no litter."""
    log = Log()
    for n in range(50):
        log.now += 1000
        log.append(name(3 * n), encode(Add(" a", log.now, b"x")))
        log.append(name(3 * n + 1), encode(Add(" a", log.now + 5, b"y")))
        log.append(name(3 * n + 2), encode(Tick("s", float(n), Add(f" t{n}", log.now, b"t") if n else None)))
        for entry in log.live.ready(log.now, 10, 1000):
            assert log.append(claim_of(entry.name), encode(Until(log.now + 100)))
            assert not log.append(claim_of(entry.name), encode(Until(log.now + 200)))
            for row in log.live.to_delete(entry):
                log.append(*row)
    for row in log.live.to_tidy(1000):
        log.append(*row)
    log.now += 100 * LAG
    left = log.compacted(len(log.messages))
    assert [message.value for message in left] == [encode(Tick("s", 49.0))]
    assert not log.live.litter
    assert log.live.next_at() is None


def test_an_event_that_was_held_is_ready_once() -> None:
    """Its canceller has died; it comes at its time, or when the hold ends."""
    later = Later(1000)
    for number, due in ((1, 50), (2, 20)):
        later.apply(number, 0, name(number), encode(Add(f" {number}", due, b"x")))
        assert later.apply(10 + number, 5, hold_of(name(number)), encode(Until(40)))
    assert not later.apply(20, 30, claim_of(name(2)), encode(Until(100)))
    assert later.ready(39, 10, 1000) == []
    assert [entry.key for entry in later.ready(50, 10, 1000)] == [" 2", " 1"]
    assert [entry.key for entry in later.ready(50, 10, 1000)] == [" 2", " 1"]


def test_a_tick_that_is_sent_twice_keeps_its_event() -> None:
    later, second = Later(1000), encode(Tick("s", 2.0, Add(" t", 5, b"x")))
    assert later.apply(0, 0, name(1), encode(Tick("s", 1.0)))
    assert [later.apply(offset, 0, name(2), second) for offset in (1, 2)] == [True, True]
    (entry,) = later.entries()
    assert entry.offset == 2
    assert [later.apply(3, 0, key, value or b"") for key, value in later.to_delete(entry)] == [True]
    assert len(later) == 0


def test_what_was_cancelled_takes_no_memory() -> None:
    """Not until it would have been due, either."""
    later, far = Later(1_000_000), 10**12
    tracemalloc.start()
    try:
        for n in range(5000):
            later.apply(2 * n, 0, name(n), encode(Add(f" {n}", far, b"x" * 1000)))
            later.apply(2 * n + 1, 0, name(n), b"")
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 1_000_000
    later.apply(10_000, 0, name(1), encode(Add(" last", far - 1, b"y")))
    assert later.next_at() == far - 1


def test_records_of_others() -> None:
    """What another program wrote is due at once, under a key that nobody else has; a later release's is passed over."""
    later = Later(1000)
    assert not later.apply(7, 5, b"reports", b"\xc1junk")
    assert [(e.key, e.data, e.name) for e in later.ready(1, 10, 1000)] == [(" 7", b"\xc1junk", b"reports")]
    for key, value in ((name(1), b"\x91\xa1z"), (claim_of(name(1)), b"\xc1"), (b"t", b"\x01"), (b"", b"")):
        assert not later.apply(8, 5, key, value)
    assert not later.apply(9, 5, b"other", b"\x91" * 5000)
    assert len(later) == 2
