"""The table of claims, driven at random against what must hold of it."""

from __future__ import annotations

from typing import Literal

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from eventwagon.contracts.broker import Delivery
from eventwagon.drivers.pulsar.claims import Claims, Key
from eventwagon.event import Event
from tests.fuzz import examples

NUMBERS = st.integers(0, 12)


def key(number: int) -> Key:
    return (1, number, -1)


def event(number: int) -> Event:
    return Event(str(number), "t", "s", 0.0, b"")


class Server(RuleBasedStateMachine):
    """Sends messages, breaks connections and gives to others; a model says who has what."""

    def __init__(self) -> None:
        super().__init__()
        self.claims = Claims()
        self.now = 0.0
        self.ours: set[int] = set()  # the server holds them for us, unacknowledged
        self.acknowledged: set[int] = set()
        self.attempts: dict[int, int] = {}
        self.suspects: set[int] = set()
        self.rests: dict[int, float] = {}
        self.alone: set[int] = set()
        self.hands: dict[int, tuple[Delivery, float]] = {}  # the claim that counts, and when it ends
        self.old: list[Delivery] = []

    def ended(self) -> None:
        for number, (delivery, due) in list(self.hands.items()):
            if due <= self.now:
                self.attempts[number] += number in self.alone
                self.alone.discard(number)
                self.suspects.add(number)
                self.old.append(delivery)
                del self.hands[number]

    @rule(number=NUMBERS, suspect=st.booleans())
    def arrives(self, number: int, suspect: bool) -> None:
        again = self.claims.arrive(key(number), event(number), number, 1, self.now, suspect=suspect)
        assert (again is not None) == (number in self.acknowledged)
        if number not in self.acknowledged:
            if suspect and number not in self.attempts:
                self.suspects.add(number)
            self.attempts.setdefault(number, 1)
            self.ours.add(number)

    @rule(limit=st.integers(1, 5), visibility=st.floats(0.1, 10), suspects=st.sampled_from(["first", "last", "none"]))
    def take(self, limit: int, visibility: float, suspects: Literal["first", "last", "none"]) -> None:
        self.ended()
        free = {n for n in self.ours if n not in self.hands}
        got = self.claims.take(limit, self.now, self.now + visibility, suspects)
        assert len(got) <= limit
        assert len(got) == 1 or not any(d.suspect for d in got), "a suspect comes alone"
        assert suspects != "none" or not any(d.suspect for d in got)
        if got and got[0].suspect and suspects == "first":
            due = [n for n in free & self.suspects if n not in self.delayed()]
            assert not due or got[0].attempt == max(self.attempts[n] for n in due)
        for delivery in got:
            number = int(delivery.event.id)
            assert number in free, "given out twice, or what the server has given to another"
            free.discard(number)
            assert (delivery.attempt, delivery.suspect) == (self.attempts[number], number in self.suspects)
            self.hands[number] = (delivery, self.now + visibility)

    def delayed(self) -> set[int]:
        return {n for n, until in self.rests.items() if until > self.now}

    @precondition(lambda self: self.hands)
    @rule(data=st.data())
    def is_alone(self, data: st.DataObject) -> None:
        self.ended()
        for number, (delivery, _) in self.hands.items():
            assert self.claims.stands(delivery, self.now)
            if data.draw(st.booleans()):
                delivery.token.alone = True
                self.alone.add(number)
        assert not any(self.claims.stands(delivery, self.now) for delivery in self.old)

    @rule(seconds=st.floats(0.0, 5.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.hands)
    @rule(data=st.data(), tried=st.booleans(), cleared=st.booleans(), delay=st.sampled_from([0.0, 3.0]))
    def release(self, data: st.DataObject, tried: bool, cleared: bool, delay: float) -> None:
        self.ended()
        some = data.draw(st.lists(st.sampled_from(sorted(self.hands)), max_size=3)) if self.hands else []
        given = [self.hands[n][0] for n in some]
        self.claims.release([*given, *self.old], self.now, self.now + delay, tried=tried, cleared=cleared)
        for number in set(some):
            self.attempts[number] += tried
            self.alone.discard(number)
            self.rests[number] = self.now + delay
            if tried or cleared:
                self.suspects.discard(number)
            self.old.append(self.hands.pop(number)[0])

    @precondition(lambda self: self.hands or self.old)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        self.ended()
        pool = [delivery for delivery, _ in self.hands.values()] + self.old
        if not pool:
            return
        some = data.draw(st.lists(st.sampled_from(range(len(pool))), max_size=4))
        handles = self.claims.settle([pool[i] for i in some])
        numbers = {int(pool[i].event.id) for i in some}
        assert sorted(handles) == sorted(numbers - self.acknowledged), "each is acknowledged once"
        self.acknowledged |= numbers
        self.ours -= numbers
        for number in numbers:
            self.hands.pop(number, None)

    @precondition(lambda self: self.hands)
    @rule(due=st.floats(0.1, 10))
    def extend(self, due: float) -> None:
        self.ended()
        self.claims.extend([d for d, _ in self.hands.values()] + self.old, self.now, self.now + due)
        self.hands = {n: (d, self.now + due) for n, (d, _) in self.hands.items()}

    @rule()
    def connection_breaks(self) -> None:
        self.claims.disconnected(self.now)
        self.ours.clear()
        self.now += 0.1

    @invariant()
    def counts(self) -> None:
        self.ended()
        assert self.claims.claimed(self.now) == len(self.hands)

    def teardown(self) -> None:
        """Nothing that the server holds for us is lost: all of it can be had in the end."""
        self.now += 100
        self.ended()
        got: list[Delivery] = []
        while some := self.claims.take(1000, self.now, self.now + 1):
            got += some
        assert {int(d.event.id) for d in got} == self.ours
        assert {int(d.event.id): d.attempt for d in got} == {n: self.attempts[n] for n in self.ours}


Server.TestCase.settings = examples(300, stateful_step_count=30)
TestClaims = Server.TestCase
