"""Hostile guests: what users' functions, events and listeners do that nobody would do on purpose. Decided by the
scenario and the event's key alone, so that the checker knows of each event whether it may fail."""

from __future__ import annotations

import asyncio
import zlib

from .scenario import INNER, Guest, Scenario

REFUSED: tuple[Guest, ...] = ("refused", "breaks")
"""Those that are hostile to the broker: they are never stored."""
_ONCE = 0.4
"""The share of hostile events that are so at their first attempt alone."""


def guest(scenario: Scenario, key: str) -> Guest | None:
    """What kind of guest the event of that key is; None: an innocent one."""
    if not scenario.guests or _share(scenario, key, "guest") >= scenario.hostility:
        return None
    kinds = scenario.guests
    return kinds[int(_share(scenario, key, "kind") * len(kinds))]


def is_once(scenario: Scenario, key: str) -> bool:
    """It is hostile at its first attempt alone."""
    return _share(scenario, key, "once") < _ONCE


def fate(scenario: Scenario, key: str, channel: str) -> float:
    """A number below 1 that decides how an ordinary handling of the event goes."""
    return zlib.crc32(f"{scenario.seed} {key} {channel}".encode()) / 2**32


def children(scenario: Scenario, key: str, after: str | None) -> list[str]:
    """The keys of what a handling emits."""
    return [f"{key}/{after}{i}" for i in range(scenario.fan_out)] if after else []


def may_die(scenario: Scenario, key: str) -> bool:
    """Whether the event may end among the dead letters: of its own doing, or because what it emits is refused."""
    depth = key.count("/")
    channel = ("", *INNER)[depth]
    kind = guest(scenario, key)
    if kind is not None and kind != "returns" and (kind in REFUSED or not is_once(scenario, key)):
        return True
    mine = fate(scenario, key, channel)
    if mine < scenario.poison or mine > 1.0 - scenario.reject:
        return True
    emits = children(scenario, key, INNER[depth] if depth < len(INNER) else None)
    return any(guest(scenario, child) in REFUSED for child in emits)


def is_strict(scenario: Scenario) -> bool:
    """Nothing but the guests, and single defects of a driver, happens in the run: no innocent event may be touched."""
    return bool(scenario.guests) and all(f.kind == "bug" for f in scenario.faults) and not _stops(scenario)


def _stops(scenario: Scenario) -> bool:
    return scenario.grows_at is not None or any(h.what == "stop" for h in scenario.by_hand)


def _share(scenario: Scenario, key: str, of: str) -> float:
    return zlib.crc32(f"{scenario.seed} {of} {key}".encode()) / 2**32


class Unprintable(Exception):
    """An exception that can't be printed."""

    def __str__(self) -> str:
        raise RuntimeError("simulated: no text")

    __repr__ = __str__


def raised(kind: Guest) -> BaseException | None:
    """What a handler raises for this guest; None where it does something else."""
    match kind:
        case "cancelled":
            return asyncio.CancelledError("simulated: nobody's")
        case "exits":
            return SystemExit(3)
        case "closes":
            return GeneratorExit()
        case "group":
            return BaseExceptionGroup("simulated", [SystemExit(1), KeyError("simulated")])
        case "unprintable":
            return Unprintable()
        case "unencodable":
            return ValueError("simulated: \ud800")
        case _:
            return None
