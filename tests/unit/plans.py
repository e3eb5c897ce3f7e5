"""Manifests and readings in few words, and what `plan` makes of them."""

from __future__ import annotations

from typing import Any

from eventwagon import Reading, Settings, Volume, Workers
from eventwagon.contracts.broker import Capabilities
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest, Wagon, check
from eventwagon.contracts.orchestrator import Deployment
from eventwagon.contracts.registry import Member
from eventwagon.event import Channel
from eventwagon.policy.edits import Edit
from eventwagon.policy.plan import Plan, plan
from eventwagon.policy.seen import Ages, Seen

NOW = 1000.0
SETTINGS = Settings(limit=Volume(100), workers=Workers(each=2))


def wagon(number: int, state: State, **fields: Any) -> Wagon:
    times: dict[str, Any] = {"opened_at": 900.0}
    if state is not State.PROVISIONING:
        times["created_at"] = 900.0
    if state in (State.ACTIVE, State.DRAINING, State.DRAINED, State.REMOVING):
        times.update(active_at=900.0, turn=number)
    if state in (State.DRAINING, State.DRAINED, State.REMOVING):
        times["closed_at"] = 990.0
    if state in (State.DRAINED, State.REMOVING):
        times.update(sealed_at=991.0, drained_at=992.0)
    return Wagon(**{"number": number, "state": state, **times, **fields})


def manifest(*wagons: Wagon, **fields: Any) -> Manifest:
    next_number = max((w.number for w in wagons), default=0) + 1
    return Manifest(**{"train": "t", "wagons": wagons, "next_number": next_number, "declared": {"x": "y"}, **fields})


def reading(number: int, published: int, settled: int = 0, **fields: Any) -> Reading:
    outstanding = published - settled
    return Reading(
        **{
            "number": number,
            "at": NOW,
            "age": 100.0,
            "published": published,
            "settled": settled,
            "waiting": outstanding,
            "outstanding_in_all": outstanding,
            **fields,
        }
    )


def ready(*numbers: int) -> dict[int, Deployment]:
    return {n: Deployment(number=n, ready=True, workers=2) for n in numbers}


def capabilities(*, bounds: bool = True, fences: bool = True) -> Capabilities:
    return Capabilities(fences=fences, bounds=bounds, totals=True, durable=True, shared=True)


def look(
    m: Manifest,
    readings: list[Reading] | None = None,
    deployments: dict[int, Deployment] | None = None,
    *,
    settings: Settings = SETTINGS,
    members: list[Member] | None = None,
    now: float = NOW,
    bounds: bool = True,
    fences: bool = True,
    ages: dict[int, float] | None = None,
    leftovers: tuple[Channel, ...] = (),
    orchestrated: bool = False,
    **of_all: float,
) -> Seen:
    """A look at that train. `ages` by wagon; `of_all`: the other ages."""
    return Seen(
        now=now,
        settings=settings,
        capabilities=capabilities(bounds=bounds, fences=fences),
        manifest=m,
        readings={r.number: r for r in readings or []},
        deployments=ready(*(w.number for w in m.wagons)) if deployments is None else deployments,
        members=members or [],
        ages=Ages(wagons=ages or {}, **of_all),
        leftovers=leftovers,
        orchestrated=orchestrated,
    )


def decide(m: Manifest, *of: Any, **more: Any) -> Plan:
    decided = plan(look(m, *of, **more))
    check(decided.manifest)
    return decided


def states(decided: Edit) -> dict[int, State]:
    return {w.number: w.state for w in decided.manifest.wagons}


def one(facts: tuple[Any, ...], kind: type) -> Any:
    (fact,) = [f for f in facts if isinstance(f, kind)]
    return fact
