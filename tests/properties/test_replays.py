"""Replays by any interleaving of feeders, kills, pauses and observers: each event is published, once where a sealed
wagon gets nothing more and the archive knows which events it got; whatever the broker stores twice."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from eventwagon.contracts.facts import ReplayEnded
from eventwagon.contracts.lifecycle import Move, State
from eventwagon.contracts.manifest import Manifest, Wagon, changed, decode, encode, moved
from eventwagon.contracts.replay import PastEvents, Replay
from eventwagon.policy.edits import Edit, removed, sealed
from eventwagon.policy.replays import (
    cancelled,
    claimed,
    fed,
    let_go,
    recounted,
    requested,
    run_replays,
    to_feed,
    torn,
)

_BATCH = 3


class _Train:
    """A manifest, what the wagons got, and two processes, each with what it has last seen."""

    def __init__(self, count: int, *, exact: bool) -> None:
        wagon = Wagon(number=1, state=State.ACTIVE, opened_at=0.0, created_at=0.0, turn=1)
        self.manifest = Manifest(train="t", wagons=(wagon,), next_number=2, turns=1)
        self.exact = exact
        self.stored: dict[int, list[int]] = {}
        """By wagon: the places of the events that it got. The archive has them once the wagon is gone."""
        self.copies = 0
        """Events that the broker stored twice in one call."""
        self.sealed: set[int] = set()
        self.lives = {"a": 0, "b": 0}
        self.seen: dict[str, Replay | None] = {}
        self.ended: list[ReplayEnded] = []
        self.kills = 0
        made = Replay(number=0, of=PastEvents(wagon=9), count=count, why="w", at=0.0)
        self.take(requested(self.manifest, made, "all"))
        (self.replay,) = (r.number for r in self.manifest.replays)
        for _ in range(2):
            self.observe()
            self.work()

    def take(self, edit: Edit) -> None:
        self.manifest = decode(encode(edit.manifest), train="t")
        self.ended += [f for f in edit.facts if isinstance(f, ReplayEnded)]

    def name(self, who: str) -> str:
        return f"{who}{self.lives[who]}"

    def alive(self) -> set[str]:
        return {self.name(who) for who in self.lives}

    def look(self, who: str) -> None:
        self.seen[who] = to_feed(self.manifest)

    def claim(self, who: str) -> None:
        if (replay := self.seen.get(who)) is not None and replay.feeder != self.name(who):
            self.take(claimed(self.manifest, replay, self.name(who), self.alive(), exact=self.exact))

    def publish(self, who: str, *, counted: bool, twice: bool = False) -> None:
        """From what it has seen: a stale feeder is refused by nothing but a seal."""
        replay = self.seen.get(who)
        if replay is None or replay.feeder != self.name(who):
            return
        if replay.torn:
            self.recount(who, replay, counted=counted)
            return
        if replay.is_over:
            self.leave(who)
            return
        end = min(replay.count, replay.fed + _BATCH)
        if replay.wagon in self.sealed or self.manifest.wagon(replay.wagon) is None:
            assert self.exact, "a wagon was sealed that a living process feeds"
            self.take(torn(self.manifest, self.replay, self.name(who), "refused"))
            self.seen[who] = None
            return
        self.stored.setdefault(replay.wagon, []).extend(range(replay.fed, end))
        if twice:
            self.copies += 1
            self.stored[replay.wagon].extend(range(replay.fed, end))
        if counted:
            self.take(fed(self.manifest, self.replay, self.name(who), end))
            self.seen[who] = msgspec.structs.replace(replay, fed=end)
        else:
            self.kill(who)

    def recount(self, who: str, replay: Replay, *, counted: bool) -> None:
        """Ask the archive which events the wagon got."""
        assert self.manifest.wagon(replay.wagon) is None, "its wagon is not archived yet"
        if not counted:
            self.kill(who)
            return
        got, count = set(self.stored.get(replay.wagon, ())), replay.fed
        while count in got:
            count += 1
        self.take(recounted(self.manifest, self.replay, self.name(who), replay.wagon, count))
        self.seen[who] = None

    def kill(self, who: str) -> None:
        self.lives[who] += 1
        self.kills += 1
        self.seen.pop(who, None)

    def leave(self, who: str) -> None:
        self.take(let_go(self.manifest, self.replay, self.name(who)))
        self.lives[who] += 1
        self.seen.pop(who, None)

    def observe(self) -> None:
        self.take(run_replays(self.manifest, 1.0))

    def work(self) -> None:
        """A step of each of the replay's wagons."""
        for wagon in [w for w in self.manifest.wagons if w.replay]:
            if wagon.state is State.PROVISIONING:
                ready = changed(self.manifest, wagon.number, created_at=1.0)
                self.take(Edit(moved(ready, wagon.number, Move.MADE_READY, ready_at=1.0)))
            elif wagon.state is State.DRAINING and wagon.sealed_at is None:
                if not self.manifest.feeds(wagon):
                    self.sealed.add(wagon.number)
                    self.take(sealed(self.manifest, wagon.number, 2.0))
            elif wagon.state is State.DRAINING:
                self.take(Edit(moved(self.manifest, wagon.number, Move.PROVEN_EMPTY)))
                self.take(Edit(moved(self.manifest, wagon.number, Move.REMOVAL_BEGUN, remover="a")))
                self.take(removed(self.manifest, wagon.number, "a"))


_KINDS = (
    *("feed", "feed", "feed twice", "feed and die", "feed twice and die", "observe and work", "observe and work"),
    *("look", "claim", "publish", "publish and die", "kill", "leave", "observe", "work"),
)
_STEPS = st.lists(st.tuples(st.sampled_from(_KINDS), st.sampled_from("ab")), min_size=5, max_size=60)


def _do(train: _Train, what: str, who: str) -> None:
    match what:
        case "feed" | "feed twice" | "feed and die" | "feed twice and die":  # the usual course
            train.look(who)
            train.claim(who)
            train.look(who)
            train.publish(who, counted="die" not in what, twice="twice" in what)
        case "observe and work":
            train.observe()
            train.work()
        case "look":
            train.look(who)
        case "claim":
            train.claim(who)
        case "publish" | "publish and die":
            train.publish(who, counted=what == "publish")
        case "kill":
            train.kill(who)
        case "leave":
            train.leave(who)
        case "observe":
            train.observe()
        case "work":
            train.work()


@given(_STEPS, st.integers(1, 20), st.booleans())
def test_each_event_is_published(steps: list[tuple[str, str]], count: int, exact: bool) -> None:
    train = _Train(count, exact=exact)
    for what, who in steps:
        _do(train, what, who)
    train.kill("b")
    for _ in range(20 + 3 * count):  # whatever came before: it comes to its end
        for what in ("observe", "work", "look", "claim", "look", "publish"):
            _do(train, what, "a")
    (ended,) = train.ended
    assert (ended.fed, ended.count, ended.because) == (count, count, "")
    assert not train.manifest.replays
    assert [w.number for w in train.manifest.wagons] == [1]
    times = Counter(place for places in train.stored.values() for place in places)
    assert set(times) == set(range(count))
    assert max(times.values()) <= (1 if exact else 1 + train.kills) + train.copies


@given(_STEPS, st.integers(1, 20), st.integers(0, 60), st.booleans())
def test_one_that_is_cancelled_ends_too(steps: list[tuple[str, str]], count: int, at: int, exact: bool) -> None:
    train = _Train(count, exact=exact)
    for place, (what, who) in enumerate(steps):
        if place == at:
            train.take(cancelled(train.manifest, train.replay, "by hand", "me"))
        _do(train, what, who)
    train.take(cancelled(train.manifest, train.replay, "by hand", "me"))
    train.kill("b")
    for _ in range(20 + 3 * count):
        for what in ("observe", "work", "look", "claim", "look", "publish"):
            _do(train, what, "a")
    (ended,) = train.ended
    assert ended.fed <= count
    assert not train.manifest.replays
    assert [w.number for w in train.manifest.wagons] == [1]
