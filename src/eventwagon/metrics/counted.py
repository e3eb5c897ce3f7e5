"""What is counted of each fact. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..contracts.facts import (
    NOBODY_ATTACHED,
    WHILE_PAUSED,
    BreakerOpened,
    ChannelThreatened,
    ChannelUnserved,
    DeadLettersLost,
    DefectFound,
    DrainGivenUp,
    DrainUnproven,
    EventDied,
    EventRetried,
    EventsLost,
    EventsSkipped,
    Fact,
    OpenRefused,
    PromiseAtRisk,
    ProvisioningFailed,
    ReplayEnded,
    SealWaits,
    StepFailed,
    Switched,
    SwitchRefused,
    WagonDrained,
    WagonReady,
    WorkersLost,
)
from ..event import template_of
from . import instruments as i
from .instruments import Instrument

_CLASS = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,99})(?::|$)")
"""The class of an error at the beginning of its text."""


def counted(fact: Fact) -> Iterator[tuple[Instrument, tuple[str, ...], float]]:
    """The instruments that this fact adds to, with the labels and the amount."""
    train = fact.train
    match fact:
        case Switched():
            yield i.SWITCHES, (train, _cause(fact)), 1
        case WagonReady(seconds=seconds, again=False):
            yield i.READY_TIME, (train,), seconds
        case WagonDrained(seconds=seconds):
            yield i.DRAIN_TIME, (train,), seconds
        case EventRetried(channel=channel):
            yield i.RETRIED, (train, template_of(train, channel)), 1
        case EventsSkipped(channel=channel, count=count):
            yield i.SKIPPED, (train, template_of(train, channel)), count
        case EventDied(channel=channel, because=because):
            yield i.DEAD_EVENTS, (train, template_of(train, channel), why_died(because)), 1
        case EventsLost(count=count):
            yield i.LOST, (train, "event"), count or 0
        case DeadLettersLost(count=count):
            yield i.LOST, (train, "dead_letter"), count
        case BreakerOpened(channel=channel):
            yield i.BREAKERS_OPENED, (train, template_of(train, channel)), 1
        case ReplayEnded(fed=fed, undoes=undoes):
            yield i.REPLAYED, (train, "undo" if undoes else "replay"), fed
        case DrainUnproven() | DrainGivenUp():
            yield i.UNPROVEN, (train,), 1
    if reason := _refused(fact):
        yield i.REFUSALS, (train, reason), 1


def _cause(fact: Switched) -> str:
    if fact.old is None:
        return "first"
    if fact.because.startswith("asked for: "):
        return "request"
    return "limit" if fact.pressure >= 1 else "trouble"


def why_died(because: str) -> str:
    """The reason in one word: a class of errors, or one of a few others."""
    if because.startswith("rejected"):
        return "rejected"
    if because.startswith("can't be decoded"):
        return "undecodable"
    if because.startswith("its process ended"):
        return "killed_its_process"
    if because.startswith("not finished after"):
        return "timeout"
    found = _CLASS.match(because)
    return found[1] if found else "other"


def _refused(fact: Fact) -> str:
    """Why a step was not taken; empty if the fact is no refusal."""
    match fact:
        case SwitchRefused(lasted=lasted) if lasted:
            return ""  # the same one again
        case SwitchRefused(because=because) | OpenRefused(because=because):
            return _why_no_wagon(because)
        case ProvisioningFailed(attempt=attempt) if attempt:
            return "provisioning_failed"
        case WorkersLost(because=because) if because != NOBODY_ATTACHED:
            return "workers_lost"
        case SealWaits():
            return "stale_publisher"
        case DrainUnproven():
            return "drain_unproven"
        case ChannelUnserved():
            return "unserved_channel"
        case ChannelThreatened():
            return "threatened_channel"
        case PromiseAtRisk():
            return "promise_at_risk"
        case StepFailed():
            return "step_failed"
        case DefectFound():
            return "defect"
    return ""


def _why_no_wagon(because: str) -> str:
    if because == WHILE_PAUSED:
        return "paused"
    if because.startswith("the cap of "):
        return "cap"
    if because.startswith("the cooldown of "):
        return "cooldown"
    if "never got ready" in because:
        return "never_ready"
    if " is not ready yet" in because or because == "the next wagon is not opened yet":
        return "next_wagon_not_ready"
    return "other"
