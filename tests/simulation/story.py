"""A run as a story that can be read: numbered lines of when, who, what, and where a fault struck."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

from eventwagon.contracts.facts import sentence
from eventwagon.contracts.manifest import Manifest
from eventwagon.policy.reconcile import summary

from .history import (
    Accepted,
    Archived,
    Asked,
    Attached,
    Begun,
    Committed,
    Crashed,
    Created,
    Deleted,
    Delivered,
    Detached,
    Ended,
    Faulted,
    Handled,
    Healed,
    Kept,
    Leaked,
    ManifestSeen,
    Measured,
    Noted,
    Paused,
    Produced,
    PutOff,
    Record,
    Recorded,
    Refused,
    Rested,
    Resumed,
    Revised,
    Running,
    SealedChannel,
    Settled,
    Started,
    SteppedBack,
    Stored,
    TakenAway,
    Tried,
)
from .scenario import Scenario
from .violation import Violation


def story(scenario: Scenario, history: Iterable[Record], violations: Sequence[Violation], *, most: int = 400) -> str:
    """The scenario, what happened, and what was broken by it. Lines that a violation points at are marked."""
    marked = {moment for v in violations for moment in v.moments}
    lines = [f"seed {scenario.seed}: {describe(scenario)}", ""]
    told = [(r, text) for r in history if (text := _tell(r, marked))]
    left_out = max(0, len(told) - most)
    if left_out:
        first = min((r.seq for r, _ in told if r.seq in marked), default=told[-1][0].seq)
        about = next((i for i, (r, _) in enumerate(told) if r.seq >= first), len(told))
        start = max(0, min(about - most // 2, len(told) - most))
        told = told[start : start + most]
        lines.append(f"({left_out} lines left out)")
    for record, text in told:
        mark = ">>" if record.seq in marked else "!!" if isinstance(record, Faulted) else "  "
        lines.append(f"{mark} #{record.seq:<5} {record.at:9.3f} s  {record.by or '-':6} {text}")
    lines += ["", *(f"VIOLATION {v}" for v in violations)]
    return "\n".join(lines)


def describe(scenario: Scenario) -> str:
    """A scenario in a few lines."""
    s = scenario
    programs = "; ".join(
        f"{p.name} {'+'.join(p.roles)}" + (f" (clock {p.clock:+g} s)" if p.clock else "") for p in s.programs
    )
    settings = ", ".join(f"{k}={v}" for k, v in s.settings.items())
    extras = {
        "latency": s.latency,
        "work": s.work,
        "poison": s.poison,
        "trouble": s.trouble,
        "reject": s.reject,
        "torn": s.torn,
        "answers": s.answers,
        "guests": " ".join(s.guests),
        "hostility": s.hostility,
        "deaf": s.deaf,
        "later": s.later,
        "again": s.again,
    }
    said = ", ".join(f"{k}={v}" for k, v in extras.items() if v)
    lines = [
        f"{s.limit}, workers {s.workers}, {s.depth} handlers in a row, {s.fan_out} emitted by each",
        f"  settings: {settings}",
        f"  processes: {programs}",
        f"  arrivals: {', '.join(f'{a.count} by {a.process} at {a.at:g} s' for a in s.arrivals) or 'none'}",
    ]
    if said:
        lines.append(f"  {said}")
    if s.flow is not None:
        shared = f"{s.flow.partitions} partitions" if s.flow.partitions else "single records"
        written = ", ".join(f"{w.count} at {w.at:g} s" for w in s.writes) or "nothing"
        lines.append(f"  a flow of others, shared by {shared}, lost after {s.flow.idle:g} s of silence: {written}")
    if s.by_hand:
        lines.append(f"  by hand: {', '.join(f'{h.what} by {h.process} at {h.at:g} s' for h in s.by_hand)}")
    if s.faults:
        lines.append("  faults:")
        lines += [
            f"    {f.process}'s {f.call}. {f.op}: {f.kind}" + (f" {f.amount:g} s" if f.amount else "") for f in s.faults
        ]
    return "\n".join(lines)


def _wagons(manifest: Manifest) -> str:
    return ", ".join(
        f"{w.number} {w.state}{' (sealed)' if w.sealed_at is not None and w.state == 'draining' else ''}"
        for w in manifest.wagons
    )


def _tell(record: Record, marked: Set[int]) -> str:
    match record:
        case Created():
            bound = f", bound {record.capacity}" if record.capacity is not None else ""
            return f"creates {record.channel}{bound}" + ("" if record.fresh else " (it stands)")
        case Stored():
            return f"stores {record.key} in {record.channel}" + (" (a second time)" if record.twice else "")
        case Kept():
            return f"keeps {record.key} for {record.channel or 'the ingress'} until {record.due:.3f} s"
        case Settled():
            return f"settles {record.key} in {record.channel}"
        case Produced():
            what = "" if record.fits else ", which can't be an event"
            return f"a producer writes {record.key} at {record.position}{what}"
        case Delivered():
            return f"is given {', '.join(record.positions)}"
        case TakenAway():
            return f"has lost {', '.join(record.positions)}"
        case Committed():
            return f"commits {', '.join(record.positions)}"
        case SealedChannel():
            return f"seals {record.channel}" + ("" if record.stood else " (it is gone)")
        case Deleted():
            left = f", with {', '.join(key for _, key in record.left)} in it" if record.left else ""
            return f"deletes {record.channel}{left}" + ("" if record.stood else " (it is gone)")
        case Attached():
            return f"attaches a consumer to {record.channel}"
        case Detached():
            return f"leaves {record.channel}"
        case Revised():
            facts = "; ".join(sentence(f) for f in record.facts)
            return f"version {record.version}: {_wagons(record.manifest) or 'no wagon'}" + (
                f"  [{facts}]" if facts else ""
            )
        case ManifestSeen():
            return f"sees version {record.version}" if record.seq in marked else ""
        case Noted():
            return f"journal: {'; '.join(sentence(f) for f in record.facts)}"
        case Accepted():
            return f"publish of {record.key} returned"
        case Refused():
            return f"publish of {record.key} raised {record.why}"
        case Handled():
            emits = f", emits {', '.join(key for _, key in record.children)}" if record.children else ""
            return f"has handled {record.key} of {record.channel}{emits}"
        case Tried():
            return f"failed at {record.key} of {record.channel}, attempt {record.attempt}: {record.why}"
        case PutOff():
            return f"puts off {record.key} of {record.channel} for {record.seconds:g} s"
        case Leaked():
            return f"sees at {record.key} what {record.left_by} has left"
        case Recorded():
            return f"ledger: wagon {record.record.number} {record.record.ended}: {summary(record.record)}"
        case Measured():
            return f"has measured handlings: {record.handlings}"
        case Archived():
            return f"archives {len(record.rows)} rows of wagon {record.number}{record.late and ', which is gone'}"
        case Started():
            return f"starts, to {', '.join(record.roles)}"
        case Running():
            return "is up"
        case Ended():
            held = f", and keeps {', '.join(record.held)}" if record.held else ""
            return f"ends{': ' + record.error if record.error else ''}{held}"
        case Crashed():
            return "is killed"
        case Paused():
            return f"is stopped for {record.seconds:g} s"
        case Resumed():
            return "goes on"
        case Faulted():
            amount = f" {record.amount:g} s" if record.amount else ""
            return f"FAULT at its {record.call}. {record.op}: {record.kind}{amount}"
        case SteppedBack():
            return f"the registry stepped back to version {record.version}"
        case Begun():
            return f"is handed {record.key} of {record.channel}"
        case Asked():
            return f"is asked for a {record.what}"
        case Healed():
            return "--- the trouble is over: nothing fails any more, nothing is published ---"
        case Rested():
            return "--- the train is at rest ---"
        case _:
            return type(record).__name__
