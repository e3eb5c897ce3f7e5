"""From the measured figures to costs, limits and sizes. Pure, but for the simulation's own virtual time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eventwagon import Settings
from eventwagon.policy.leading import LEADERS, LONGEST

from .figures import Figures, Found
from .measure import EACH, MEASURES, Point
from .model import Bend, Cost, Limit, Shape, bend, fit
from .simulate import Simulated, simulate

_READ_AT_EACH_LOOK = ("look × process", "look × process × wagon")
_FOLLOWED = ("process²", "process² × wagon", "event × process")
TERMS_OF: Mapping[str, Sequence[str]] = {
    "Redis": ("fixed", "process", "consumer", "look", "look × wagon", *_READ_AT_EACH_LOOK, "event"),
    "Kafka": ("fixed", "process", "consumer", "look", "look × wagon", *_FOLLOWED, "event"),
}
"""A look at Redis reads the check-ins that have changed. On Kafka each observer reads all, once each, and each process
follows the log of all claims."""
OF_LOOKS = ("look", "look × wagon", *_READ_AT_EACH_LOOK, "look × wagon²")
_AT_SIZE = (*_READ_AT_EACH_LOOK, "look × wagon²")
"""What only a look at many processes or wagons shows."""
_NETWORK = Limit(what="10 Gbit/s of network", measure="received", most=1.25e9)
_OWN = Limit(what="one core of each process", measure="client_cpu", most=1.0, per_process=True)
LIMITS: Mapping[str, Sequence[Limit]] = {
    "Redis": (Limit(what="the main thread of Redis", measure="server_cpu", most=1.0), _NETWORK, _OWN),
    "Kafka": (Limit(what="8 cores of Kafka", measure="server_cpu", most=8.0), _NETWORK, _OWN),
}
EVERY = Settings().observe_every
FEW = 3
"""Observers, where only some processes observe."""
PROCESSES = (100, 1000, 10_000)
WAGONS = (2, 32, 1000)
"""One is active and one its spare; as many as the default allows; very many."""


def costs_of(name: str, figures: Figures) -> dict[str, Cost]:
    """The fitted costs by measure. What a look at many processes or wagons costs in CPU time is that of the looks that
    were measured at such sizes: Redis's of the replayed ones, the observer's own of those in memory."""
    points, terms = figures.brokers[name].points, TERMS_OF[name]
    costs = {m: fit([(p.shape, p.per_second(m)) for p in points], terms) for m in MEASURES}
    if name == "Redis" and figures.replayed:
        looks = fit([(one.shape, one.server_cpu) for one in figures.replayed], OF_LOOKS[:4])
        costs["server_cpu"] = _with(costs["server_cpu"], looks, OF_LOOKS)
    if figures.looks:
        known = [term for term in terms if term not in _AT_SIZE]
        looks = fit([(one.shape(EACH), one.cpu) for one in figures.looks], OF_LOOKS)
        costs["client_cpu"] = _with(
            fit([(p.shape, p.per_second("client_cpu")) for p in points], known), looks, _AT_SIZE
        )
    return costs


def _with(cost: Cost, other: Cost, terms: Sequence[str]) -> Cost:
    """The one, but for these terms, which are the other's."""
    kept = {name: value for name, value in cost.terms.items() if name not in terms}
    return Cost({**kept, **{name: value for name, value in other.terms.items() if name in terms}}, cost.worst)


def idle(found: Found) -> list[Point]:
    """The points of idle trains with one live wagon, all of whose processes observe."""
    return [p for p in found.points if p.wagons == 1 and not p.rate and p.observers == p.processes]


def shape(processes: int, wagons: int, looking: int | None, *, events: float = 0.0) -> Shape:
    """A train that does not rest, whose observers look as often as they should. `looking`: how many processes observe;
    None: all of them, of which the first three lead."""
    leading = min(processes, LEADERS if looking is None else looking)
    following = processes - leading if looking is None else 0
    looks = leading / EVERY + following / LONGEST
    return Shape(processes=processes, wagons=wagons, each=EACH, looks=looks, events=events)


def bends(name: str, costs: Mapping[str, Cost], wagons: int, looking: int | None) -> Bend | None:
    """Where the first limit of an idle train is reached."""
    return bend(costs, LIMITS[name], lambda processes: shape(processes, wagons, looking))


def error(cost: Cost, point: Point, measure: str) -> float:
    """The model's figure over the measured one."""
    return cost.of(point.shape) / point.per_second(measure)


def simulations(figures: Figures) -> list[Simulated]:
    """All sizes, with all processes observing, and with few."""
    came = []
    for name in figures.brokers:
        costs, limits = costs_of(name, figures), {limit.what: limit for limit in LIMITS[name]}
        for looking in (None, FEW):
            for wagons in WAGONS:
                for processes in PROCESSES:
                    count = processes if looking is None else min(looking, processes)
                    ended = simulate(costs, limits, processes=processes, wagons=wagons, each=EACH, observers=count)
                    came.append(Simulated(name, processes, wagons, count, ended))
    return came
