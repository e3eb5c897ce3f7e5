"""The rule of the claims log against a model that is too simple to be wrong; and what snapshots must not change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from eventwagon.drivers.kafka.claims import Grant, WagonClaims
from eventwagon.drivers.kafka.proposals import (
    FORMAT,
    Claim,
    Extend,
    Member,
    Op,
    Release,
    Settle,
    Void,
    encode,
    held_of,
    runs_of,
)
from tests.fuzz import examples

Place = tuple[int, int]


@dataclass
class Row:
    """One event of the model."""

    attempt: int = 0
    claim: int = 0
    due: int | None = None  # claimed until
    again: int | None = None  # back, to be had from then
    suspect: bool = False
    alone: bool = False
    owner: str = ""

    def run_out(self, at: int) -> None:
        self.attempt, self.again, self.due = self.attempt + self.alone, at, None
        self.suspect, self.alone, self.owner = True, False, ""


@dataclass
class Model:
    """A channel of two partitions, an event at a time."""

    format: int = 1
    rows: dict[Place, Row] = field(default_factory=dict)  # not settled, claimed at least once
    done: set[Place] = field(default_factory=set)
    voids: set[Place] = field(default_factory=set)
    lost: set[Place] = field(default_factory=set)
    fresh: list[int] = field(default_factory=lambda: [0, 0])
    claims: int = 0

    def expire(self, now: int) -> None:
        for row in self.rows.values():
            if row.due is not None and row.due <= now:
                row.run_out(row.due)

    def reclaim(self, owner: str, now: int) -> None:
        self.expire(now)
        for row in self.rows.values():
            if row.due is not None and row.owner == owner:
                row.run_out(now)

    def claim(self, op: Claim, now: int, turn: int) -> dict[Place, tuple[int, int, bool]]:
        self.claims += 1
        self.expire(now)
        named = {0, 1} if self.format == 1 else {p for p, _ in op.ends}
        rows = [(at, r) for at, r in self.rows.items() if at[0] in named]
        due = [(at, r) for at, r in rows if r.again is not None and r.again <= now]
        suspects = [at for *_, at in sorted((-r.attempt, r.again, at) for at, r in due if r.suspect)]
        back = sorted((r.again, *at) for at, r in due if not r.suspect)
        got = suspects[:1] if op.suspect_first else []
        alone = bool(got)
        got = got or [(p, offset) for _, p, offset in back[: op.limit]]
        for i in range(0 if alone else len(op.ends)):
            p, end = op.ends[(turn + i) % len(op.ends)]
            while len(got) < op.limit and self.fresh[p] < end:
                at = (p, self.fresh[p])
                self.fresh[p] += 1
                if at not in self.voids | self.lost:
                    self.rows[at] = Row(attempt=1)
                    got.append(at)
            self.pass_over()
        got = got or suspects[:1]
        for at in got:
            row = self.rows[at]
            row.claim, row.due, row.again, row.owner = self.claims, now + op.visibility, None, op.owner
        return {at: (self.rows[at].attempt, self.claims, self.rows[at].suspect) for at in got}

    def settle(self, places: list[Place]) -> None:
        for at in places:
            if at in self.rows:
                del self.rows[at]
                self.done.add(at)

    def void(self, places: list[Place]) -> None:
        for p, offset in places:
            if offset >= self.fresh[p] or (p, offset) in self.rows:
                self.rows.pop((p, offset), None)
                self.voids |= {(p, offset)} - self.lost
        self.pass_over()

    def lose(self, places: list[Place], now: int) -> None:
        self.expire(now)
        for p, offset in places:
            row = self.rows.get((p, offset))
            if offset >= self.fresh[p] or (row is not None and row.again is not None):
                self.rows.pop((p, offset), None)
                self.lost |= {(p, offset)} - self.voids
        self.pass_over()

    def pass_over(self) -> None:
        for p in (0, 1):
            while (p, self.fresh[p]) in self.voids | self.lost:
                self.fresh[p] += 1

    def claim_of(self, at: Place) -> int:
        return self.rows[at].claim if at in self.rows else 0

    def mine(self, tokens: list[tuple[int, int, int]], now: int) -> list[Row]:
        self.expire(now)
        found = [self.rows.get((p, o)) for p, o, c in tokens if (r := self.rows.get((p, o))) and r.claim == c]
        return [row for row in found if row is not None and row.due is not None]


places = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 30)), min_size=1, max_size=8, unique=True)
spans = st.integers(0, 60)
steps = st.lists(
    st.tuples(
        st.integers(0, 30),  # ms since the step before
        st.one_of(
            st.tuples(
                st.just("claim"),
                st.integers(1, 12),
                st.integers(1, 60),
                st.integers(0, 25),
                st.integers(0, 25),
                st.booleans(),
                st.sampled_from(["", "a", "b"]),
                st.sampled_from([(0, 1), (0,), (1,)]),
            ),
            st.tuples(st.just("reclaim"), st.sampled_from(["a", "b"])),
            st.tuples(st.just("alone"), places, st.integers(0, 3)),
            st.tuples(st.just("settle"), places, st.integers(0, 3)),
            st.tuples(st.just("void"), places),
            st.tuples(st.just("lose"), places),
            st.tuples(st.just("release"), places, spans, st.booleans(), st.integers(0, 3)),
            st.tuples(st.just("extend"), places, st.integers(1, 60), st.integers(0, 3)),
            st.tuples(st.just("reload")),
        ),
    ),
    max_size=40,
)


@examples(150)
@given(steps, st.sampled_from([1, 2]))
def test_the_rule_is_the_models(script: list[tuple[int, Any]], number: int) -> None:
    model, claims, now = Model(format=number), WagonClaims(), 1000
    if number == 2:
        claims.apply(0, now, encode([FORMAT]))
    for offset, (later, step) in enumerate(script):
        now += later
        if step[0] == "reload":
            fresh = WagonClaims()
            fresh.load(claims.dump())
            assert fresh.dump() == claims.dump()
            claims = fresh
            continue
        got = apply(model, claims, step, now, offset)
        assert same(model, claims, now), (step, got)


def apply(model: Model, claims: WagonClaims, step: Any, now: int, offset: int) -> dict[Place, tuple[int, int, bool]]:
    """Do the step in both; what was claimed is the same."""
    op: Op
    if step[0] == "claim":
        ends = [at for at in ((0, step[3]), (1, step[4])) if at[0] in step[7]]
        op = Claim("", step[1], step[2], ends, step[5], step[6])
        expected = model.claim(op, now, offset)
        ((_, grants),) = claims.apply(offset, now, encode([Member("m"), op] if model.format == 2 else [op]))
        assert spread(grants) == expected
        return expected
    if step[0] == "settle":
        numbers = {at: model.claim_of(at) for at in step[1]}
        model.settle(step[1])
        op = Settle("", runs_of(step[1]))
        if model.format == 2:  # by their claims, or by others that are long over
            op = Settle("", [], held_of((*at, max(1, numbers[at] - step[2])) for at in step[1]))
    elif step[0] == "void":
        model.void(step[1])
        op = Void("", runs_of(step[1]))
    elif step[0] == "lose":
        model.lose(step[1], now)
        op = Void("", runs_of(step[1]), lost=True)
    elif step[0] == "reclaim":
        model.reclaim(step[1], now)
        op = Release("", [], 0, False, step[1])
    else:
        ago = step[-1]
        tokens = [(*at, max(0, model.claim_of(at) - ago)) for at in step[1]]
        if step[0] == "release":
            for row in model.mine(tokens, now):
                row.attempt, row.again, row.due = row.attempt + step[3], now + step[2], None
                row.suspect, row.alone, row.owner = row.suspect and not step[3], False, ""
            op = Release("", held_of(tokens), step[2], step[3])
        elif step[0] == "alone":
            rows = model.mine(tokens, now)
            for row in rows:
                row.alone = True
            ((_, stands),) = claims.apply(offset, now, encode([Extend("", held_of(tokens), 0, True)]))
            assert bool(stands) == bool(rows)
            return {}
        else:
            for row in model.mine(tokens, now):
                row.due = now + step[2]
            op = Extend("", held_of(tokens), step[2])
    claims.apply(offset, now, encode([op]))
    return {}


def spread(grants: list[Grant]) -> dict[Place, tuple[int, int, bool]]:
    found = {(g.partition, o): (g.attempt, g.claim, g.suspect) for g in grants for o in range(g.start, g.stop)}
    assert len(found) == sum(g.stop - g.start for g in grants)
    return found


def same(model: Model, claims: WagonClaims, now: int) -> bool:
    channel = claims.channel("")
    rows = model.rows.values()
    again = sum(1 for r in rows if r.again is not None or (r.due is not None and r.due <= now))
    dues = [r.again if r.again is not None else r.due for r in rows]
    assert channel.settled == len(model.done)
    assert channel.voids == len(model.voids)
    assert channel.lost == len(model.lost)
    assert channel.held() == len(model.rows)
    for p in (0, 1):
        left = sorted(offset for at, offset in model.rows if at == p)
        unsettled = channel.partition(p).unsettled()
        assert [offset for start, stop in unsettled for offset in range(start, stop)] == left
        assert channel.partition(p).first_unsettled() == min([*left, model.fresh[p]])
        waiting = [o for (at, o), r in model.rows.items() if at == p and (r.again is not None or (r.due or 0) <= now)]
        ahead = [o for o in range(model.fresh[p], 40) if (p, o) not in model.voids | model.lost]
        expected = (min(waiting + ahead), max([*waiting, model.fresh[p], *ahead])) if waiting + ahead else None
        assert channel.partition(p).waiting_span(40, now) == expected
    assert channel.waiting_again(now) == again
    assert channel.due() == min((due for due in dues if due is not None), default=float("inf"))
    assert [channel.partition(p).fresh for p in (0, 1)] == model.fresh
    return True


def test_a_readers_start_makes_no_difference() -> None:
    """What was released in pieces is given out in the same order by whoever read all and whoever began with a
    snapshot."""
    claims = WagonClaims()
    claims.apply(0, 10, encode([Claim("", 10, 1000, [(0, 10)])]))
    claims.apply(1, 20, encode([Settle("", [(0, 3, 5)])]))
    claims.apply(2, 20, encode([Release("", [(0, 7, 8, 1)], 5, True), Release("", [(0, 0, 7, 1)], 5, True)]))
    later = WagonClaims()
    later.load(claims.dump())
    one = claims.apply(3, 30, encode([Claim("", 4, 1000, [(0, 10)])]))
    other = later.apply(3, 30, encode([Claim("", 4, 1000, [(0, 10)])]))
    assert one == other
    assert [(g.start, g.stop, g.attempt) for g in one[0][1]] == [(0, 3, 2), (5, 6, 2)]


def test_memory_grows_with_what_is_held_only() -> None:
    claims = WagonClaims()
    for turn in range(3000):
        claims.apply(2 * turn, turn, encode([Claim("", 10, 10**9, [(0, 10 * turn + 10)])]))
        claims.apply(2 * turn + 1, turn, encode([Settle("", [(0, 10 * turn, 10 * turn + 10)])]))
    channel = claims.channel("")
    assert (channel.settled, channel.held()) == (30_000, 0)
    assert channel.expiring() <= 1001
    assert len(claims.dump()) < 100


def test_records_and_snapshots_of_an_earlier_release_are_read() -> None:
    """They lack the last fields. And that release reads ours over the fields that it does not know."""
    claims = WagonClaims()
    claims.load(
        msgspec.msgpack.encode((50, 3, {"": (2, 0, [(0, 9, [], [(2, 5, 1, 1, 40, False), (7, 9, 0, 2, 30, True)])])}))
    )
    old = msgspec.msgpack.encode([("c", "", 10, 1000, [(0, 9)])])
    assert spread(claims.apply(0, 60, old)[0][1]) == {(0, 7): (2, 4, False), (0, 8): (2, 4, False)}
    suspect = claims.apply(1, 60, encode([Claim("", 10, 1000, [(0, 9)], True, "a")]))[0][1]
    assert suspect == [Grant(0, 2, 3, 1, 5, True)]
    state = msgspec.msgpack.decode(claims.dump())
    assert state[2][""][:2] == [2, 0]
    assert all(len(run) == 6 for *_, runs in state[2][""][2] for run in runs)
    assert msgspec.msgpack.decode(encode([Release("", [], 0, False, "a")]))[0][:5] == ["r", "", [], 0, False]


def test_a_clock_that_goes_back_takes_no_claim_away() -> None:
    claims = WagonClaims()
    claims.apply(0, 1000, encode([Claim("", 1, 100, [(0, 1)])]))
    claims.apply(1, 500, encode([Extend("", [(0, 0, 1, 1)], 100)]))
    assert claims.channel("").due() == 1100
    assert claims.now == 1000
