"""Whatever steps are taken, and in whatever order, the manifest is one that makes sense (I2, I3)."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from eventwagon.contracts.lifecycle import TRANSITIONS, IllegalMove, Move, State
from eventwagon.contracts.manifest import (
    Manifest,
    Pause,
    Wagon,
    changed,
    check,
    decode,
    encode,
    moved,
    opened,
    switched,
)
from eventwagon.errors import BrokenManifest, Defect
from eventwagon.policy.edits import spec_of
from eventwagon.policy.pausing import paused, resting, resumed
from tests.fuzz import examples

NOT_READY = (State.PROVISIONING, State.DRAINING, State.DRAINED, State.REMOVING, State.FAILED)


class Steps(RuleBasedStateMachine):
    """The steps of an observer, and some that it must never make."""

    @initialize(channels=st.lists(st.sampled_from(["a", "b", "c"]), unique=True))
    def begin(self, channels: list[str]) -> None:
        self.manifest = Manifest(train="t", channels=tuple(channels))
        self.now = 1_750_000_000.0
        self.used: set[int] = set()
        self.had_active = False
        self.paused: set[int | None] = set()
        """The train (None), and wagons by themselves."""

    def pick(self, data: st.DataObject, *states: State) -> int:
        return data.draw(st.sampled_from([w.number for w in self.manifest.in_state(*states)]))

    def stands(self, *states: State) -> bool:
        return bool(self.manifest.in_state(*states))

    @rule(capacity=st.none() | st.integers(1, 10**6), why=st.text(max_size=10))
    def open(self, capacity: int | None, why: str) -> None:
        number = self.manifest.next_number
        self.manifest = opened(self.manifest, now=self.now, because=why, capacity=capacity)
        assert number not in self.used, "a number was used twice"
        self.used.add(number)
        wagon = self.manifest.wagon(number)
        assert wagon is not None
        assert (wagon.state, wagon.channels) == (State.PROVISIONING, self.manifest.channels)

    @precondition(lambda self: self.stands(State.PROVISIONING))
    @rule(data=st.data())
    def make_ready(self, data: st.DataObject) -> None:
        number = self.pick(data, State.PROVISIONING)
        self.manifest = moved(self.manifest, number, Move.MADE_READY, created_at=self.now, ready_at=self.now)

    @precondition(lambda self: self.stands(State.PROVISIONING))
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        self.manifest = moved(self.manifest, self.pick(data, State.PROVISIONING), Move.GIVEN_UP, trouble="no nodes")

    @precondition(lambda self: self.stands(State.READY))
    @rule(data=st.data(), move=st.sampled_from([Move.LOST, Move.DISCARDED]))
    def lose_a_spare(self, data: st.DataObject, move: Move) -> None:
        self.manifest = moved(self.manifest, self.pick(data, State.READY), move)

    @precondition(lambda self: self.stands(State.READY))
    @rule(data=st.data())
    def switch(self, data: st.DataObject) -> None:
        old, new = self.manifest.active, self.pick(data, State.READY)
        self.manifest = switched(self.manifest, to=new, now=self.now, because="full")
        assert self.manifest.active is not None
        assert self.manifest.active.number == new
        if old is not None:
            cut_off = self.manifest.wagon(old.number)
            assert cut_off is not None
            assert (cut_off.state, cut_off.closed_because) == (State.DRAINING, "full")
        self.had_active = True

    @precondition(lambda self: self.stands(State.DRAINING))
    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        number = self.pick(data, State.DRAINING)
        self.manifest = changed(self.manifest, number, sealed_at=self.now)
        self.manifest = moved(self.manifest, number, Move.PROVEN_EMPTY, drained_at=self.now, published=3, settled=3)

    @precondition(lambda self: self.stands(State.DRAINED))
    @rule(data=st.data(), move=st.sampled_from([Move.REMOVAL_BEGUN, Move.FOUND_LATE]))
    def look_once_more(self, data: st.DataObject, move: Move) -> None:
        self.manifest = moved(self.manifest, self.pick(data, State.DRAINED), move)

    @precondition(lambda self: self.stands(State.REMOVING, State.FAILED))
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        number = self.pick(data, State.REMOVING, State.FAILED)
        self.manifest = moved(self.manifest, number, Move.REMOVED)
        assert self.manifest.wagon(number) is None
        with pytest.raises(Defect):
            changed(self.manifest, number, dead=1)

    @precondition(lambda self: self.manifest.wagons)
    @rule(data=st.data(), move=st.sampled_from(Move))
    def never_illegal(self, data: st.DataObject, move: Move) -> None:
        wagon = data.draw(st.sampled_from(self.manifest.wagons))
        if (wagon.state, move) not in TRANSITIONS:
            with pytest.raises(IllegalMove):
                moved(self.manifest, wagon.number, move)

    @precondition(lambda self: self.stands(*NOT_READY))
    @rule(data=st.data())
    def never_redirected_to_what_is_not_ready(self, data: st.DataObject) -> None:
        number = self.pick(data, *NOT_READY)
        with pytest.raises(IllegalMove):
            switched(self.manifest, to=number, now=self.now, because="full")

    @rule(data=st.data(), publishing=st.booleans())
    def pause(self, data: st.DataObject, publishing: bool) -> None:
        number = data.draw(st.none() | st.integers(0, self.manifest.next_number))
        pause = Pause(why="moving", at=self.now, by=f"p{self.now}", publishing=publishing and number is None)
        step = paused(self.manifest, number, pause)
        assert paused(step.manifest, number, pause).manifest is step.manifest, "idempotent"
        self.manifest = step.manifest
        if number is None or self.manifest.wagon(number) is not None:
            self.paused.add(number)

    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        number = data.draw(st.none() | st.integers(0, self.manifest.next_number))
        step = resumed(self.manifest, number, self.now, "moved", "")
        assert bool(step.facts) == (number in self.paused and (number is None or self.stands_still(number)))
        assert resumed(step.manifest, number, self.now, "moved", "").manifest is step.manifest, "idempotent"
        self.manifest = step.manifest
        self.paused.discard(number)

    def stands_still(self, number: int) -> bool:
        return self.manifest.wagon(number) is not None

    @rule(seconds=st.floats(-1, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def makes_sense(self) -> None:
        check(self.manifest)
        active = self.manifest.in_state(State.ACTIVE)
        assert len(active) == (1 if self.had_active else 0), "exactly one is active once the first is"
        assert all(w.number in self.used for w in self.manifest.wagons)

    @invariant()
    def what_is_paused_rests(self) -> None:
        """Whatever else happens to it, and to the train; wagons that come later too."""
        numbers = {w.number for w in self.manifest.wagons}
        assert resting(self.manifest) == (numbers if None in self.paused else numbers & self.paused)
        for w in self.manifest.in_state(State.PROVISIONING, State.READY, State.ACTIVE, State.DRAINING):
            assert spec_of(self.manifest, w, workers=1).paused == (w.number in resting(self.manifest))

    @invariant()
    def survives_the_registry(self) -> None:
        assert decode(encode(self.manifest)) == self.manifest


Steps.TestCase.settings = examples(60, stateful_step_count=40)
test_steps = Steps.TestCase


def _wagon(number: int, state: State, **fields: float) -> Wagon:
    return msgspec.structs.replace(Wagon(number=number, state=state, opened_at=0.0), **fields)


@pytest.mark.parametrize(
    "wagons",
    [
        (_wagon(1, State.ACTIVE, created_at=1), _wagon(2, State.ACTIVE, created_at=1)),
        (_wagon(2, State.PROVISIONING), _wagon(1, State.PROVISIONING)),
        (_wagon(1, State.PROVISIONING), _wagon(1, State.PROVISIONING)),
        (_wagon(9, State.PROVISIONING),),
        (_wagon(1, State.DRAINED),),
        (_wagon(1, State.REMOVING),),
        (_wagon(1, State.READY),),
        (_wagon(1, State.ACTIVE),),
    ],
)
def test_what_makes_no_sense_is_found(wagons: tuple[Wagon, ...]) -> None:
    with pytest.raises(Defect, match=r"^(train t:|t_v\d )"):
        check(Manifest(train="t", wagons=wagons, next_number=9))


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"\xff", b'{"train":"t","wagons":[{}]}', b'{"train":"t","next_number":"x"}']
)
def test_what_is_no_manifest_is_told(data: bytes) -> None:
    with pytest.raises(BrokenManifest):
        decode(data)
