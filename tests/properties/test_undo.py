"""In which order a wagon is undone: whatever led to what, children come before their parents, and each event once."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from eventwagon.contracts.facts import ReplayEnded, UndoStopped
from eventwagon.contracts.lifecycle import Move, State
from eventwagon.contracts.manifest import Manifest, Wagon, changed, decode, encode, moved
from eventwagon.contracts.reading import Reading
from eventwagon.contracts.replay import PastEvents, Replay
from eventwagon.contracts.undo import Slice, Undo
from eventwagon.event import Event, child_id, later_id, new_ids, published_id
from eventwagon.policy.edits import Edit, removed, sealed
from eventwagon.policy.replays import cancelled, claimed, fed, let_go, requested, run_replays, to_feed
from eventwagon.policy.slices import Chains, slices_of
from eventwagon.policy.undo import resumed

CHANNELS = ("", "a", "b", "c")


class _Made(NamedTuple):
    channel: str
    event: Event
    parent: int
    """Its place; -1: none."""


_STEPS = st.lists(st.tuples(st.integers(-1, 30), st.sampled_from(CHANNELS), st.booleans()), max_size=30)


def _made(steps: list[tuple[int, str, bool]], *, forward: bool) -> list[_Made]:
    """Events, each from an earlier one or from none; `forward`: only to channels after its parent's."""
    made: list[_Made] = []
    sent: dict[tuple[int, str], int] = {}
    for place, channel, later in steps:
        parent = place if place < len(made) else -1
        if parent < 0 or (forward and CHANNELS.index(made[parent].channel) >= CHANNELS.index(channel)):
            channel, parent = "", -1
            event_id = new_ids(1, 1_750_000_000.0)[0]
        else:
            number = sent.get((parent, channel), 0)
            sent[parent, channel] = number + 1
            of = made[parent].event
            if not channel:
                event_id = published_id(of, "t", number)
            else:
                event_id = (later_id if later else child_id)(of, channel, number)
        made.append(_Made(channel, Event(event_id, "x", "s", 1_750_000_000.0 + len(made), b""), parent))
    return made


def _chains(made: list[_Made]) -> Chains:
    chains = Chains("t", CHANNELS)
    for channel, event, _ in made:
        chains.add(channel, event.id)
    for channel, event, _ in made:
        chains.follow(channel, event)
    return chains


@given(_STEPS, st.booleans(), st.sets(st.integers(0, 29)))
def test_children_come_before_their_parents(
    steps: list[tuple[int, str, bool]], forward: bool, unknown: set[int]
) -> None:
    made = _made(steps, forward=forward)
    chains = _chains(made)
    handled: dict[str, list[str]] = {}
    for place, (channel, event, _) in enumerate(made):
        if place not in unknown:
            handled.setdefault(channel, []).append(event.id)
    slices = slices_of(chains, CHANNELS, handled)
    assert sum(each.count for each in slices) == sum(map(len, handled.values()))
    assert all(each.count > 0 for each in slices)
    assert len({(each.channel, each.level) for each in slices}) == len(slices)
    back = any(
        parent >= 0 and CHANNELS.index(made[parent].channel) >= CHANNELS.index(channel) for channel, _, parent in made
    )
    assert chains.goes_back == back

    def turn(channel: str, event_id: str) -> int:
        level = chains.level(channel, event_id)
        (found,) = [n for n, each in enumerate(slices) if each.channel == channel and each.level in (None, level)]
        return found

    for place, (channel, event, parent) in enumerate(made):
        if parent >= 0 and place not in unknown and parent not in unknown:
            assert turn(channel, event.id) < turn(made[parent].channel, made[parent].event.id)


def test_a_child_that_was_sent_as_a_whole_event_hides_none_after_it() -> None:
    """It counts, and has an id of its own."""
    parent = Event(new_ids(1, 1_750_000_000.0)[0], "x", "s", 1_750_000_000.0, b"")
    chains = Chains("t", CHANNELS)
    chains.add("a", parent.id)
    chains.add("a", child_id(parent, "a", 1))
    chains.follow("a", parent)
    assert chains.goes_back
    assert chains.level("a", child_id(parent, "a", 1)) == 1


# --- its course -----------------------------------------------------------------------------------


class _Train:
    """A manifest, and a broker that counts. Some events of the undo die."""

    def __init__(self, slices: tuple[Slice, ...]) -> None:
        wagon = Wagon(number=1, state=State.ACTIVE, opened_at=0.0, created_at=0.0, turn=1)
        self.manifest = Manifest(train="t", wagons=(wagon,), next_number=2, turns=1)
        self.facts: list[object] = []
        self.got: dict[int, int] = {}
        """By wagon: how many events it got."""
        self.lives = 0
        self.steps: list[tuple[int, str, int]] = []
        """By wagon opened: the step, its channel, and how many wagons of the undo lived besides."""
        undo = Undo(wagon=9, kept=(), slice=slices[0], then=slices[1:], whole=slices[0].count)
        made = Replay(number=0, of=PastEvents(wagon=9), count=slices[0].count, why="w", at=0.0, undo=undo)
        self.take(requested(self.manifest, made, "all"))

    @property
    def job(self) -> Replay | None:
        return self.manifest.replays[0] if self.manifest.replays else None

    def take(self, edit: Edit) -> None:
        self.manifest = decode(encode(edit.manifest), train="t")
        self.facts += edit.facts

    def observe(self) -> None:
        before = {w.number for w in self.manifest.wagons}
        readings = {
            w.number: Reading(number=w.number, at=0.0, age=0.0, published=self.got.get(w.number, 0))
            for w in self.manifest.wagons
        }
        self.take(run_replays(self.manifest, readings, 1.0))
        for wagon in self.manifest.wagons:
            if wagon.number not in before:
                assert self.job is not None
                assert self.job.undo is not None
                others = [w for w in self.manifest.wagons if w.replay and w.undo_channel != wagon.undo_channel]
                self.steps.append((self.job.undo.step, wagon.undo_channel, len(others)))

    def feed(self, count: int, *, counted: bool) -> None:
        """As a new process, which may be killed before it counts."""
        self.lives += 1
        me = f"a{self.lives}"
        if (replay := to_feed(self.manifest)) is not None:
            self.take(claimed(self.manifest, replay, me, {me}, exact=True))
        replay = to_feed(self.manifest)
        if replay is None or replay.feeder != me:
            return
        if not replay.is_over:
            end = min(replay.count, replay.fed + count)
            self.got[replay.wagon] = self.got.get(replay.wagon, 0) + end - replay.fed
            if not counted:
                return
            self.take(fed(self.manifest, replay.number, me, end))
        self.take(let_go(self.manifest, replay.number, me))

    def work(self, dead: int, *, fails: bool) -> None:
        """A step of each of the undo's wagons."""
        for wagon in [w for w in self.manifest.wagons if w.replay]:
            number = wagon.number
            if wagon.state is State.PROVISIONING:
                ready = changed(self.manifest, number, created_at=1.0)
                self.take(Edit(moved(ready, number, Move.MADE_READY, ready_at=1.0)))
            elif wagon.state is State.DRAINING and wagon.sealed_at is None:
                if not self.manifest.feeds(wagon):
                    self.take(sealed(self.manifest, number, 2.0))
            elif wagon.state is State.DRAINING and not (self.job and self.job.torn and self.job.wagon == number):
                self.take(Edit(moved(self.manifest, number, Move.PROVEN_EMPTY)))
                self.take(Edit(moved(self.manifest, number, Move.REMOVAL_BEGUN, remover="a")))
                letters = None if fails else min(dead, self.got.get(number, 0))
                self.take(Edit(changed(self.manifest, number, letters_kept=letters)))
                self.take(removed(self.manifest, number, "a"))


@given(
    st.lists(st.tuples(st.sampled_from(CHANNELS), st.integers(1, 5)), min_size=1, max_size=4, unique_by=lambda s: s[0]),
    st.lists(
        st.tuples(
            st.sampled_from(["feed", "feed and die", "observe", "observe", "work", "work", "resume", "skip"]),
            st.integers(0, 2),
            st.booleans(),
        ),
        max_size=80,
    ),
    st.booleans(),
)
def test_no_slice_begins_before_the_one_before_it_is_undone(
    given_slices: list[tuple[str, int]], steps: list[tuple[str, int, bool]], cancels: bool
) -> None:
    train = _Train(tuple(Slice(channel=c, count=n) for c, n in given_slices))

    def step(what: str, number: int, fails: bool) -> None:
        job = train.job
        match what:
            case "feed" | "feed and die":
                train.feed(1 + number, counted=what == "feed")
            case "observe":
                train.observe()
            case "work":
                train.work(number, fails=fails and number == 2)
            case "resume" if job is not None and job.undo is not None and job.undo.stopped:
                rest = Slice(channel=job.undo.slice.channel, count=1)
                train.take(resumed(train.manifest, job.number, rest, "w", "me"))
            case "skip" if job is not None:
                train.take(resumed(train.manifest, job.number, None, "w", "me"))

    for each in steps:
        step(*each)
    if cancels and train.job is not None:
        train.take(cancelled(train.manifest, train.job.number, "enough", "me"))
    for _ in range(200):  # whatever came before: it comes to its end
        for what in ("observe", "work", "feed", "skip"):
            step(what, 0, False)
    assert train.job is None
    assert [w.number for w in train.manifest.wagons] == [1]
    (ended,) = [f for f in train.facts if isinstance(f, ReplayEnded)]
    assert ended.undoes == 9
    assert all(others == 0 for _, _, others in train.steps), "two slices never have wagons at a time"
    order = [channel for channel, _ in given_slices]
    begun = [order.index(channel) for _, channel, _ in train.steps]
    assert begun == sorted(begun)
    if not ended.because:
        assert {*begun} == {*range(len(order))}
        assert ended.fed == ended.count
    if not any(isinstance(f, UndoStopped) for f in train.facts) and not ended.because:
        assert ended.dead == 0
        assert sum(train.got.values()) == ended.fed == sum(n for _, n in given_slices)
