"""The invariant of metrics: what a process measured is what it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from eventwagon.metrics import Metrics
from eventwagon.metrics.instruments import PROCESS_DURATION, TEMPLATE
from eventwagon.metrics.series import Histogram

from .history import Begun, Measured
from .violation import Evidence, Violation

_PLACE = PROCESS_DURATION.labels.index(TEMPLATE)


def handlings_of(metrics: Metrics) -> dict[str, int]:
    """How many handlings were measured, by the channel's name."""
    found: Counter[str] = Counter()
    for family in metrics.collect():
        for labels, value in family.series.items():
            if family.instrument is PROCESS_DURATION and isinstance(value, Histogram):
                found[labels[_PLACE].partition(".")[2]] += sum(value.counts)
    return dict(found)


def measured_as_done(case: Evidence) -> Iterator[Violation]:
    """Each handling that a process began is measured once, whatever became of it, by the time that it has left."""
    begun: dict[str, Counter[str]] = {}
    for record in case.history:
        if isinstance(record, Begun):
            begun.setdefault(record.by, Counter())[record.channel.name] += 1
        elif isinstance(record, Measured):
            did = begun.get(record.by, Counter())
            if dict(did) != record.handlings:
                says = f"{record.by} began handlings {dict(did)} and measured {record.handlings}"
                yield Violation(invariant="measured", says=says, moments=(record.seq,))
