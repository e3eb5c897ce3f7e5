"""A train of any size as an observer sees it, for the production code of policy to decide on. Pure."""

from __future__ import annotations

import msgspec

from eventwagon import Settings, Volume, Workers
from eventwagon.contracts.broker import Capabilities
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest, Wagon
from eventwagon.contracts.orchestrator import Deployment
from eventwagon.contracts.reading import Reading
from eventwagon.contracts.registry import Member
from eventwagon.policy.seen import Ages, Seen

NOW = 1_000_000.0
_FULL = 10_000
_FENCED = Capabilities(fences=True, bounds=False, totals=True, durable=True, shared=True)


def settings(wagons: int, each: int) -> Settings:
    """Those of the train: a spare is kept."""
    return Settings(limit=Volume(_FULL), workers=Workers(each=each), spares=min(1, wagons - 1), wagons=max(32, wagons))


def manifest(wagons: int) -> Manifest:
    """The oldest drain, one is active, and the newest is its spare."""
    active = max(1, wagons - 1)
    return Manifest(
        train="scaled", wagons=tuple(_wagon(n, active) for n in range(1, wagons + 1)), next_number=wagons + 1
    )


def _wagon(number: int, active: int) -> Wagon:
    at = NOW - 1000 + number / 1000
    if number > active:
        return Wagon(number=number, state=State.READY, opened_at=at, created_at=at, ready_at=at)
    drains = number < active
    return Wagon(
        number=number,
        state=State.DRAINING if drains else State.ACTIVE,
        opened_at=at,
        created_at=at,
        ready_at=at,
        active_at=at,
        turn=number,
        closed_at=at + 0.001 if drains else None,
        sealed_at=at + 0.002 if drains else None,
    )


def seen(processes: int, wagons: int, each: int, *, full: bool = False, now: Manifest | None = None) -> Seen:
    """One look at it. `full`: the active wagon is; else nothing waits there."""
    train = now or manifest(wagons)
    share = max(1, each // processes)
    deployments = {w.unit: Deployment(number=w.number, ready=True, workers=each) for w in train.wagons}
    return Seen(
        now=NOW,
        settings=settings(wagons, each),
        capabilities=_FENCED,
        manifest=train,
        readings={w.number: _reading(w, full=full) for w in train.wagons},
        deployments=deployments,
        members=[
            Member(name=f"process-{n:05}", roles=("observe", "work"), shared_workers=share) for n in range(processes)
        ],
        ages=Ages(wagons={w.number: 100.0 for w in train.wagons}, idle=100.0),
    )


def _reading(wagon: Wagon, *, full: bool) -> Reading:
    waiting = 1 if wagon.state is State.DRAINING else _FULL * full if wagon.state is State.ACTIVE else 0
    return Reading(
        number=wagon.number,
        at=NOW,
        age=100.0,
        published=waiting,
        settled=0,
        waiting=waiting,
        outstanding_in_all=waiting,
    )


def member(number: int, wagons: range, workers: int) -> Member:
    """A process that works for these wagons."""
    attachments = tuple(Deployment(number=n, ready=True, workers=workers, channels=(), losses=0) for n in wagons)
    return msgspec.structs.replace(
        Member(name=f"process-{number:05}", roles=("observe", "work", "publish"), channels=()), attachments=attachments
    )
