"""What the dashboard's page gets, as JSON. Times are in seconds since the epoch, other durations in seconds, rates in
events per second. None: not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ..views.following import Value
from ..views.schedules import ScheduleView


class Verdict(msgspec.Struct, frozen=True):
    """How a train is, in a word and in a sentence. `level`: `ok`, `warn`, `bad` or `unknown`."""

    level: str
    word: str
    sentence: str
    since: float | None = None
    """Since when it has had this word, as far as this dashboard has looked."""


class Trouble(msgspec.Struct, frozen=True):
    """Why something can't be read, and since when."""

    why: str
    since: float


class Waiting(msgspec.Struct, frozen=True):
    """How long events wait. `expected`: what an event published now will, or until the last of the backlog is settled;
    `oldest`: how long the oldest waiting one has; 0: none waits."""

    expected: float | None = None
    oldest: float | None = None


class Waits(msgspec.Struct, frozen=True):
    """New events are those of the active wagon, the backlog those of draining ones."""

    new: Waiting = Waiting()
    backlog: Waiting = Waiting()


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """A train at a glance."""

    train: str
    verdict: Verdict
    trouble: Trouble | None = None
    waits: Waits = Waits()
    promise: float | None = None
    oldest_age: float | None = None
    waiting: int | None = None
    in_flight: int | None = None
    inside: int | None = None
    dead: int | None = None
    arrivals: float | None = None
    settled: float | None = None
    active: int | None = None
    states: Mapping[str, int] = {}
    """How many wagons are in each state, for states with any."""
    processes: int = 0
    paused: bool = False
    removing: bool = False


class PauseShape(msgspec.Struct, frozen=True, kw_only=True):
    """A pause; `whole`: of the whole train."""

    why: str
    at: float
    by: str
    publishing: bool
    whole: bool


class Fill(msgspec.Struct, frozen=True):
    """How full the active wagon is by one limit; 1 is full."""

    limit: str
    pressure: float
    why: str


class WagonShape(msgspec.Struct, frozen=True, kw_only=True):
    """A live wagon."""

    number: int
    name: str
    state: str
    published: int | None
    limit: int | None
    fills: Sequence[Fill]
    waiting: int | None
    in_flight: int | None
    settled: int | None
    inside: int | None
    dead: int | None
    lost: int
    workers: int
    wanted: int | None
    in_hand: int
    revision: str
    asleep: bool
    pause: PauseShape | None
    age: float
    reason: str
    rate: float | None
    oldest_age: float | None
    drain_left: float | None
    opened_at: float
    ready_at: float | None
    active_at: float | None
    closed_at: float | None
    sealed_at: float | None
    drained_at: float | None
    opened_because: str
    closed_because: str


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """A removed wagon."""

    number: int
    name: str
    state: str
    revision: str
    opened_at: float
    active_at: float | None
    closed_at: float | None
    sealed_at: float | None
    drained_at: float | None
    removed_at: float | None
    published: int | None
    settled: int | None
    dead: int | None
    lost: int
    opened_because: str
    closed_because: str
    reason: str


class NoteShape(msgspec.Struct, frozen=True):
    """A sentence on the train's state. `level`: `bad`, `warn` or `info`."""

    level: str
    text: str
    todo: str = ""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """The last refused decision, with its figures."""

    at: float
    kind: str
    number: int | None
    pressure: float | None
    figures: str
    because: str
    lasted: float
    sentence: str
    current: bool
    """What was refused has not been done since."""


class BudgetShape(msgspec.Struct, frozen=True):
    """A budget, by what processes say of it: in handlings at a time, or in events per second."""

    name: str
    of: float
    held: float
    wants: float
    processes: int


class MemberShape(msgspec.Struct, frozen=True, kw_only=True):
    """A live process."""

    name: str
    roles: Sequence[str]
    version: int
    revision: str
    workers: int
    in_hand: int
    held: int
    caught: int
    trouble: str


class LaterShape(msgspec.Struct, frozen=True):
    """Events that wait for their time."""

    count: int | None
    next_at: float | None


class TrainShape(Card, frozen=True, kw_only=True):
    """A train in full."""

    at: float = 0.0
    version: int = 0
    url: str = ""
    revision: str = ""
    channels: Sequence[str] = ()
    declared: Mapping[str, Value] = {}
    limit: str | None = None
    workers_text: str = ""
    cap: int | None = None
    head: str = ""
    notes: Sequence[NoteShape] = ()
    refusal: Refusal | None = None
    asked: str = ""
    watched: str = ""
    refusing: str = ""
    at_risk: str = ""
    removal: str = ""
    stepped_back: str = ""
    pause: PauseShape | None = None
    open: Mapping[str, Sequence[str]] = {}
    at_budget: Mapping[str, Sequence[str]] = {}
    crashed: Sequence[str] = ()
    threatened: Sequence[str] = ()
    budgets: Sequence[BudgetShape] = ()
    schedules: Sequence[ScheduleView] = ()
    replays: Sequence[str] = ()
    """In words, those that are not over."""
    later: LaterShape = LaterShape(None, None)
    dead_lost: int = 0
    members: Sequence[MemberShape] = ()
    wagons: Sequence[WagonShape] = ()
    point: Sequence[float | int | None] | None = None


class ChannelShape(msgspec.Struct, frozen=True, kw_only=True):
    """A channel of a wagon in figures that reconcile."""

    name: str
    published: int | None
    settled: int | None
    in_flight: int | None
    waiting: int | None
    lost: int
    difference: int | None
    """Published, less all that is settled, in flight or waiting."""
    oldest_at: float | None
    newest_at: float | None
    trouble: str
