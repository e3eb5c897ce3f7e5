"""The checker: a whole history, held against the invariants of the design."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from eventwagon.contracts.facts import ChannelsAdded
from eventwagon.workers import parse_workers

from .check_archive import archived_before_removal
from .check_bridge import bridges_hold
from .check_budgets import budget_kept
from .check_events import Books, events_kept, letters_once, order_of_emits, seals_hold, taken_away
from .check_later import due_events_come
from .check_ledger import recorded_as_done
from .check_manifest import capped, explained, one_active, one_name, ready_before_active, right_code, shared_out
from .check_metrics import measured_as_done
from .check_once import handled_once
from .check_pauses import pauses_hold, rule_kept
from .check_replays import replays_hold
from .check_undos import undos_hold
from .guests import REFUSED, delay, emitted_after, guest, is_strict, may_die, may_fail
from .history import (
    Accepted,
    Crashed,
    Ended,
    Faulted,
    Handled,
    Kept,
    Leaked,
    PutOff,
    Refused,
    Revised,
    SteppedBack,
    Stored,
    Tried,
)
from .run import Run
from .violation import Evidence, Violation

_MOST_WORKERS = 4
"""Of a wagon, in any scenario."""


def check(run: Run) -> list[Violation]:
    """Every violation in a run, at most a few of each kind."""
    return check_evidence(evidence(run))


def evidence(run: Run) -> Evidence:
    """What the checker looks at in a run."""
    settings, rest, strict = run.scenario.settings, run.rest, is_strict(run.scenario)
    could = _could_give_back(run)
    published = [r.key for r in run.history if isinstance(r, Accepted | Refused)] if run.scenario.guests else ()
    return Evidence(
        history=list(run.history),
        spares=int(settings["spares"]),
        keep=int(settings["keep"]),
        wagons=int(settings["wagons"]),
        concurrency=run.scenario.concurrency,
        once=float(settings["once"]) if run.scenario.once else None,
        archived=run.scenario.archived,
        batch=2 * int(settings.get("publish_batch", 1000)),
        member_ttl=float(settings["member_ttl"]),
        elastic=parse_workers(run.scenario.workers).elastic,
        fences=run.scenario.fences,
        recorded=run.scenario.recorded,
        all_counted=not run.scenario.faults and not run.history.of(Crashed),
        reached=rest.reached,
        lacking=rest.lacking,
        left_behind=rest.left_behind,
        unexpected=run.unexpected,
        dead=frozenset(rest.dead.values()),
        longest_journal=run.longest_journal,
        calls=rest.calls,
        most_calls=_most_calls(run) if rest.reached else None,
        short=rest.short,
        charged=tuple(_charged(run)) if strict else (),
        kept=tuple(r.seq for r in run.history.of(Ended) if r.held and not r.error and could),
        punctual=not run.scenario.faults and "kills" not in run.scenario.guests,
        touched=frozenset(key for key in rest.dead.values() if strict and not may_die(run.scenario, key)),
        heard_within=None
        if run.scenario.faults or run.scenario.guests
        else run.scenario.latency + run.scenario.answers,
        late_by=_late_by(run),
        asked={
            k.key: (emitted_after if k.channel else delay)(run.scenario, k.key) or 0.0 for k in run.history.of(Kept)
        },
        unfit=frozenset(key for key in published if guest(run.scenario, key) in REFUSED),
    )


def _late_by(run: Run) -> float | None:
    """Seconds that the calls take until what is due is published, where nothing goes wrong and observers run."""
    scenario = run.scenario
    if not scenario.later or scenario.faults or scenario.by_hand or scenario.steps_back:
        return None
    if scenario.settings["at_cap"] == "refuse" or run.history.of(Crashed):
        return None
    return 6 * (scenario.latency + scenario.answers) + float(scenario.settings.get("hold", 2.0))


def _could_give_back(run: Run) -> bool:
    """Nothing keeps a process that leaves from giving back what it has claimed. A channel that a wagon gets meanwhile
    may: emits wait for it."""
    added = any(isinstance(fact, ChannelsAdded) for revised in run.history.of(Revised) for fact in revised.facts)
    return not run.scenario.faults and not added


def _charged(run: Run) -> Iterator[int]:
    """The handlings of events that do not fail of their own doing, and had more attempts than one, one for a batch that
    failed, and one for each defect that struck a call of their own."""
    struck = [f.keys for f in run.history.of(Faulted) if f.keys]
    for handled in run.history.of(Handled):
        if handled.attempt > 1 and not may_fail(run.scenario, handled.key):
            own = {handled.key, *(child for _, child in handled.children)}
            batches = handled.channel.name in run.scenario.batched
            if handled.attempt > 1 + batches + sum(own.issuperset(keys) for keys in struck):
                yield handled.seq


def check_evidence(case: Evidence) -> list[Violation]:
    """Every violation in a history, at most three of each invariant."""
    books = Books(case.history)
    found: dict[str, list[Violation]] = {}
    for violation in _all(case, books):
        found.setdefault(violation.invariant, []).append(violation)
    return [violation for kind in sorted(found) for violation in found[kind][:3]]


def _all(case: Evidence, books: Books) -> Iterator[Violation]:
    if any(isinstance(record, SteppedBack) for record in case.history):
        # what happened to wagons in the lost time stands in no manifest any more, so it can't be judged by them
        yield from events_kept(books, case.dead)
        yield from order_of_emits(books)
        yield from _at_rest(case)
        yield from one_name(case.history)
        yield from _alive(case)
        yield from budget_kept(case)
        yield from bridges_hold(case)
        return
    yield from events_kept(books, case.dead)
    yield from one_active(case.history)
    yield from ready_before_active(case.history)
    yield from right_code(case.history)
    yield from seals_hold(books, fences=case.fences)
    yield from taken_away(books)
    yield from letters_once(books)
    yield from order_of_emits(books)
    yield from due_events_come(books, asked=case.asked, slack=case.late_by)
    yield from _at_rest(case)
    yield from explained(case.history)
    yield from _bounded(case)
    yield from capped(case.history, case.wagons)
    if case.elastic is not None:
        yield from shared_out(case.history, case.elastic)
    yield from _alive(case)
    yield from _strangers(books, case)
    yield from _put_off(case)
    yield from pauses_hold(case)
    yield from rule_kept(case)
    yield from budget_kept(case)
    yield from measured_as_done(case)
    yield from handled_once(case, books)
    yield from recorded_as_done(case)
    yield from replays_hold(case)
    yield from undos_hold(case)
    yield from archived_before_removal(books, case)
    yield from bridges_hold(case)


def _at_rest(case: Evidence) -> Iterator[Violation]:
    """I7: whatever crashed, in the end the train is at rest, and nothing is leaked."""
    if not case.reached:
        yield Violation(invariant="I7", says=f"the train does not come to rest: {'; '.join(case.lacking)}")
    for what in case.left_behind:
        yield Violation(invariant="I7", says=f"left behind when all had been asked to leave: {what}")
    for moment in case.kept:
        ended = case.history[moment]
        says = f"{ended.by} ended as it was asked to, and had claimed still: {', '.join(ended.held)}"
        yield Violation(invariant="I7", says=says, moments=(moment,))


def _bounded(case: Evidence) -> Iterator[Violation]:
    """I10: what a train costs depends on the wagons that live, not on those that lived."""
    if case.longest_journal > case.keep:
        yield Violation(invariant="I10", says=f"the journal held {case.longest_journal} entries, keep={case.keep}")
    calls = sum(case.calls.values())
    if case.most_calls is not None and calls > case.most_calls:
        most = ", ".join(f"{n} × {op}" for op, n in sorted(case.calls.items(), key=lambda c: -c[1])[:6])
        yield Violation(invariant="I10", says=f"{calls} calls at rest, {case.most_calls} are enough: {most}")


def _most_calls(run: Run) -> int:
    """The calls that looking, checking in and waiting for events need in the quiet seconds, for the live wagons."""
    scenario, wagons = run.scenario, len(run.rest.manifest.wagons)
    looks = run.rest.quiet / float(scenario.settings["observe_every"]) + 2
    checks = 3 * run.rest.quiet / float(scenario.settings["member_ttl"]) + 2
    if run.rest.manifest.watch is not None:
        checks = max(checks, 2 * run.rest.quiet + 2)  # fresh counts
    channels = wagons * scenario.depth
    observers = sum("observe" in p.roles for p in scenario.programs)
    workers = sum("work" in p.roles for p in scenario.programs)
    members = len(scenario.programs)
    each_look = 8
    looks += 2 * run.rest.quiet if scenario.later else 0  # at the timetable
    if scenario.orchestrated:
        each_look += 1 + wagons
        started = wagons * -(-_MOST_WORKERS // scenario.per_process)
        workers += started
        members += started
    polls = run.rest.quiet / 5.0 + 2
    extends = 3 * run.rest.quiet / float(scenario.settings["visibility"]) + 2
    flow, bridges = scenario.flow, sum("bridge" in p.roles for p in scenario.programs)
    reads = 0.0 if flow is None else run.rest.quiet * (1 / 0.5 + 2 / 2.0 + 4 / flow.idle) + 4
    reads *= bridges  # each half a second, the lag and a check-in each two, and what says that it lives
    return int(observers * looks * each_look + members * checks * 3 + workers * channels * (polls + extends) + reads)


def _strangers(books: Books, case: Evidence) -> Iterator[Violation]:
    """Nobody is hurt by what others do: each innocent event is handled, each guest has its own end, no pool gets
    smaller."""
    for what in case.short:
        yield Violation(invariant="pool", says=what)
    for key in sorted(case.touched):
        says = f"{key} is innocent, and ended in the dead letters"
        yield Violation(invariant="strangers", says=says, key=key, moments=tuple(s.seq for s in books.stored[key][:6]))
    for moment in case.charged:
        handled = case.history[moment]
        says = f"{handled.key} is innocent, and had lost attempts: it was handled as attempt {handled.attempt}"
        yield Violation(invariant="strangers", says=says, key=handled.key, moments=(moment,))
    for record in case.history:
        if isinstance(record, Leaked):
            says = f"the handling of {record.key} saw a context variable that {record.left_by} had set"
            yield Violation(invariant="strangers", says=says, key=record.key, moments=(record.seq,))
        if isinstance(record, Refused) and record.key not in case.unfit and "EventRefused" in record.why:
            says = f"{record.key} was refused for another event: {record.why}"
            yield Violation(invariant="strangers", says=says, key=record.key, moments=(record.seq,))
        if isinstance(record, Accepted) and record.key in case.unfit:
            says = f"{record.key} can't be stored, and was accepted"
            yield Violation(invariant="strangers", says=says, key=record.key, moments=(record.seq,))


def _put_off(case: Evidence) -> Iterator[Violation]:
    """An event does not come again before the pause is over that its handler asked for. A copy of it may: its parent
    came again, and emitted it again with the same id."""
    put_off: dict[str, PutOff] = {}
    copies = Counter((record.channel, record.key) for record in case.history if isinstance(record, Stored))
    for record in case.history if case.punctual else ():
        if isinstance(record, Handled | Tried) and (last := put_off.pop(record.id, None)) is not None:
            if copies[record.channel, record.key] <= 1 and record.at < last.at + last.seconds - 1e-3:
                says = f"{record.key} came {record.at - last.at:.3f} s after it was put off for {last.seconds:g} s"
                yield Violation(invariant="pause", says=says, key=record.key, moments=(last.seq, record.seq))
        elif isinstance(record, PutOff):
            put_off[record.id] = record


def _alive(case: Evidence) -> Iterator[Violation]:
    """A process ends when it is asked to, or can't begin; nothing that fails once it runs ends it."""
    for record in case.history:
        if isinstance(record, Ended) and record.error and not record.early:
            yield Violation(
                invariant="alive", says=f"{record.by} ended by itself: {record.error}", moments=(record.seq,)
            )
    for error in case.unexpected:
        yield Violation(invariant="alive", says=f"nothing threw it in the scenario, or nobody caught it: {error}")
