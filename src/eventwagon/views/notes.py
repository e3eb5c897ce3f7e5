"""What `status` says below its table, and the dashboard beside it: sentences, each with how bad it is. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from ..contracts.registry import process_of
from ..display.text import count, span
from ..event import wagon_name
from .train import View, WagonView

Level = Literal["bad", "alert", "warn", "request", "info"]
"""`bad`: events are lost, late or refused. `alert`: somebody must act, or has acted. `warn`: worth a look. `request`:
what the train was asked for."""


_DOCTOR = "look at what the server keeps and for how long: eventwagon doctor"


class Note(msgspec.Struct, frozen=True):
    """A sentence on the state of a train."""

    level: Level
    text: str
    todo: str = ""
    """What to do about it, in a few words; empty where the sentence says it, or nothing is known."""


def losses(view: View, wagons: Sequence[WagonView]) -> Iterator[Note]:
    """What was lost of these wagons and of the train, or may be."""
    for w in wagons:
        if w.lost:
            yield Note("bad", f"{w.name} lost {count(w.lost, 'event')}", _DOCTOR)
    if view.dead_lost:
        yield Note("bad", f"{view.dead_lost:,} dead letters went from the broker", _DOCTOR)
    for why in view.threatened:
        yield Note("bad", why, _DOCTOR)


def later_note(view: View) -> Iterator[Note]:
    """How many events wait for their time, if any do."""
    if view.later:
        ahead = "" if view.later_next is None else f", the next in {span(max(0.0, view.later_next - view.at))}"
        yield Note("info", f"later: {count(view.later, 'event')} waiting{ahead}")


def conditions(view: View, wagons: Sequence[WagonView]) -> Iterator[Note]:
    """All else that a person should know of these wagons and of the train."""
    if view.removal:
        yield Note("bad", f"the train is being removed: {view.removal}")
    if view.paused:
        yield Note("alert", f"the train was paused {view.paused}")
    else:
        for w in wagons:
            if w.paused:
                yield Note("alert", f"{w.name} was paused {w.paused}")
    if view.at_risk:
        yield Note("bad", f"the promise to new events can't be kept: {view.at_risk}", "allow more workers")
    if view.refusing:
        yield Note("bad", f"publishers are refused: {view.refusing}", "add workers, or let the train have more wagons")
    if view.stepped_back:
        yield Note("warn", f"the registry stepped back {view.stepped_back}; `why` says what was lost")
    for name, whys in view.open.items():
        where = f" in {len(whys)} processes" if len(whys) > 1 else ""
        yield Note(
            "bad",
            f"the circuit breaker of {name or 'the ingress'} is open{where}: {whys[0]}",
            "look at the service that its handler calls",
        )
    for text in view.unremoved:
        yield Note("warn", text)
    for name, which in view.at_budget.items():
        yield Note("warn", f"events of {name or 'the ingress'} wait for their budget: {'; '.join(which)}")
    for text in view.crashed:
        yield Note("alert", text, "the logs of these processes say more")
    if skipped := sum(a.skipped for m in view.members for a in m.attachments):
        yield Note("info", f"once: these processes skipped {count(skipped, 'event')} that had been handled")
    if view.asked:
        yield Note("request", f"a switch is requested: {view.asked}")
    if view.watched:
        yield Note("request", f"watched: {view.watched}")
    for text in view.replays:
        yield Note("alert" if text in view.stopped else "request", text)
    for text in _missing(view):
        yield Note("warn", text, "run a program that has this handler")
    for m in view.members:
        if m.trouble and "bridge" in m.roles:
            yield Note("bad", m.trouble, "it tries again; its log and `why` say more")
        elif m.trouble:
            yield Note("bad", f"{m.name}: {m.trouble}", "its log says more; restart it")
    if held := sum(m.held for m in view.members):
        text = "workers take no events: their handlers still run in threads after handler_timeout; `why` says which"
        yield Note("warn", f"{held} {text}", "make these handlers end in time, or restart their processes")
    if caught := sum(m.caught for m in view.members):
        yield Note("warn", f"caught {count(caught, 'unexpected failure')}; the logs say which")
    yield from _nobody_works(view, wagons)
    if not any("observe" in m.roles for m in view.members):
        yield Note(
            "warn",
            "no observer is alive: no wagon is switched, drained or removed until one is",
            "start one: eventwagon observe MODULE:TRAIN",
        )


def _nobody_works(view: View, wagons: Sequence[WagonView]) -> Iterator[Note]:
    """What waits, and what is claimed, while no worker is there."""
    if any({"work", "serve"} & {*m.roles} for m in view.members) or any(w.workers for w in wagons):
        return
    if waiting := sum((w.waiting or 0) + (w.inside or 0) for w in wagons):
        yield Note(
            "warn",
            f"{count(waiting, 'event')} waiting, and no process works: nothing is handled until one does",
            "start one: eventwagon work MODULE:TRAIN",
        )
    if claimed := sum(w.in_flight or 0 for w in wagons):
        yield Note(
            "warn",
            f"{count(claimed, 'event')} in flight, and no process works: one that is stopped, cut off or dead has "
            "claimed them; they come again when their claims expire",
            "end that process, if it still exists",
        )


def _missing(view: View) -> list[str]:
    """A sentence for each channel of a wagon that some processes have no handler for."""
    found: dict[tuple[int, str], list[str]] = {}
    for member in view.members:
        for a in (*member.attachments, *member.deployed):
            for channel in a.missing:
                found.setdefault((a.number, channel), []).append(member.name)
    return [
        f"{wagon_name(view.train, n)}: no handler for {channel} in {', '.join(who)}"
        for (n, channel), who in sorted(found.items())
    ]


def who_is_there(view: View) -> str:
    """The live processes by what they do, and how many dead letters are kept."""
    kinds = (({"observe"}, "observing"), ({"work", "serve"}, "working"), ({"bridge"}, "bridging"))
    does = {verb: sum(not roles.isdisjoint(m.roles) for m in view.members) for roles, verb in kinds}
    roles = ", ".join(f"{number} {verb}" for verb, number in does.items() if number or verb != "bridging")
    alive = len({process_of(m) for m in view.members})
    who = f"{count(alive, 'process', 'processes')} ({roles})" if alive else "no process is alive"
    return f"{who}, {'? dead letters' if view.dead is None else count(view.dead, 'dead letter')}"
