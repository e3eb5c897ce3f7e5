"""`why --look`: replays the looks in a log: what an observer saw, and what `plan` decides on it."""

from __future__ import annotations

import io
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec
from rich.text import Text

from ..contracts.facts import sentence
from ..contracts.manifest import Wagon
from ..display.text import local_time, said
from ..errors import UsageError
from ..event import wagon_name
from ..limits import Pressure, measured, written
from ..policy.edits import Task, words
from ..policy.plan import Plan, plan
from ..policy.record import decode_look, find_looks, record
from ..policy.seen import Seen
from ..views.following import values_of
from ..views.journal import fact_as_json
from .console import Code, Ended, beside, json_line, line, out, say, span

_MOST = 10_000
"""The most looks that are replayed from one file: the newest."""
_LINE_MOST = 10_000_000
"""The most characters of a line that are read at once; a look is shorter."""


def run_again(name: str, *, last: int, as_json: bool) -> None:
    """Print each look in the file, oldest first, with the decision on it; `last`: only so many of the newest (0: the
    10,000 newest). Reports looks that can't be read, and replays the others. Raises UsageError if the file can't be
    read or contains no look, and Ended if any look could not be read."""
    looks: deque[tuple[int, str]] = deque(maxlen=last or _MOST)
    with _opened(name) as file:
        for number, text in enumerate(iter(lambda: file.readline(_LINE_MOST), ""), 1):
            looks.extend((number, word) for word in find_looks(text))
    if not looks:
        raise UsageError(
            f"{name} holds no look: those are words that begin with eventwagon-look-1: in the log of an observer with "
            "--log-level debug"
        )
    broken = 0
    for number, word in looks:
        try:
            seen = decode_look(word)
        except UsageError as e:
            say(f"{name}, line {number}: {e}")
            broken += 1
            continue
        decided = plan(seen)
        if as_json:
            json_line(_as_json(seen, decided))
        else:
            _show(seen, decided)
    if broken:
        raise Ended(Code.USAGE)


@contextmanager
def _opened(name: str) -> Iterator[IO[str]]:
    try:
        if name == "-":
            if isinstance(sys.stdin, io.TextIOWrapper):
                sys.stdin.reconfigure(errors="replace")
            yield sys.stdin
        else:
            with Path(name).open(encoding="utf-8", errors="replace") as file:
                yield file
    except OSError as e:
        raise UsageError(f"--look {name}: it can't be read: {e.strerror or said(e)}") from e
    except ValueError as e:  # a NUL in the name
        raise UsageError(f"--look {name}: it can't be read: {said(e)}") from e


def _show(seen: Seen, decided: Plan) -> None:
    console = out()
    head = f"{local_time(seen.now)}  {seen.manifest.train}"
    if console.is_terminal:
        console.print(Text(head, "bold"))
    else:
        line(head)
    for what, text in _rows(seen, decided):
        if console.is_terminal:
            console.print(beside(Text(f"  {what:<8}", "dim"), text))
        else:
            line(f"  {what:<8}  {text}")


def _rows(seen: Seen, decided: Plan) -> Iterator[tuple[str, str]]:
    """What was seen, then what was decided. Each row is a label and a text."""
    for wagon in seen.manifest.wagons:
        yield "saw", _wagon(seen, wagon)
    pressure = _pressure(seen)
    if pressure is not None:
        yield "limit", f"{written(seen.settings.limit)}: {pressure.value:.2f}, {pressure.why}"
    for fact in decided.facts:
        yield "change", sentence(fact)
    for refusal in decided.refusals:
        yield "refusal", sentence(refusal)
    for task in decided.tasks:
        yield "to do", words(task, seen.manifest.train)
    for phase, error in decided.defects:
        yield "defect", f"{phase}: {said(error)}"
    if decided.manifest is seen.manifest and not decided.refusals and not decided.defects:
        yield "plan", "nothing changes" if seen.manifest.removal is None else "the train is being removed"


def _wagon(seen: Seen, wagon: Wagon) -> str:
    age = seen.ages.wagons.get(wagon.number, 0.0)
    parts = [f"{wagon_name(seen.manifest.train, wagon.number)} {wagon.state} for {span(age)}"]
    reading = seen.readings.get(wagon.number)
    if reading is not None:
        parts.append(f"{_count(reading.published)} taken, {_count(reading.settled)} settled")
        parts.append(f"{_count(reading.outstanding_in_all)} outstanding in all its channels")
    found = seen.deployments.get(wagon.unit)
    if found is None:
        parts.append("no workers are known")
    else:
        elsewhere = f" at {wagon_name(seen.manifest.train, found.number)}" if found.number != wagon.number else ""
        state = "ready" if found.ready else f"not ready ({found.trouble})" if found.trouble else "not ready"
        parts.append(f"{found.workers} workers{elsewhere}, {state}")
    return "; ".join(parts)


def _count(figure: int | None) -> str:
    return "unknown" if figure is None else f"{figure:,}"


def _pressure(seen: Seen) -> Pressure | None:
    active = seen.manifest.active
    reading = seen.readings.get(active.number) if active is not None else None
    return measured(seen.settings.limit, reading)[0] if reading is not None else None


def _as_json(seen: Seen, decided: Plan) -> Mapping[str, object]:
    look = record(seen)
    manifest = msgspec.json.decode(look.manifest)
    manifest["declared"] = values_of(manifest["declared"])
    return {
        "train": seen.manifest.train,
        "seen": {**msgspec.structs.asdict(look), "manifest": manifest},
        "plan": {
            "facts": [fact_as_json(fact) for fact in decided.facts],
            "refusals": decided.refusals,
            "tasks": [_task(task, seen.manifest.train) for task in decided.tasks],
            "defects": [{"phase": phase, "because": said(error)} for phase, error in decided.defects],
            "next_wanted": decided.next_wanted,
        },
    }


def _task(task: Task, train: str) -> Mapping[str, object]:
    return {"task": type(task).__name__, "number": task.number, "sentence": words(task, train)}
