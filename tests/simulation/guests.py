"""Hostile guests: what users' functions, events and listeners do that nobody would do on purpose. Decided by the
scenario and the event's key alone, so that the checker knows of each event whether it may fail."""

from __future__ import annotations

import asyncio
import zlib

from .scenario import INNER, Guest, Scenario

REFUSED: tuple[Guest, ...] = ("refused", "breaks")
"""Those that are hostile to the broker: they are never stored."""
_HARMLESS: tuple[Guest, ...] = ("returns", "snooze", "stains")
"""Those whose handling never fails."""
FOREIGN = "s"
"""With which the keys of records begin that others write."""
_ONCE = 0.4
"""The share of hostile events that are so at their first attempt alone."""


def guest(scenario: Scenario, key: str) -> Guest | None:
    """What kind of guest the event of that key is; None: an innocent one."""
    if not scenario.guests or share(scenario, key, "guest") >= scenario.hostility:
        return None
    kinds = scenario.guests
    return kinds[int(share(scenario, key, "kind") * len(kinds))]


def is_unmappable(scenario: Scenario, key: str) -> bool:
    """A record of the flow that others write which can't be an event."""
    if scenario.flow is None or not is_foreign(key):
        return False
    return share(scenario, key, "unmappable") < scenario.flow.unmappable


def is_foreign(key: str) -> bool:
    """It is that of a record of the flow that others write."""
    return key[:1] == FOREIGN and key[1:].isdigit()


def is_once(scenario: Scenario, key: str) -> bool:
    """It is hostile at its first attempt alone."""
    return share(scenario, key, "once") < _ONCE


def is_named(scenario: Scenario, key: str) -> bool:
    """In a batch it fails by itself; else it makes the whole batch fail."""
    return share(scenario, key, "named") < 0.5


def fate(scenario: Scenario, key: str, channel: str) -> float:
    """A number below 1 that decides how an ordinary handling of the event goes."""
    return zlib.crc32(f"{scenario.seed} {key} {channel}".encode()) / 2**32


def children(scenario: Scenario, key: str, after: str | None) -> list[str]:
    """The keys of what a handling emits."""
    return [f"{key}/{after}{i}" for i in range(scenario.fan_out)] if after else []


def published(scenario: Scenario, key: str, channel: str) -> list[str]:
    """The keys of what a handling publishes: at most one, and that is the last of its chain."""
    if channel or key.endswith("+") or not scenario.again or share(scenario, key, "again") >= scenario.again:
        return []
    return [f"{key}+"]


def delay(scenario: Scenario, key: str) -> float | None:
    """For how many seconds the event is kept before it is published; None: it is published at once."""
    if not scenario.later or share(scenario, key, "later") >= scenario.later:
        return None
    return round(0.05 + 15.0 * share(scenario, key, "delay") ** 2, 3)


def emitted_after(scenario: Scenario, key: str) -> float | None:
    """The same for an event that a handler emits."""
    return delay(scenario, f"{key} emitted")


def snoozes(scenario: Scenario, key: str) -> int:
    """How often the handling of a `snooze` event puts it off."""
    return 1 + int(share(scenario, key, "snoozes") * 3)


def pause(scenario: Scenario, key: str) -> float:
    """The pause in seconds that a `snooze` or `retry` event's handler asks for."""
    return round(0.2 + 4.0 * share(scenario, key, "pause"), 3)


def may_die(scenario: Scenario, key: str) -> bool:
    """Whether the event may end among the dead letters: of its own doing, or because what it emits is refused."""
    if is_unmappable(scenario, key):
        return True
    kind = guest(scenario, key)
    if kind is not None and kind not in _HARMLESS and (kind in REFUSED or not is_once(scenario, key)):
        return True
    mine = _fate_there(scenario, key)
    return mine < scenario.poison or mine > 1.0 - scenario.reject or _emits_refused(scenario, key)


def may_fail(scenario: Scenario, key: str) -> bool:
    """Whether an attempt at the event may fail of its own doing, or because what it emits is refused."""
    kind = guest(scenario, key)
    if (kind is not None and kind not in _HARMLESS) or is_unmappable(scenario, key):
        return True
    mine = _fate_there(scenario, key)
    return mine < scenario.poison + scenario.trouble or mine > 1.0 - scenario.reject or _emits_refused(scenario, key)


def _fate_there(scenario: Scenario, key: str) -> float:
    return fate(scenario, key, ("", *INNER)[key.count("/")])


def _emits_refused(scenario: Scenario, key: str) -> bool:
    depth = key.count("/")
    emits = children(scenario, key, INNER[depth] if depth < len(INNER) else None)
    return any(guest(scenario, child) in REFUSED for child in emits)


def is_strict(scenario: Scenario) -> bool:
    """Nothing but the guests, and single defects of a driver, happens in the run: no innocent event may be touched."""
    return bool(scenario.guests) and all(f.kind == "bug" for f in scenario.faults) and not _stops(scenario)


def _stops(scenario: Scenario) -> bool:
    return scenario.grows_at is not None or any(h.what == "stop" for h in scenario.by_hand)


def share(scenario: Scenario, key: str, of: str) -> float:
    """A number below 1 that decides something about the event of that key."""
    return zlib.crc32(f"{scenario.seed} {of} {key}".encode()) / 2**32


class Thrown:
    """Marks what the simulation throws: whatever else a bulkhead of the core holds up is a defect."""


def is_thrown(error: BaseException) -> bool:
    """Whether the simulation threw it, or all that it holds."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_thrown, error.exceptions))
    return isinstance(error, Thrown)


class DriversDefect(Thrown, TypeError):
    """What a driver raises that has a defect."""


class Stray(Thrown, asyncio.CancelledError):
    """A cancellation that nobody sent."""


class Exit(Thrown, SystemExit):
    """An end of the program that is none."""


class Close(Thrown, GeneratorExit):
    """A coroutine's end that is none."""


class Failure(Thrown, ValueError):
    """An ordinary failure."""


class Unprintable(Thrown, Exception):
    """An exception that can't be printed."""

    def __str__(self) -> str:
        raise RuntimeError("simulated: no text")

    __repr__ = __str__


def raised(kind: Guest) -> BaseException | None:
    """What a handler raises for this guest; None where it does something else."""
    match kind:
        case "cancelled":
            return Stray("simulated: nobody's")
        case "exits":
            return Exit(3)
        case "closes":
            return Close()
        case "group":
            several: list[BaseException] = [Exit(1), Failure("simulated")]
            return BaseExceptionGroup("simulated", several)
        case "unprintable":
            return Unprintable()
        case "unencodable":
            return Failure("simulated: \ud800")
        case _:
            return None
