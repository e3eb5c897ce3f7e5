"""In which order a wagon is undone: whatever led to what, children come before their parents, and each event once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Literal, NamedTuple, get_args

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from eventwagon import Context, Train
from eventwagon.contracts.facts import ReplayEnded, UndoStopped
from eventwagon.contracts.lifecycle import Move, State
from eventwagon.contracts.manifest import Manifest, Wagon, changed, decode, encode, moved
from eventwagon.contracts.replay import PastEvent, PastEvents, Replay
from eventwagon.contracts.timetable import CHANNEL
from eventwagon.contracts.undo import Kept, Slice, Undo
from eventwagon.event import Channel, Event, new_ids
from eventwagon.policy.edits import Edit, removed, sealed
from eventwagon.policy.replays import cancelled, claimed, fed, let_go, recounted, requested, run_replays, to_feed
from eventwagon.policy.slices import marked, slices_of
from eventwagon.policy.undo import resumed
from eventwagon.runtime.context import LATER, NamedTrain
from eventwagon.runtime.undoing import left_of, surveyed, to_undo
from eventwagon.settings import Settings

CHANNELS = ("", "a", "b", "c")
ORDER = tuple(Channel("t", 7, name) for name in CHANNELS)
How = Literal["payload", "whole", "forwarded", "later", "published", "from another wagon"]
What = Literal["handled", "dead", "skipped", "no row", "no data"]


class _Made(NamedTuple):
    channel: str
    event: Event
    parent: int
    """Its place; -1: none."""


class _Step(NamedTuple):
    of: int
    """It came from the event so many before; none such: it came from outside."""
    channel: str
    how: How
    known: int
    """How many of the wagon's channels the process knows that emits it: others were added since it last heard of it."""


class _Publisher:
    def destination(self, to: object) -> NamedTrain:
        return NamedTrain("t", Settings(), {})

    def max_event_bytes(self, to: object) -> int:
        return Settings().max_event_bytes

    async def publish(self, train: str, events: list[Event]) -> None: ...


_STEPS = st.lists(
    st.builds(
        _Step,
        st.integers(0, 6),
        st.sampled_from(CHANNELS),
        st.sampled_from(["payload", "whole", "forwarded", "later", "published", "from another wagon"]),
        st.integers(1, len(CHANNELS)),
    ),
    max_size=30,
)
_TRAIN = Train("t")
_TRAIN.on("t")(lambda payload: None)
for _name in CHANNELS[1:]:
    _TRAIN.on(_name)(lambda payload: None)


def _context(of: _Made, wagon: int, known: int) -> Context:
    return Context(
        of.event,
        1,
        "t",
        wagon,
        of.channel,
        _TRAIN.handlers,
        10**6,
        lambda: 1_750_000_000.0,
        keeps_times=True,
        publisher=_Publisher(),
        order=ORDER[:known],
    )


def _made(steps: list[_Step], *, forward: bool) -> list[_Made]:
    """Events as handlers emit them, each from an earlier one or from none; `forward`: only to later channels."""
    made: list[_Made] = []
    contexts: dict[tuple[int, int], Context] = {}
    for place, (of, channel, how, known) in enumerate(steps):
        parent = place - of if 0 < of <= place else -1
        fresh = Event(new_ids(1, 1_750_000_000.0)[0], "x", "s", 1_750_000_000.0, b"1")
        if parent < 0:
            made.append(_Made("", fresh, -1))
            continue
        if forward:
            known = len(CHANNELS)
            if how == "published" or CHANNELS.index(made[parent].channel) >= CHANNELS.index(channel):
                made.append(_Made("", fresh, -1))
                continue
        wagon = 6 if how == "from another wagon" else 7
        context = contexts.setdefault((parent, known + 10 * wagon), _context(made[parent], wagon, known))
        channel = channel if how != "published" else ""
        if how == "published" or not channel:
            context.publish(place)
        elif how == "forwarded":
            context.emit(channel, made[parent].event)
        else:
            context.emit(channel, fresh if how == "whole" else place, after=1 if how == "later" else None)
        to, event = context.emitted[-1]
        assert to != LATER or event.extensions[CHANNEL] == channel
        made.append(_Made(channel, event, -1 if wagon == 6 else parent))
    return made


class _Kept:
    """What is kept of a wagon."""

    def __init__(self, rows: Sequence[PastEvent]) -> None:
        self.rows = rows
        self.reads = 0

    async def channels(self, wagon: int) -> tuple[str, ...]:
        return CHANNELS

    async def parts(self, wagon: int, channel: str) -> tuple[str, ...]:
        return ("all",)

    async def events(self, wagon: int, channel: str, parts: Sequence[str]) -> AsyncIterator[Sequence[PastEvent]]:
        self.reads += 1
        yield [row for row in self.rows if row.channel == channel]


async def _undone(source: _Kept) -> list[tuple[int, Slice, list[Event]]]:
    """The slices, and what of each is published."""
    kept = tuple(Kept(7, channel, ("all",)) for channel in CHANNELS)
    surveys = {each.channel: await surveyed(source, "t", each) for each in kept}
    slices = slices_of(CHANNELS, {channel: survey.levels for channel, survey in surveys.items()})
    found = []
    for turn, part in enumerate(slices):
        undo = Undo(wagon=7, kept=kept, slice=part, whole=part.count)
        made = Replay(number=9, of=PastEvents(wagon=7), count=part.count, why="w", at=0.0, undo=undo)
        found.append((turn, part, [event async for some in to_undo(source, made, undo, "t", 0) for event in some]))
    return found


_BACK = [_Step(0, "", "payload", 4), _Step(1, "b", "payload", 4), _Step(1, "a", "whole", 4)]
_ADDED = [_Step(0, "", "payload", 1), _Step(1, "b", "payload", 1), _Step(1, "a", "payload", 1)]


@example(_BACK, False, {})
@example(_ADDED, False, {})
@example([*_BACK, _Step(1, "b", "payload", 4), _Step(1, "b", "later", 4)], False, {2: "skipped", 3: "no row"})
@given(_STEPS, st.booleans(), st.dictionaries(st.integers(0, 29), st.sampled_from(get_args(What))))
def test_children_come_before_their_parents(steps: list[_Step], forward: bool, fates: dict[int, What]) -> None:
    """Whatever its id, and whatever is not known of events between them."""
    made = _made(steps, forward=forward)
    units = [(channel, event.source, event.id) for channel, event, _ in made]
    copies = Counter(units)
    rows = [
        PastEvent(event, channel, {"no data": "handled"}.get(what, what), 1, float(place), what == "no data")
        for place, (channel, event, _) in enumerate(made)
        if (what := fates.get(place, "handled")) != "no row"
    ]
    source = _Kept(rows)
    found = asyncio.run(_undone(source))
    assert source.reads == len(CHANNELS) + len(found), "what is kept is read once for the survey and once for a slice"
    assert all(len(events) == part.count > 0 for _, part, events in found)
    turns = {(part.channel, event.source, event.id): turn for turn, part, events in found for event in events}
    assert len(turns) == sum(part.count for _, part, _ in found), "each once"
    assert turns.keys() == {unit for place, unit in enumerate(units) if fates.get(place, "handled") == "handled"}
    for place, (_, _, parent) in enumerate(made):
        while parent >= 0:  # what came from it by others, too, known or not
            mine, its = units[place], units[parent]
            if mine in turns and its in turns and (forward or copies[mine] == copies[its] == 1):
                assert turns[mine] < turns[its]
            parent = made[parent].parent
    if forward:
        assert len(found) <= len(CHANNELS), "one wagon a channel"


def test_only_what_was_undone_of_the_same_channel_is_done() -> None:
    """A handler that emits the event which it got makes two of one id."""
    event = Event(new_ids(1, 1_750_000_000.0)[0], "x", "s", 1_750_000_000.0, b"1")
    undo = Undo(wagon=7, kept=(Kept(7, "a", ("all",)),), slice=Slice(channel="a", count=1), whole=1)

    async def left(of: str, outcome: str) -> int:
        slice_of = msgspec.structs.replace(undo, slice=Slice(channel=of, count=1))
        undone = PastEvent(marked(event, 1, job="t/9", train="t", undo=slice_of), "", outcome, 1)
        rows = [PastEvent(event, "a", "handled", 1), undone]
        return await left_of(_Kept(rows), undo, "t", [Kept(8, "", ("all",))])

    assert asyncio.run(left("a", "handled")) == 0
    assert asyncio.run(left("a", "skipped")) == 0
    assert asyncio.run(left("a", "dead")) == 1
    assert asyncio.run(left("b", "handled")) == 1


# --- its course -----------------------------------------------------------------------------------


class _Train:
    """A manifest, and what its wagons got. Some events of the undo die."""

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
        self.take(run_replays(self.manifest, 1.0))
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
        if replay.torn:
            count = replay.start + self.got.get(replay.wagon, 0)
            self.take(recounted(self.manifest, replay.number, me, replay.wagon, count))
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
            elif wagon.state is State.DRAINING:
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
