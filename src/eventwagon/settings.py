"""Every setting of a train, with its unit, its default and the reason for it. Frozen, checked when made. Pure."""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

from .breaker import Breaker, Retries
from .errors import UsageError
from .limits import Limit, Volume, check_stated, check_written, written
from .values import in_seconds, real, shown, whole
from .workers import Workers

AtCap = Literal["fill", "refuse"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a train is told besides its name and handlers. All times are in seconds."""

    limit: Limit = Volume(10_000)
    """When a wagon is full. The default is the pattern's own example."""
    workers: Workers = Workers(total=8, floor=1)
    """Who works: `Workers(each=…)` a wagon, or `Workers(total=…, floor=…)` shared."""
    spares: int = 0
    """READY wagons kept ahead: with one, a switch costs publishers nothing. 0: the next is made at the `prepare`
    mark."""
    reuse: bool = False
    """A drained wagon's warm workers become the next wagon's, so that a switch in a long burst starts nothing cold;
    they are kept as one spare more. Worth it where wagons have processes of their own; a shared crew is never cold."""
    keep_warm: float = 60.0
    """How long a READY wagon beyond `spares` is kept that no switch needs: bursts come in waves."""
    idle_after: float = 300.0
    """With an orchestrator and `spares=0`: the active wagon's workers end after so long with nothing to do; the next
    event wakes them. As long as autoscalers wait by default. 0: never."""
    prepare: float = 0.5
    """The pressure at which the next wagon is made. Half full leaves as long again as it took so far."""
    wagons: int = 32
    """How many may live at once, spares included: never silently unbounded."""
    at_cap: AtCap = "fill"
    """At the cap: `fill` (the active wagon goes on past its limit) or `refuse` (publish raises TrainFull)."""
    cooldown: float = 0.2
    """The shortest life of an active wagon, so that a limit which is full at once can't spin. Exact bounds and
    switches by hand don't wait for it."""
    hold: float = 2.0
    """How long publishers are held at a wagon that is exactly full while the next gets ready; then it is filled on."""
    observe_every: float = 0.1
    """Between two looks of an observer: a fraction of what a newcomer notices, and cheap (see the benchmarks)."""
    provision_timeout: float = 30.0
    """How long a wagon's workers may take to be ready before the attempt counts as failed."""
    provision_attempts: int = 4
    """Attempts at making a wagon before it is FAILED and removed; another is opened after a longer pause."""
    attempts: int | None = None
    """How often an event is handled before it goes to the dead letters. None: five times while its channel works, and
    for ten minutes at least while nothing else there succeeds, so that an outage kills nothing. 1: never again,
    whatever happens."""
    backoff: float = 0.5
    """The first pause before an event is tried again; doubled each time. Each pause is between a half of that and the
    whole."""
    backoff_most: float = 30.0
    """The longest such pause: that much later than a service comes back, at the most, its events are tried again."""
    breaker: Breaker | None = Breaker()
    """When a channel counts as broken, so that nothing of it is handed out but one probe at a time. None: never."""
    handler_timeout: float = 60.0
    """How long a handler may take for one event before it is cancelled and the event tried again."""
    visibility: float = 30.0
    """How long a claimed event stays with a worker that says nothing; a living one extends it. A killed worker's
    events come back after this long, or at once where its end is proven."""
    publish_timeout: float = 30.0
    """The deadline of a publish unless the caller gives one."""
    publish_batch: int = 1000
    """The most events in one call to the broker."""
    max_event_bytes: int = 262_144
    """The largest event, data and attributes: what every supported broker takes unless it was set up for less."""
    grace: float = 30.0
    """How long a worker that is asked to end may finish what it has in hand."""
    member_ttl: float = 5.0
    """A process that has not checked in for this long counts as gone."""
    lease: float = 5.0
    """Where the broker can't refuse writes: how long a process may publish on a manifest before it must look again, and
    the longest that one send may take. Shorter: sooner sealed; longer: less chatter."""
    keep_drained: float = 60.0
    """Where the broker can't refuse writes: how long a drained wagon's channels stay, so that what a paused process
    still sends there is found and published anew. Longer than any pause that you expect."""
    keep: int = 10_000
    """Journal entries kept; the oldest go."""

    def __post_init__(self) -> None:
        if not isinstance(self.limit, Limit) or isinstance(self.limit, type):
            raise UsageError(f"limit={shown(self.limit)} is not a limit: it has no measure(reading)")
        check_written(self.limit)
        check_stated(self.limit)
        if not isinstance(self.workers, Workers):
            raise UsageError(f"workers={shown(self.workers)}: give Workers(each=…) or Workers(total=…, floor=…)")
        if not isinstance(self.at_cap, str) or self.at_cap not in get_args(AtCap):
            raise UsageError(f"at_cap={shown(self.at_cap)}: give 'fill' or 'refuse'")
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            if not (value is None and name == "attempts"):
                msgspec.structs.force_setattr(self, name, whole(name, value, least=least))
        for name in _SECONDS:
            zero, brief = name not in _NEVER_ZERO, name in _BRIEF
            number = in_seconds(f"{name} (seconds)", getattr(self, name), zero=zero, brief=brief)
            msgspec.structs.force_setattr(self, name, number)
        if self.breaker is not None and not isinstance(self.breaker, Breaker):
            raise UsageError(f"breaker={shown(self.breaker)}: give Breaker(…) or None")
        msgspec.structs.force_setattr(self, "prepare", real("prepare", self.prepare))
        if self.prepare > 1:
            raise UsageError(f"prepare must be above 0 and at most 1, not {self.prepare!r}")
        if not isinstance(self.reuse, bool):
            raise UsageError(f"reuse must be True or False, not {self.reuse!r}")
        if self.spares >= self.wagons:
            raise UsageError(f"spares={self.spares} leaves no room for an active wagon among wagons={self.wagons}")

    @property
    def retries(self) -> Retries:
        """How a failed event is tried again."""
        return Retries(self.attempts, self.backoff, self.backoff_most)

    def declared(self) -> dict[str, str]:
        """What all programs of a train must agree on, in words: what observers and workers decide by."""
        words = {name: repr(getattr(self, name)) for name in _SHARED if name != "limit"}
        return {"limit": written(self.limit), **words}


_WHOLE = {
    "spares": 0, "wagons": 1, "provision_attempts": 1, "attempts": 1, "publish_batch": 1, "max_event_bytes": 1024, "keep": 1,
}  # fmt: skip
_SECONDS = (
    "cooldown", "hold", "observe_every", "provision_timeout", "backoff", "backoff_most", "handler_timeout", "visibility",
    "publish_timeout", "grace", "member_ttl", "lease", "keep_drained", "keep_warm", "idle_after",
)  # fmt: skip
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
    "max_event_bytes",
)


def make_settings(**given: Any) -> Settings:
    """Settings from keywords. Raises UsageError for an unknown one, naming those there are."""
    unknown = given.keys() - set(Settings.__struct_fields__)
    if unknown:
        raise UsageError(
            f"unknown setting {', '.join(sorted(unknown))}; there are: {', '.join(sorted(Settings.__struct_fields__))}"
        )
    return Settings(**given)
