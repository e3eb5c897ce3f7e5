"""When a failed event is retried, when it is given up, and when a channel's failures count as an outage. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from .display.text import count
from .errors import UsageError
from .values import in_seconds, real, whole

USUAL = 5
"""Attempts per event if the train does not set a number, as long as the channel works."""
DEATHS = 8
"""Attempts after which an event is dead if its process died during the last one. Failures count too, and those during
an outage are not the event's fault."""
PATIENCE = 600.0
"""Seconds for which an event is retried beyond `USUAL` attempts while no other event of its channel succeeds."""
_HELD_LEAST = 1.0
"""The shortest pause between those retries, in seconds, even if `backoff` is shorter."""
_PROBED = 10
"""Failures after which an event is given up even while the circuit is open, once PATIENCE is over: a channel of nothing
but bad events must drain in the end."""
_REMEMBERED = 1000
"""The most failing events of a channel that a process remembers; it forgets the one that failed longest ago."""
_PROBES_MOST = 100
"""The most events fetched to choose one probe from."""


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """When the circuit breaker of a channel opens, and how it probes. Raises UsageError for a bad value."""

    last: int = 20
    """How many of the latest handlings count."""
    within: float = 60.0
    """Seconds after which a handling no longer counts."""
    least: int = 5
    """How many handlings are enough in sparse traffic, when there are fewer than `last`."""
    sparse: float = 10.0
    """Traffic is sparse when fewer than `last` handlings count and the first of them ended at least this many seconds
    ago."""
    events: int = 3
    """The failures must be of at least this many different events."""
    share: float = 0.8
    """The share of failures at which the breaker opens."""
    pause: float = 1.0
    """Seconds before the first probe; doubled after each failed probe. The actual pause is a random value between half
    of that and all of it."""
    pause_most: float = 10.0
    """The longest pause in seconds: the channel resumes at most this long after the service is back."""

    def __post_init__(self) -> None:
        for name in ("last", "least", "events"):
            msgspec.structs.force_setattr(self, name, whole(f"Breaker: {name}", getattr(self, name)))
        for name in ("within", "sparse", "pause", "pause_most"):
            value = in_seconds(f"Breaker: {name}", getattr(self, name), zero=name == "sparse", brief=name == "pause")
            msgspec.structs.force_setattr(self, name, value)
        msgspec.structs.force_setattr(self, "share", real("Breaker: share", self.share))
        if self.share > 1:
            raise UsageError(f"Breaker: share must be at most 1, not {self.share!r}")
        if self.least > self.last or self.events > self.last:
            raise UsageError(f"Breaker: least={self.least} and events={self.events} can be at most last={self.last}")
        if self.sparse > self.within:
            raise UsageError(
                f"Breaker: sparse={self.sparse:g} is more than within={self.within:g}: it would never apply"
            )
        if self.pause_most < self.pause:
            raise UsageError(f"Breaker: pause_most={self.pause_most:g} is less than pause={self.pause:g}")


class Retries(NamedTuple):
    """The settings for retrying an event."""

    attempts: int | None
    """None: as many as it takes to outlast an outage."""
    backoff: float
    backoff_most: float

    def pause(self, failures: int, luck: float) -> float:
        """Seconds before the next attempt after that many failures: doubled each time, and scaled to between half and
        all of it by `luck`, which is in [0, 1). Never close to 0: immediate retries prove nothing."""
        return min(self.backoff_most, self.backoff * 2.0 ** min(failures - 1, 60)) * (0.5 + 0.5 * luck)


class Again(NamedTuple):
    """A failed event is retried."""

    pause: float
    """Seconds until the retry."""
    counts: bool
    """Whether the failure counts as one of the event's attempts."""


class _Failing(msgspec.Struct, gc=False):
    """An event that fails in this channel."""

    first: float
    """When it first failed."""
    uncounted: int = 0
    """Failures that did not count as attempts."""


class Circuit:
    """How a channel's handlings end in one process, and whether that process goes on handing out its events.

    Closed: all events flow. Open: only one probe at a time is handed out. All times are in seconds of one monotonic
    clock; `luck` is in [0, 1).
    """

    __slots__ = (
        "_breaker",
        "_floor",
        "_pause",
        "_retries",
        "because",
        "due",
        "failing",
        "held",
        "name",
        "opened_at",
        "probe",
        "probes",
        "recent",
        "worked",
    )

    def __init__(self, name: str, breaker: Breaker | None, retries: Retries) -> None:
        self.name = name
        self.opened_at: float | None = None
        """None: the circuit is closed."""
        self.because = ""
        """Why it is open, with figures."""
        self.held = False
        """Nothing may be handed out now: it is open, and no probe is due or one is under way."""
        self.due = 0.0
        """When the next probe is due."""
        self.probe: str | None = None
        """The id of the event that is being handled as a probe."""
        self.probes = 0
        """Probes that have failed since it opened."""
        self.failing: dict[str, _Failing] = {}
        """The events that fail here, by id, the latest failure last."""
        self._breaker = breaker
        self._retries = retries
        self.recent: deque[float | tuple[float, str]] = deque(maxlen=breaker.last if breaker else 0)
        """The latest handlings: when each ended and, if it failed, the event's id."""
        self.worked = -math.inf
        """The latest start of a handling that ended well."""
        self._floor = -math.inf
        """When the circuit last opened: successes from before that prove nothing any more."""
        self._pause = 0.0

    # --- results of handlings ---------------------------------------------------------------

    def succeeded(self, event_id: str, began: float, now: float) -> bool:
        """A handling ended well. Returns whether that closed the circuit."""
        if began > self.worked:
            self.worked = began
        self.recent.append(now)
        if self.failing:
            self.failing.pop(event_id, None)
        if self.opened_at is None:
            return False
        self.opened_at, self.because, self.probe, self.held = None, "", None, False
        self.recent.clear()
        return True

    def failed(
        self,
        event_id: str,
        attempt: int,
        now: float,
        luck: float,
        *,
        because: str,
        after: float | None = None,
        own: bool = False,
        tells: bool = True,
    ) -> Again | None:
        """A handling failed; it was the event's attempt number `attempt`. Returns how to retry; None: give the event
        up.

        `after`: the pause that the handler asked for, in seconds. `own`: no outage explains this failure, so it counts
        in any case, and the event is given up after eight at the latest. `tells`: the failure says something about the
        channel; that of one event does not, if others of its batch were handled.

        Without a number of attempts set, an event is given up after five attempts only if the channel is known to work:
        another handling that began after this event first failed here has ended well. Otherwise it is retried for ten
        minutes, and its fifth and later failures do not count as attempts. While the circuit is open no failure counts,
        and an event is given up only after ten failures over at least ten minutes, so that a channel of nothing but bad
        events drains in the end.
        """
        known = self.failing.pop(event_id, None) or _Failing(now)
        if self.opened_at is None:
            if tells:
                self.recent.append((now, event_id))
                self._open_if_due(now, luck, because)
        elif event_id == self.probe:
            self.probe = None
            self.probes += 1
            self._wait(now, luck)
        limit, is_open = self._retries.attempts, self.opened_at is not None
        works = self.worked >= known.first and self.worked > self._floor
        if limit == 1 or (own and attempt >= (limit or DEATHS)):  # 1: never twice
            return None
        if is_open:
            if now - known.first >= PATIENCE and attempt + known.uncounted >= _PROBED:
                return None
        elif attempt >= (limit or USUAL) and (limit or works or now - known.first >= PATIENCE):
            return None
        pause = self._retries.pause(attempt + known.uncounted, luck) if after is None else after
        counts = own or (not is_open and (attempt < USUAL or limit is not None))
        if not counts:
            known.uncounted += 1
        if is_open and after is None:
            pause = min(pause, self._pause)
        elif not counts:
            pause = max(pause, _HELD_LEAST)
        self.failing[event_id] = known
        if len(self.failing) > _REMEMBERED:
            del self.failing[next(iter(self.failing))]
        return Again(pause, counts)

    def passed(self, event_id: str, *, gone: bool) -> bool:
        """A handling ended without evidence about the channel; `gone`: the event will not come again. Returns whether
        another probe may take its place."""
        if gone:
            self.failing.pop(event_id, None)
        if event_id != self.probe:
            return False
        self.probe, self.held = None, False
        return True

    # --- handing out ------------------------------------------------------------------------

    def look(self, now: float) -> bool:
        """Whether a probe has become due since the last call."""
        if not self.held or self.probe is not None or now < self.due - 1e-3:  # a timer may be a trifle early
            return False
        self.held = False
        return True

    @property
    def room(self) -> int:
        """How many events to fetch for a probe while the circuit is open, so that some have not failed yet."""
        return 0 if self.held else min(_PROBES_MOST, 2 * len(self.failing) + 1)

    def choose(self, event_ids: Sequence[str]) -> int:
        """The index of the next probe among these events, which are in their order. It is alternately the newest event
        that has not failed here yet, and the one that was tried longest ago, so that neither bad events nor bad luck on
        a first attempt keep the circuit open."""
        if self.probes % 2 == 0:
            fresh = (i for i in reversed(range(len(event_ids))) if event_ids[i] not in self.failing)
            return next(fresh, 0)
        return next((event_ids.index(each) for each in self.failing if each in event_ids), 0)

    def take(self, event_id: str) -> None:
        """The event is handed out as the probe while the circuit is open."""
        self.probe, self.held = event_id, True

    def uncounted(self, event_id: str) -> int:
        """Failures of this event here that did not count as attempts."""
        known = self.failing.get(event_id)
        return known.uncounted if known else 0

    # --- opening ------------------------------------------------------------------------------

    def _open_if_due(self, now: float, luck: float, because: str) -> None:
        breaker = self._breaker
        if breaker is None:
            return
        since = now - breaker.within
        counting = [x for x in self.recent if (x[0] if isinstance(x, tuple) else x) >= since]
        failed = [x[1] for x in counting if isinstance(x, tuple)]
        if len(failed) < breaker.share * len(counting) - 1e-9 or len(set(failed)) < breaker.events:
            return
        if len(counting) < breaker.last:
            oldest = counting[0]
            lasted = now - (oldest[0] if isinstance(oldest, tuple) else oldest)
            if len(counting) < breaker.least or lasted < breaker.sparse:
                return
        self.opened_at = self._floor = now
        self.because = (
            f"{len(failed)} of the last {len(counting)} handlings failed, over {count(len(set(failed)), 'event')}; "
            f"the last: {because}"
        )
        self.probes = 0
        self._wait(now, luck)

    def _wait(self, now: float, luck: float) -> None:
        assert self._breaker is not None  # noqa: S101 - without one it never opens
        self._pause = min(self._breaker.pause_most, self._breaker.pause * 2.0 ** min(self.probes, 60))
        self.due = now + self._pause * (0.5 + 0.5 * luck)
        self.held = True
