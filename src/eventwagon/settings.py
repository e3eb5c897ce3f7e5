"""Every setting of a train, with its unit, its default and the reason for it. Frozen, checked on creation. Pure."""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, Literal, get_args

import msgspec

from .breaker import Breaker, Retries
from .contracts.archive import check_archive
from .errors import UsageError
from .limits import Limit, Volume, capacity, check_stated, check_written, slo, written
from .options import Options, check_backoff
from .other_words import refusal
from .pause_on import PauseOn
from .times import lasting
from .values import in_seconds, is_a, plain, real, shown, split_url, whole
from .workers import FORMER, ORCHESTRATED, UNSAID, Unsaid, Workers

NO_LEDGER = "none"
AtCap = Literal["fill", "refuse"]
Auto = Literal["auto"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a train. All times are in seconds."""

    limit: Limit = Volume(10_000)
    """When a wagon is full. The default is the pattern's own example."""
    workers: Workers = UNSAID
    """How many workers: `Workers(each=…)` for each wagon, or `Workers(total=…, floor=…)` shared by all. With an
    orchestrator that asks for machines (Kubernetes, ECS, Lambda) and a limit with a `Wait`, the default is
    `Workers(each=Elastic(2, 64))`."""
    spares: int | Auto = 0
    """READY wagons kept ahead. With one, a switch costs publishers no time. 0: the next wagon is opened at `prepare`.
    "auto": one, or as many as the switches expected in the time that a wagon takes to become ready."""
    reuse: bool | None = None
    """A drained wagon's warm workers go on to the next wagon, so that switches in a long burst need no cold start; they
    are kept as one additional spare. Worth it if wagons have their own processes; shared workers are never cold. None:
    only if the workers follow the traffic (`Elastic`)."""
    keep_warm: float = 60.0
    """How long a READY wagon beyond `spares` is kept although no switch needs it: bursts come in waves."""
    idle_after: float = 300.0
    """With an orchestrator and `spares=0`: the active wagon's workers are stopped after being idle for this long; the
    next event starts them again. The default is that of autoscalers. 0: never."""
    prepare: float = 0.5
    """The pressure at which the next wagon is opened. At half full, as much time is left as has passed."""
    wagons: int = 32
    """How many wagons may live at once, including spares, so that their number is always bounded. If the workers follow
    the traffic, only as many as can have `Elastic.least` workers each."""
    at_cap: AtCap = "fill"
    """At the cap: `fill` (the active wagon is filled past its limit) or `refuse` (publish raises TrainFull)."""
    cooldown: float = 0.2
    """The shortest time that a wagon is active, so that a limit that is full immediately can't open wagon after wagon.
    Exact bounds and requested switches ignore it."""
    hold: float = 2.0
    """How long publishers wait at an exactly full wagon for the next to become ready; then the full one takes more."""
    observe_every: float = 0.1
    """The time between two passes of an observer: short compared with any wait that users notice, and cheap (see the
    benchmarks). Up to 2 s at a train at which nothing happens, if one process serves it, or if more than three observe
    and all that work do. If more than three observe, the first three keep to it, and the others look every 2 s."""
    provision_timeout: float = 30.0
    """How long a wagon's workers may take to become ready before the attempt counts as failed."""
    provision_attempts: int = 4
    """Attempts to provision a wagon before it is FAILED and removed; another one is opened after a longer pause."""
    attempts: int | None = None
    """How many times an event is handled before it goes to the dead letters. None: five times while its channel works,
    and for at least ten minutes while no other event there succeeds, so that an outage kills no event. 1: never retry.
    """
    backoff: float = 0.5
    """The first pause before a retry; doubled each time. The actual pause is a random value between half of that and
    all of it."""
    backoff_most: float = 30.0
    """The longest pause before a retry: events are retried at most this long after their service is back."""
    breaker: Breaker | None = Breaker()
    """When a channel counts as broken, so that only one probe at a time is handed out. None: never."""
    pause_on: PauseOn | None = None
    """When observers pause a wagon whose handlings fail, until somebody resumes it. None: never."""
    handler_timeout: float = 60.0
    """How long a handler may take for one event before it is cancelled and the event retried."""
    visibility: float = 30.0
    """How long a claim lasts unless the worker extends it; a live worker does. A killed worker's events come back after
    this long, or at once if its end is proven."""
    publish_timeout: float = 30.0
    """The time limit of a publish unless the caller gives one."""
    publish_batch: int = 1000
    """The largest number of events in one call to the broker."""
    once: float | timedelta | None = None
    """How long the train remembers which events were handled: one that comes again within this time, whether it is
    delivered or published again, is settled without being handled. In seconds or as a timedelta. None: not at all."""
    archive: str | None = None
    """The URL of an archive for the events of drained wagons: `file:///directory` or `s3://bucket/prefix`. It needs a
    limit with a `Volume`. None: none."""
    max_event_bytes: int = 262_144
    """The largest event, data and attributes together. Every supported broker accepts the default unless configured for
    less."""
    grace: float = 30.0
    """How long a worker that is asked to stop may take to finish its event."""
    member_ttl: float = 5.0
    """A process that has not checked in for this long counts as gone."""
    lease: float = 5.0
    """If the broker can't refuse writes: how long a process may publish by a manifest before it must read it again, and
    the longest time that one send may take. Shorter: wagons are sealed sooner; longer: fewer reads."""
    keep_drained: float = 60.0
    """If the broker can't refuse writes: how long a drained wagon's channels stay, so that events that a suspended
    process still sends there are found and published again. Set it longer than any suspension that you expect."""
    keep: int = 10_000
    """How many journal entries are kept; the oldest are deleted."""
    ledger: str | None = None
    """Where the permanent record of every wagon is kept: `"sqlite:///directory"`, on the machine of the observers, or
    `"none"`. None: on a `sqlite:` train beside its events, elsewhere nowhere. See docs/ledger.md."""

    def __post_init__(self) -> None:
        if not _is_limit(self.limit):
            raise UsageError(f"limit={shown(self.limit)} is not a limit: it has no measure(reading)")
        check_written(self.limit)
        check_stated(self.limit)
        if not is_a(self.workers, Workers):
            raise UsageError(f"workers={shown(self.workers)}: give Workers(each=…) or Workers(total=…, floor=…)")
        at_cap = plain(self.at_cap)
        if at_cap not in get_args(AtCap):
            raise UsageError(f"at_cap={shown(self.at_cap)}: give 'fill' or 'refuse'")
        msgspec.structs.force_setattr(self, "at_cap", at_cap)
        if plain(self.spares) == "auto":
            msgspec.structs.force_setattr(self, "spares", "auto")
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            if not (value is None and name == "attempts") and not (name == "spares" and plain(value) == "auto"):
                msgspec.structs.force_setattr(self, name, whole(name, value, least=least))
        for name in _SECONDS:
            zero, brief = name not in _NEVER_ZERO, name in _BRIEF
            number = in_seconds(f"{name} (seconds)", getattr(self, name), zero=zero, brief=brief)
            msgspec.structs.force_setattr(self, name, number)
        if self.once is not None:
            window = lasting("once", self.once)
            if window < self.visibility:
                raise UsageError(
                    f"once={window:g} is shorter than visibility={self.visibility:g}, after which events of a killed "
                    "process come again: give at least that"
                )
            msgspec.structs.force_setattr(self, "once", window)
        if self.ledger is not None:
            msgspec.structs.force_setattr(self, "ledger", _ledger(self.ledger))
        if self.breaker is not None and not is_a(self.breaker, Breaker):
            raise UsageError(f"breaker={shown(self.breaker)}: give Breaker(…) or None")
        if self.pause_on is not None and not is_a(self.pause_on, PauseOn):
            raise UsageError(f"pause_on={shown(self.pause_on)}: give PauseOn(failures=0.2, of=50) or None")
        if self.archive is not None:
            msgspec.structs.force_setattr(self, "archive", check_archive(self.archive))
            if capacity(self.limit) is None:
                raise UsageError(
                    "archive= needs a limit with a Volume, say Wait(2.0) | Volume(100_000): the broker keeps a wagon's "
                    "events until the wagon is archived"
                )
        msgspec.structs.force_setattr(self, "prepare", real("prepare", self.prepare))
        if self.prepare > 1:
            raise UsageError(f"prepare must be above 0 and at most 1, not {self.prepare!r}")
        if self.reuse is None and not self.follows_if_orchestrated:
            msgspec.structs.force_setattr(self, "reuse", self.workers.elastic is not None)
        if self.reuse is not None and not is_a(self.reuse, bool):
            raise UsageError(f"reuse must be True or False, not {shown(self.reuse)}")
        if self.workers.elastic is not None and self.promise is None:
            raise UsageError(
                f"workers={self.workers!r}: workers that follow the traffic need a promise to new events: give "
                "limit=Wait(seconds), alone or with others, or Elastic(promise=seconds)"
            )
        if (elastic := self.workers.elastic) is not None:
            msgspec.structs.force_setattr(self, "wagons", min(self.wagons, elastic.most // elastic.least))
        if (1 if self.spares == "auto" else self.spares) >= self.wagons:
            raise UsageError(f"spares={self.spares} leaves no room for an active wagon among wagons={self.wagons}")

    @property
    def promise(self) -> float | None:
        """Seconds within which a new event should be handled: from `Elastic.promise`, else from the limit; None: no
        promise."""
        elastic = self.workers.elastic
        return slo(self.limit) if elastic is None or elastic.promise is None else elastic.promise

    @property
    def follows_if_orchestrated(self) -> bool:
        """Whether the limit promises something to new events and no workers are set: then the workers follow the
        traffic if an orchestrator asks for machines."""
        return isinstance(self.workers, Unsaid) and slo(self.limit) is not None

    def orchestrated(self, step: int = 1) -> Settings:
        """The settings to use with an orchestrator that asks for machines, each of `step` workers. They are declared in
        the same words as these. Raises UsageError if `Elastic.most` is less than each wagon with its machine needs."""
        workers = ORCHESTRATED if self.follows_if_orchestrated else self.workers
        if (elastic := workers.elastic) is None:
            return self
        each, spares = elastic.rounded(step), 1 if self.spares == "auto" else self.spares
        if (wagons := elastic.most // each) <= max(1, spares):
            ahead = f"{spares} spares" if spares > 1 else "the next one"
            needed = (1 + max(1, spares)) * each
            raise UsageError(
                f"workers={workers!r}: here {step} workers start at once (a Pod or a task), so the active wagon and "
                f"{ahead} have at least {each} each: give most={needed} or more, or fewer workers in a Pod or task"
            )
        if wagons >= self.wagons and workers is self.workers:
            return self
        fields = {name: getattr(self, name) for name in Settings.__struct_fields__}
        return Orchestrated(**{**fields, "workers": workers, "wagons": min(self.wagons, wagons)}, stated=self)

    def agreed(self, declared: Mapping[str, str]) -> Settings:
        """The settings to use with a train that was declared so. If these set no workers, and it was declared when
        others were the default, it keeps those."""
        if not isinstance(self.workers, Unsaid) or declared.get("workers") != repr(FORMER):
            return self
        return Settings(**{**{name: getattr(self, name) for name in Settings.__struct_fields__}, "workers": FORMER})

    def publishing(self, declared: Mapping[str, str]) -> Settings:
        """The settings by which a program with these publishes to a train that was declared so: what the declaration
        says of publishing counts, unless this version can't read it."""
        ours = self.declared()
        theirs = {name: declared[name] for name in _PUBLISHING if declared.get(name, ours[name]) != ours[name]}
        known: dict[str, Any] = {}
        for name, text in theirs.items():
            with suppress(UsageError, ValueError, SyntaxError, RecursionError, MemoryError):
                # alone: what fits the train need not fit this program's other settings
                known[name] = getattr(Settings(**{"spares": 0, name: ast.literal_eval(text)}), name)
        if not known:
            return self
        settings = copy.copy(self)
        for name, value in known.items():
            msgspec.structs.force_setattr(settings, name, value)
        return settings

    @property
    def cuts_by_wait(self) -> bool:
        """Whether the limit cuts off a wagon in which new events have to wait."""
        return slo(self.limit) is not None

    @property
    def retries(self) -> Retries:
        """How a failed event is retried."""
        return Retries(self.attempts, self.backoff, self.backoff_most)

    def retries_of(self, options: Options) -> Retries:
        """How a failed event of a handler with these options is retried. Raises UsageError if the first pause is longer
        than the longest one."""
        backoff = self.backoff if options.backoff is None else options.backoff
        most = self.backoff_most if options.backoff_most is None else options.backoff_most
        if options.backoff is not None or options.backoff_most is not None:
            check_backoff(backoff, most)
        return Retries(self.attempts if options.attempts is None else options.attempts, backoff, most)

    def declared(self) -> dict[str, str]:
        """The settings on which all programs of a train must agree, as text: those by which observers and workers
        decide."""
        words = {name: repr(getattr(self, name)) for name in _SHARED if name not in ("limit", "archive")}
        words["reuse"] = repr(bool(self.reuse))
        if self.archive is not None:  # trains that were founded by older code have none, and agree
            words["archive"] = repr(self.archive)
        return {"limit": written(self.limit), **words}


class Orchestrated(Settings, frozen=True, kw_only=True):
    """The settings of a train whose workers follow the traffic in an orchestrator that asks for machines. Programs
    without one declare the train in the same words."""

    stated: Settings

    def declared(self) -> dict[str, str]:
        """See Settings.declared."""
        return self.stated.declared()


_WHOLE = {
    "spares": 0,
    "wagons": 1,
    "provision_attempts": 1,
    "attempts": 1,
    "publish_batch": 1,
    "max_event_bytes": 1024,
    "keep": 1,
}
_SECONDS = (
    "cooldown",
    "hold",
    "observe_every",
    "provision_timeout",
    "backoff",
    "backoff_most",
    "handler_timeout",
    "visibility",
    "publish_timeout",
    "grace",
    "member_ttl",
    "lease",
    "keep_drained",
    "keep_warm",
    "idle_after",
)
_NEVER_ZERO = (
    "observe_every",
    "provision_timeout",
    "handler_timeout",
    "visibility",
    "publish_timeout",
    "member_ttl",
    "lease",
)
_BRIEF = ("cooldown", "hold", "observe_every", "backoff", "member_ttl", "lease")
_PUBLISHING = ("max_event_bytes", "at_cap", "hold", "wagons")
"""Those of the declaration that publishers use."""
_SHARED = (
    "limit",
    "workers",
    "spares",
    "reuse",
    "keep_warm",
    "idle_after",
    "prepare",
    "wagons",
    "at_cap",
    "cooldown",
    "hold",
    "attempts",
    "pause_on",
    "once",
    "archive",
    "max_event_bytes",
)


def _ledger(value: object) -> str:
    """A ledger's URL, or `none`. Raises UsageError."""
    found = plain(value)
    if found == NO_LEDGER or (found is not None and "://" in found and split_url(found).scheme):
        return found
    raise UsageError(f"ledger={shown(value)}: give the URL of a directory, as 'sqlite:///var/ledger', or 'none'")


def _is_limit(value: object) -> bool:
    try:
        return isinstance(value, Limit) and not isinstance(value, type)
    except Exception:  # noqa: BLE001 - a user's class may raise anything where it is asked
        return False


def make_settings(**given: Any) -> Settings:
    """Settings from keywords. Raises UsageError for an unknown setting, and says what to write instead."""
    known = Settings.__struct_fields__
    if unknown := {name: value for name, value in given.items() if name not in known}:
        raise UsageError(refusal("setting", unknown, known, of_handler=False))
    return Settings(**given)
