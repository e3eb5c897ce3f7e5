"""A wagon's figures as the observer read them: limits and `plan` decide on these. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import msgspec


class Sample(msgspec.Struct, frozen=True, gc=False):
    """The figures of a wagon's ingress in one pass. `at` is in seconds of the observer's steady clock, which nobody can
    set; the totals count from when the wagon was opened."""

    at: float
    published: int
    settled: int
    waiting: int


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one wagon at the time `at`, those of its ingress channel unless stated otherwise.

    A figure that the broker does not know is None, never a guess. Ages and times are in seconds; rates are events
    per second; `samples` are the looks of the last minute or so, oldest first, for limits that need a past.
    """

    number: int
    at: float
    age: float
    """Seconds since the wagon became ACTIVE, by the observer's steady clock from when it saw that; 0 before."""
    published: int | None = None
    settled: int | None = None
    waiting: int | None = None
    in_flight: int | None = None
    oldest_age: float | None = None
    """How long the oldest waiting event has waited; None if none waits."""
    newest_age: float | None = None
    """How long the newest waiting event has waited; None if none waits."""
    settle_rate: float | None = None
    """Events settled per second while there was a backlog; None until there was one (see `busy_rate`)."""
    outstanding_in_all: int | None = None
    """Published and not settled, over all channels of the wagon; None while any of them is unknown."""
    inner: Mapping[str, int | None] = {}
    """The same for each inner channel, by name."""
    lost: int = 0
    """Events that disappeared without being settled, over all channels, as reported or seen: see `Losses`."""
    lost_because: str = ""
    empty: bool = False
    """All channels are proven empty: the sum of the settled totals, read first, equals that of the published totals,
    read after. Vanished channels hold no events."""
    missing: tuple[str, ...] = ()
    """The wagon's channels that the broker does not have, by name; they may come back, or be created again."""
    irreplaceable: Mapping[str, str] = {}
    """Inner channels that are missing and can't be created again, and why, if that is known."""
    vanished: Mapping[str, int | None] = {}
    """Missing channels that stayed away, and how many events were lost with each; None: unknown."""
    exhausted: tuple[str, ...] = ()
    """The wagon's channels that can take no more events, by name."""
    undeliverable: Mapping[str, bool] = {}
    """The wagon's channels whose events can only be read, by name, and whether they have been so for long enough to
    count as lost for good."""
    samples: Sequence[Sample] = ()
    crowding: float = 0.0
    """Live wagons as a share of the cap."""
    emitted: int = 0
    """Events published to the wagon's inner channels, as far as known."""
    wait: float | None = None
    """Seconds until a worker will take an event published now, counting workers that are attached or starting. Known
    only for the active wagon, and if the workers follow the traffic."""
    relief: bool = True
    """The next wagon has enough workers to take over; known if `wait` is."""

    @property
    def outstanding(self) -> int | None:
        """Published and not yet settled, waiting or in flight."""
        if self.published is None or self.settled is None:
            return None
        return max(0, self.published - self.settled)

    def publish_rate(self, window: float) -> float | None:
        """Events published per second over the last `window` seconds; None until samples span half of it."""
        last = self.samples[-1] if self.samples else None
        if last is None:
            return None
        first = next(s for s in self.samples if s.at >= last.at - window)
        span = last.at - first.at
        if span < window / 2 or span <= 0:
            return None
        return (last.published - first.published) / span


def busy_rate(samples: Sequence[Sample], *, seconds: float = 30.0, least: int = 8) -> float | None:
    """Events settled per second over the stretches of the last `seconds` in which events were waiting throughout.

    Only a stretch with a backlog shows what workers can do: without one they settle what arrives, not what they
    could. None until `least` events have been settled in such stretches (a cold start).
    """
    if not samples:
        return None
    since = samples[-1].at - seconds
    settled, busy = 0, 0.0
    later = None  # the next sample, if events were waiting then
    for sample in reversed(samples):
        at = sample.at
        if at < since:
            break
        if sample.waiting > 0:
            if later is not None and at < later.at:
                settled += later.settled - sample.settled
                busy += later.at - at
            later = sample
        else:
            later = None
    return settled / busy if settled >= least and busy > 0 else None


class History:
    """The samples of the live wagons, bounded in time and number: an observer's memory. Pure, no clock.

    Number 0 has the samples of all wagons together; their totals do not fall when a wagon is removed.
    """

    def __init__(self, *, seconds: float = 60.0, most: int = 600) -> None:
        self._seconds = seconds
        self._apart = seconds / most
        self._of: dict[int, deque[Sample]] = {}

    def add_all(self, samples: Mapping[int, Sample], at: float) -> None:
        """Remember one pass: the figures of all live wagons, by number."""
        together = self._of[0][-1] if self._of.get(0) else Sample(at, 0, 0, 0)
        published, settled = together.published, together.settled
        for number, sample in samples.items():
            before = self._of[number][-1] if self._of.get(number) else None
            published += max(0, sample.published - (before.published if before else 0))
            settled += max(0, sample.settled - (before.settled if before else 0))
            self._add(number, sample)
        self._add(0, Sample(at, published, settled, sum(s.waiting for s in samples.values())))

    def _add(self, number: int, sample: Sample) -> None:
        samples = self._of.setdefault(number, deque())
        if samples and sample.at < samples[-1].at:
            samples.clear()  # the clock went back: start again
        if samples and sample.published < samples[-1].published:
            samples.clear()  # the broker's totals went back
        if len(samples) > 1 and sample.at - samples[-2].at < self._apart:
            samples.pop()  # looks in quick succession: keep only the last one
        samples.append(sample)
        while samples[0].at < sample.at - self._seconds:
            samples.popleft()

    def of(self, number: int) -> tuple[Sample, ...]:
        """The samples of wagon `number`, oldest first."""
        return tuple(self._of.get(number, ()))

    def keep(self, numbers: set[int]) -> None:
        """Forget every wagon but these."""
        for number in self._of.keys() - numbers - {0}:
            del self._of[number]
