"""What a run is made of, as explicit data: everything that was random is decided here, from one seed."""

from __future__ import annotations

import random
from typing import Literal, get_args

import msgspec

from eventwagon.limits import capacity, parse_limit

Role = Literal["publish", "observe", "work", "serve", "bridge"]

BEFORE, AFTER = "before", "after"

KINDS = (
    "delay",  # the call takes effect `amount` seconds later
    "in-flight",  # the same, even when its process gives up or is killed meanwhile
    "slow",  # it takes effect at once and is answered `amount` seconds later
    "error",  # no effect, Unavailable
    "lost",  # effect, and the answer is lost: PublishUncertain for a publish, else Unavailable
    "twice",  # a publish is stored twice
    "half",  # a deleted channel's content is gone, and it is still listed
    "pause",  # SIGSTOP for `amount` seconds, before the effect
    "pause-after",  # the same between effect and answer
    "crash",  # kill -9 before the effect; a new process of the same role `amount` seconds later
    "crash-after",  # the same between effect and answer
    "cut",  # no call of this process gets through for `amount` seconds
    "clock",  # its wall clock jumps by `amount` seconds
    "unknown",  # some figures of a depth are unknown
    "torn",  # depths are read one channel after another, in any order, `amount` seconds apart
    "late",  # news of the manifest come `amount` seconds late
    "skipped",  # news are left out; the newest come `amount` seconds later
    "old",  # old news come again after the new ones
    "bug",  # no effect, and a TypeError: a defect of the driver
    "hang",  # no effect and no answer, until its caller gives up or the process ends
    "hang-after",  # effect, and no answer
)

INNER = ("a", "b", "c")
"""The names of inner channels."""

RENAMED = ("d", "e", "f")
"""Their new names, in scenarios in which they get some."""

OPS = {
    "publish": 8.0,
    "replace": 5.0,
    "seal": 1.5,
    "delete": 2.0,
    "create": 5.0,
    "attach": 4.0,
    "settle": 6.0,
    "receive": 8.0,
    "release": 2.0,
    "extend": 2.0,
    "depth": 15.0,
    "members": 15.0,
    "read": 15.0,
    "check_in": 8.0,
    "append": 4.0,
    "browse": 2.0,
    "past": 3.0,
    "channels": 2.0,
    "watch": 8.0,
    "handle": 10.0,
    "ensure": 8.0,
    "deployments": 20.0,
    "remove": 1.5,
    "keep": 3.0,
    "claim": 20.0,
    "forget": 2.0,
    "time": 4.0,
    "once": 8.0,
    "record": 4.0,
    "ledger": 2.0,
    "recall": 2.0,
    "archive": 1.5,
    "take": 15.0,
    "commit": 2.0,
    "beat": 15.0,
    "lag": 8.0,
    "step": 400.0,
    "*": 120.0,
}
"""What a fault can hit, and about how often it comes before one strikes. `step`: any await; `*`: any call."""

_OF_ROLE: dict[Role, tuple[str, ...]] = {
    "publish": ("publish", "publish", "publish", "read", "replace", "watch", "*", "step"),
    "observe": (
        "replace",
        "replace",
        "replace",
        "seal",
        "seal",
        "delete",
        "delete",
        "delete",
        "create",
        "depth",
        "depth",
        "members",
        "read",
        "append",
        "browse",
        "channels",
        "publish",
        "watch",
        "*",
        "step",
    ),
    "work": (
        "settle",
        "settle",
        "publish",
        "publish",
        "receive",
        "release",
        "extend",
        "attach",
        "check_in",
        "handle",
        "handle",
        "watch",
        "members",
        "*",
        "step",
    ),
    "bridge": (
        "take",
        "take",
        "commit",
        "commit",
        "commit",
        "commit",
        "publish",
        "publish",
        "publish",
        "beat",
        "lag",
        "append",
        "check_in",
        "watch",
        "*",
        "step",
        "step",
    ),
}

_ANY = (
    "delay",
    "slow",
    "error",
    "error",
    "lost",
    "lost",
    "pause",
    "pause-after",
    "crash",
    "crash",
    "crash-after",
    "crash-after",
    "cut",
    "clock",
)


Guest = Literal[
    "cancelled",  # its handler raises a CancelledError that nobody sent
    "cancels",  # it cancels the task that it runs in
    "exits",  # SystemExit
    "closes",  # GeneratorExit
    "group",  # a BaseExceptionGroup
    "unprintable",  # an exception that can't be printed
    "unencodable",  # one whose text UTF-8 can't hold
    "swallows",  # it goes on when it is cancelled
    "returns",  # it returns rubbish, which is no failure
    "emits",  # it emits what can't be encoded
    "kills",  # its handling kills its process
    "refused",  # the broker refuses the event for good
    "breaks",  # the broker's driver raises a TypeError at it
    "snooze",  # its handler wants it later, once or a few times
    "retry",  # its handler wants another attempt, after a pause of its own
    "stains",  # its handler changes a context variable
]

GUESTS: tuple[Guest, ...] = get_args(Guest)
"""What hostile events do."""
_MILD: tuple[Guest, ...] = ("snooze", "retry", "stains")
_ROUGH: tuple[Guest, ...] = tuple(g for g in GUESTS if g not in _MILD)

_MAY_HANG = ("publish", "settle", "release", "extend")
"""Calls that publishers, workers and observers give up by themselves. All others are the driver's to give up."""

_MAY_BE_IN_FLIGHT = (
    "replace",
    "seal",
    "create",
    "settle",
    "append",
    "ensure",
    "deployments",
    "remove",
    "keep",
    "forget",
    "record",
    "ledger",
    "archive",
    "commit",
)
"""Calls that may arrive although their process gave up."""

_MOST_WORK = 200.0
"""Seconds of work in a run."""
_MOST_WAITING = 400.0
"""Seconds that events for later may wait for wagons, where each of them fills one."""


class Fault(msgspec.Struct, frozen=True):
    """At the `call`-th call of `op` by the process (its successors' calls count on): this happens."""

    process: str
    op: str
    call: int
    kind: str
    amount: float = 0.0


class Arrival(msgspec.Struct, frozen=True):
    """At `at` seconds the process publishes `count` events: one by one at the same time, or as one stream."""

    at: float
    process: str
    count: int
    many: bool = False


class Written(msgspec.Struct, frozen=True):
    """At `at` seconds producers outside write `count` records."""

    at: float
    count: int


class Flow(msgspec.Struct, frozen=True):
    """A flow that others write, which bridges read into the train."""

    partitions: int
    """That the readers share; 0: they claim single records."""
    idle: float
    """Seconds of silence after which what a reader holds goes to others."""
    unmappable: float = 0.0
    """The share of records that can't be events."""
    own: float = 0.0
    """The share of those that have an id of their own."""


class ByHand(msgspec.Struct, frozen=True):
    """At `at` seconds somebody asks the process for a `switch` or a `stop`, to `pause` or `resume` the train, to
    `retry` all dead letters, to `replay` the events of the wagon that went last, to `undo` it, to `cancel` a replay or
    an undo, or to let an undo `go on` that has stopped. What is paused or has stopped still when the trouble is over
    goes on then."""

    at: float
    process: str
    what: Literal["switch", "stop", "pause", "resume", "retry", "replay", "cancel", "undo", "go on"]
    revision: str | None = None
    """The switch is to this code."""
    watch: float | None = None
    wagon: Literal["", "oldest", "active"] = ""
    """Which wagon alone is paused or resumed; empty: the train."""
    publishing: bool = False
    """Publishing is paused too."""
    rate: float | None = None
    """Events per second of the replay."""


class Program(msgspec.Struct, frozen=True):
    """One simulated process: its roles, how far its wall clock is off at the start, and which code it is."""

    name: str
    roles: tuple[Role, ...]
    clock: float = 0.0
    revision: str = ""


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One run. The same scenario gives the same history."""

    seed: int
    limit: str
    workers: str
    settings: dict[str, float | int | str]
    programs: tuple[Program, ...]
    arrivals: tuple[Arrival, ...]
    by_hand: tuple[ByHand, ...] = ()
    faults: tuple[Fault, ...] = ()
    depth: int = 1
    """Handlers in a row: 1 is the ingress alone."""
    fan_out: int = 1
    """Events that a handler emits at most."""
    work: float = 0.1
    """Seconds that a handler takes, about."""
    deeper: float = 1.0
    """How many times longer those of inner channels take."""
    tail: float = 0.0
    """The share of events on which it takes almost as long as it may."""
    poison: float = 0.0
    """The share of events on which a handler always fails."""
    trouble: float = 0.0
    """The share of events on which it fails at first."""
    reject: float = 0.0
    latency: float = 0.0
    """Seconds that a call takes at most."""
    answers: float = 0.0
    """Seconds that an answer takes at most, once its call took effect."""
    torn: float = 0.0
    """The share of depths that are read torn, whatever the faults."""
    unknown: float = 0.0
    """The share of depths in which a figure is unknown, whatever the faults."""
    calm_after: float = 8.0
    """Seconds after the last arrival at which the trouble ends."""
    fences: bool = True
    """The broker refuses writes to a sealed channel."""
    orchestrated: bool = False
    """An orchestrator gives each wagon its workers; else processes that work attach by themselves."""
    per_process: int = 1
    """Workers in each process that the orchestrator starts."""
    grows_at: float | None = None
    """When a new version of the programs is rolled out, with one handler more at the end of the choreography."""
    guests: tuple[Guest, ...] = ()
    """The kinds of hostile guests that come."""
    hostility: float = 0.0
    """The share of events that are hostile."""
    deaf: float = 0.0
    """The share of facts at which a listener raises."""
    steps_back: tuple[tuple[float, int], ...] = ()
    """When the registry steps back, and over how many versions. The broker does not."""
    breaker: bool = False
    """A circuit breaker that opens soon stands before the handlers, though guests come."""
    redeclares: tuple[str, str] | None = None
    """The limit and the workers that the new version of the programs declares instead."""
    renames: tuple[str, ...] | None = None
    """The inner channels that the new version has instead: some have another name, or are gone. It is rolled out at
    `grows_at`, and once more when the trouble is over."""
    batched: tuple[str, ...] = ()
    """The channels whose handlers take batches."""
    batch: int = 1
    within: float = 0.0
    """Seconds that a batch's first event waits for others."""
    surrounded: bool = False
    """Middleware that only passes on surrounds the handlers and publishing."""
    measured: bool = False
    """Each process has a meter."""
    concurrency: int | None = None
    """How many events of the ingress all processes handle at a time."""
    patient: bool = True
    """The version rolled out first still has handlers for the old channels; else it has none, and one that has them
    comes when the trouble is over."""
    later: float = 0.0
    """The share of events that are published, or emitted, for later."""
    recorded: bool = False
    """The train has a ledger."""
    replays: bool = False
    """Past events are kept."""
    undoes: bool = False
    """The train has undo handlers."""
    archived: bool = False
    """The train has an archive."""
    again: float = 0.0
    """The share of events whose handler publishes one more, to the active wagon."""
    pause_on: tuple[float, int] | None = None
    """Observers pause a wagon if this share of its latest so many handlings failed."""
    once: bool = False
    """The train remembers for all of the run what was handled."""
    flow: Flow | None = None
    writes: tuple[Written, ...] = ()
    """What comes in it."""


_CHOSEN = 1000
"""Seeds below this are named in tests for what they show; these have no scenario of many observers or of bridges."""


def draw(seed: int, *, fences: bool = True) -> Scenario:
    """The scenario of a seed."""
    rng = random.Random(seed)
    programs = _programs(rng)
    publishers = [p.name for p in programs if "publish" in p.roles]
    span = rng.uniform(4.0, 16.0)
    arrivals = []
    for _ in range(rng.randint(1, 5)):
        start, length = rng.uniform(0.0, span), rng.choice([0.0, 0.5, 3.0])
        for _ in range(rng.randint(1, 8)):
            many = rng.random() < 0.3
            count = rng.randint(2, 8) if many else rng.randint(1, 3)
            at = round(start + rng.random() * length, 3)
            arrivals.append(Arrival(at, rng.choice(publishers), count, many))
    arrivals.sort(key=lambda a: (a.at, a.process))
    names = [p.name for p in programs]
    by_hand = [
        ByHand(round(rng.uniform(0.0, span + 4.0), 3), rng.choice(names), "stop" if rng.random() < 0.3 else "switch")
        for _ in range(rng.choice([0, 0, 0, 1, 1, 2]))
    ]
    calm = rng.random() < 0.08
    faults = (
        []
        if calm
        else [_fault(rng, rng.choice(programs)) for _ in range(rng.randint(*rng.choice([(1, 6), (4, 14), (10, 30)])))]
    )
    if not fences and not calm:  # what a lease can't fence off: a publish that is held up right before it is sent
        for _ in range(rng.randint(0, 3)):
            kind = rng.choice(["pause", "in-flight"])
            call = 1 + int(rng.expovariate(1 / 3))
            faults.append(Fault(rng.choice(publishers), "publish", call, kind, round(rng.uniform(4.0, 30.0), 3)))
        for _ in range(rng.randint(0, 3)):  # and what it must: a publisher that has not heard of the switch
            call = rng.randint(4, 14)
            faults.append(Fault(rng.choice(publishers), "watch", call, "late", round(rng.uniform(3.0, 20.0), 3)))
        by_hand += [ByHand(round(rng.uniform(1.0, span + 4.0), 3), rng.choice(names), "switch") for _ in range(2)]
    scenario = Scenario(
        seed=seed,
        limit=_limit(rng),
        workers=rng.choice(["each=1", "each=2", "each=3", "total=2, floor=1", "total=3, floor=0", "total=4, floor=1"]),
        settings=_settings(rng),
        programs=tuple(programs),
        arrivals=tuple(arrivals),
        by_hand=tuple(sorted(by_hand, key=lambda h: h.at)),
        faults=tuple(faults),
        depth=rng.choice([1, 2, 2, 3]),
        fan_out=rng.choice([1, 1, 2]),
        work=rng.choice([0.0, 0.02, 0.1, 0.4]),
        tail=rng.choice([0.0, 0.0, 0.25]),
        deeper=rng.choice([1.0, 5.0]),
        poison=rng.choice([0.0, 0.0, 0.05]),
        trouble=rng.choice([0.0, 0.1, 0.3]),
        reject=rng.choice([0.0, 0.0, 0.05]),
        latency=rng.choice([0.0, 0.001, 0.01, 0.1]),
        torn=rng.choice([0.0, 0.4, 1.0, 1.0]),
        unknown=rng.choice([0.0, 0.0, 0.0, 0.1, 0.4]),
        calm_after=8.0 if fences else 24.0,
        fences=fences,
        grows_at=round(rng.uniform(2.0, span), 3) if rng.random() < 0.1 else None,
    )
    units = random.Random(f"{seed} units")
    if units.random() < 0.35:
        scenario = _with_reuse(scenario, units)
    if units.random() < 0.3:
        scenario = _with_revisions(scenario, units, span)
    cluster = random.Random(f"{seed} orchestrated")
    if cluster.random() < 0.25:
        scenario = _orchestrated(scenario, cluster)
    hosts = random.Random(f"{seed} guests")
    if hosts.random() < 0.25:
        scenario = _with_guests(scenario, hosts)
    scenario = _with_mild_guests(scenario, random.Random(f"{seed} mild"))
    breaker = random.Random(f"{seed} breaker")
    if scenario.guests and not scenario.poison and "swallows" not in scenario.guests and breaker.random() < 0.25:
        scenario = msgspec.structs.replace(scenario, breaker=True, hostility=max(0.25, scenario.hostility))
    scenario = _with_batches(scenario, random.Random(f"{seed} batches"))
    scenario = _with_hangs(scenario, random.Random(f"{seed} hangs"))
    scenario = _with_leavers(scenario, random.Random(f"{seed} leavers"))
    registry = random.Random(f"{seed} registry")
    if fences and not scenario.guests and registry.random() < 0.15:
        times = sorted(round(registry.uniform(1.0, span + 4.0), 3) for _ in range(registry.choice([1, 1, 2])))
        back = tuple((at, registry.choice([1, 2, 5, 20, 1000])) for at in times)
        scenario = msgspec.structs.replace(scenario, steps_back=back)
    scenario = _with_pauses(scenario, random.Random(f"{seed} pauses"))
    elastic = random.Random(f"{seed} elastic")
    if scenario.workers.startswith("each=") and scenario.redeclares is None and elastic.random() < 0.35:
        few_to_many = elastic.choice(["1, 4", "1, 12", "2, 12", "2, 40"])
        workers = f"each=Elastic({few_to_many}, promise={elastic.choice([0.3, 1.0, 5.0])})"
        scenario = msgspec.structs.replace(scenario, workers=workers)
    scenario = _with_renames(scenario, random.Random(f"{seed} renames"), span)
    scenario = _with_batch_handlers(scenario, random.Random(f"{seed} batch handlers"))
    scenario = _with_later(scenario, random.Random(f"{seed} later"))
    again = random.Random(f"{seed} again")
    if not scenario.guests and not scenario.later and scenario.renames is None and again.random() < 0.25:
        scenario = msgspec.structs.replace(scenario, again=again.choice([0.3, 1.0]))
    if random.Random(f"{seed} middleware").random() < 0.1:
        scenario = msgspec.structs.replace(scenario, surrounded=True)
    if not scenario.guests and not scenario.batched and random.Random(f"{seed} metrics").random() < 0.2:
        scenario = msgspec.structs.replace(scenario, measured=True)
    budget = random.Random(f"{seed} budget")
    if not scenario.guests and "" not in scenario.batched and budget.random() < 0.12:
        scenario = msgspec.structs.replace(scenario, concurrency=budget.choice([1, 1, 2, 3]))
    rule = random.Random(f"{seed} pause_on")
    if not scenario.guests and rule.random() < 0.2:
        pause_on = rule.choice([0.1, 0.3, 0.6]), rule.choice([1, 3, 8])
        scenario = msgspec.structs.replace(scenario, pause_on=pause_on, trouble=max(0.3, scenario.trouble))
    scenario = _with_retries(scenario, random.Random(f"{seed} retries"))
    scenario = _with_ledger(scenario, random.Random(f"{seed} ledger"))
    scenario = _with_once(scenario, random.Random(f"{seed} once"))
    scenario = _with_replays(scenario, random.Random(f"{seed} replays"))
    scenario = _with_undos(scenario, random.Random(f"{seed} undos"))
    scenario = _with_archive(scenario, random.Random(f"{seed} archive"))
    if seed >= _CHOSEN:
        scenario = _with_many_observers(scenario, random.Random(f"{seed} many observers"))
        scenario = _with_bridges(scenario, random.Random(f"{seed} bridges"))
    return _bearable(scenario)


def unit_process(unit: int, index: int) -> str:
    """The name of a process that the orchestrator starts: the `index`-th of a unit's."""
    return f"u{unit}.{index}"


def _orchestrated(scenario: Scenario, rng: random.Random) -> Scenario:
    """Those that worked are gone, and what was to strike them strikes those that the orchestrator starts; observers
    have trouble with the orchestrator, too."""
    programs = [
        msgspec.structs.replace(p, roles=roles)
        for p in scenario.programs
        if (roles := tuple(r for r in p.roles if r != "work"))
    ]
    names = {p.name for p in programs}
    observers = [p.name for p in programs if "observe" in p.roles]
    faults = [
        f
        if f.process in names
        else msgspec.structs.replace(f, process=unit_process(rng.randint(1, 4), rng.choice([0, 0, 1])))
        for f in scenario.faults
    ]
    if faults:
        for _ in range(rng.randint(0, 6)):
            op = rng.choice(["ensure", "ensure", "deployments", "remove", "remove"])
            faults.append(_fault_at(rng, rng.choice(observers), op))
    by_hand = [
        h if h.process in names else msgspec.structs.replace(h, process=rng.choice(observers)) for h in scenario.by_hand
    ]
    scenario = msgspec.structs.replace(
        scenario,
        programs=tuple(programs),
        faults=tuple(faults),
        by_hand=tuple(by_hand),
        orchestrated=True,
        per_process=rng.choice([1, 2, 4]),
    )
    return _sleepy(scenario, rng) if rng.random() < 0.4 else scenario


_TO_BROKERS: tuple[tuple[Guest, ...], ...] = (("refused",), ("breaks",), ("refused", "breaks"))


def _with_guests(scenario: Scenario, rng: random.Random) -> Scenario:
    """Some events are hostile, a driver has single defects, listeners fail. In half of these nothing else goes wrong,
    so that each innocent event must fare as if it were alone: it loses no attempt but its own, and those that a defect
    cost it."""
    kind = rng.choice(["handlers", "handlers", "broker", "kills", "defects", "all"])
    guests = tuple(rng.sample(_ROUGH, rng.choice([1, 2, 4])))
    if kind == "broker":
        guests = rng.choice(_TO_BROKERS)
    elif kind == "kills":
        guests = ("kills",)
    defects = [
        _defect(rng, rng.choice(scenario.programs))
        for _ in range(rng.randint(2, 8) if kind in ("defects", "all") else 0)
    ]
    faults = scenario.faults if rng.random() < 0.5 else ()
    settings = scenario.settings
    if not faults:
        settings = {**settings, "attempts": len(defects) + 1 if defects else 2}
        hand = tuple(h for h in scenario.by_hand if h.what != "stop")
        scenario = msgspec.structs.replace(scenario, by_hand=hand, grows_at=None)
    elif scenario.grows_at is not None and rng.random() < 0.5:
        workers = rng.choice(["each=1", "each=3"]) if scenario.workers.startswith("each") else "total=3, floor=1"
        scenario = msgspec.structs.replace(scenario, redeclares=(_limit(rng), workers))
    hostility = rng.choice([0.05, 0.1, 0.25])
    if "swallows" in guests:  # each attempt of it holds a worker for both
        settings, hostility = {**settings, "handler_timeout": 1.0, "grace": 0.5}, min(0.1, hostility)
    return msgspec.structs.replace(
        scenario,
        settings=settings,
        faults=(*faults, *defects),
        guests=guests,
        hostility=hostility,
        deaf=0.0 if rng.random() < 0.6 else 0.2,
    )


def _with_mild_guests(scenario: Scenario, rng: random.Random) -> Scenario:
    """Some of the hostile events do nothing worse than ask for a pause, or leave something behind."""
    if not scenario.guests or rng.random() >= 0.4:
        return scenario
    return msgspec.structs.replace(scenario, guests=(*scenario.guests, *rng.sample(_MILD, rng.choice([1, 2, 3]))))


def _with_batches(scenario: Scenario, rng: random.Random) -> Scenario:
    """Where nothing but a driver's defects happens: emits travel together, and some of these calls are struck."""
    if not scenario.faults or any(f.kind != "bug" for f in scenario.faults) or rng.random() >= 0.6:
        return scenario
    if "kills" in scenario.guests:  # each attempt at one costs its process, and there are to be many
        return scenario
    names = [p.name for p in scenario.programs if "work" in p.roles]
    if scenario.orchestrated:
        names = [unit_process(unit, 0) for unit in (1, 2, 3)]
    defects = [Fault(name, "publish", call, "bug") for name in names for call in rng.sample(range(1, 13), 6)]
    faults = (*scenario.faults, *defects)
    return msgspec.structs.replace(
        scenario,
        settings={
            **scenario.settings,
            "attempts": len(faults) + 1,  # one event may meet all
            "backoff_most": 2.0,
            "provision_timeout": 8.0,  # with answers that slow it takes three seconds
        },
        faults=faults,
        workers="each=3" if scenario.workers.startswith("each") else "total=4, floor=1",
        depth=max(2, scenario.depth),
        work=min(0.02, scenario.work),
        tail=0.0,  # what always fails does so at every attempt: were each slow, one event would take minutes
        trouble=0.0,
        latency=0.001,
        answers=0.5,
    )


def _with_leavers(scenario: Scenario, rng: random.Random) -> Scenario:
    """Where nothing else goes wrong: some that work are asked to end while there is work, and answers take their
    time."""
    workers = [p.name for p in scenario.programs if "work" in p.roles]
    if scenario.faults or scenario.guests or not workers or rng.random() >= 0.7:
        return scenario
    asked = [
        ByHand(round(rng.choice(scenario.arrivals).at + rng.choice([0.05, 0.3, 1.0]), 3), rng.choice(workers), "stop")
        for _ in range(rng.randint(1, 4))
    ]
    by_hand = tuple(sorted([*scenario.by_hand, *asked], key=lambda h: h.at))
    settings = {**scenario.settings, "publish_timeout": 15.0}  # no receive takes longer, in which there may be claims
    return msgspec.structs.replace(scenario, by_hand=by_hand, settings=settings, answers=0.3)


_BATCHED: tuple[tuple[str, ...], ...] = (("",), INNER, ("", *INNER, *RENAMED))


def _with_batch_handlers(scenario: Scenario, rng: random.Random) -> Scenario:
    """Some handlers take batches. One that fails costs each of its events an attempt."""
    if rng.random() >= 0.2:
        return scenario
    batched = ("",) if scenario.depth == 1 else rng.choice(_BATCHED)
    settings = {**scenario.settings, "attempts": int(scenario.settings["attempts"]) + 1}
    return msgspec.structs.replace(
        scenario,
        settings=settings,
        batched=batched,
        batch=rng.choice([2, 3, 8]),
        within=rng.choice([0.0, 0.1, 0.5, 2.0]),
    )


_WHICH: tuple[Literal["", "oldest", "active"], ...] = ("", "", "oldest", "active")


def _with_pauses(scenario: Scenario, rng: random.Random) -> Scenario:
    """The train, or a wagon, is paused and resumed while there is work."""
    if rng.random() >= 0.25:
        return scenario
    names, asked = [p.name for p in scenario.programs], list(scenario.by_hand)
    for _ in range(rng.randint(1, 4)):
        at = rng.choice(scenario.arrivals).at + rng.choice([0.0, 0.05, 0.3, 2.0])
        which = rng.choice(_WHICH)
        pause = ByHand(
            round(at, 3), rng.choice(names), "pause", wagon=which, publishing=not which and rng.random() < 0.2
        )
        after = round(at + rng.choice([0.0, 0.1, 1.0, 4.0]), 3)
        asked += [pause, ByHand(after, rng.choice(names), "resume", wagon=which)]
    return msgspec.structs.replace(scenario, by_hand=tuple(sorted(asked, key=lambda h: h.at)))


def _with_retries(scenario: Scenario, rng: random.Random) -> Scenario:
    """Somebody retries the dead letters, now and then, from any process: some die again."""
    if scenario.guests or scenario.renames is not None or scenario.steps_back or rng.random() >= 0.2:
        return scenario
    names, last = [p.name for p in scenario.programs], max(a.at for a in scenario.arrivals)
    asked = [
        ByHand(round(rng.uniform(0.5, last + 4.0), 3), rng.choice(names), "retry") for _ in range(rng.randint(2, 8))
    ]
    by_hand = tuple(sorted((*scenario.by_hand, *asked), key=lambda h: h.at))
    return msgspec.structs.replace(scenario, by_hand=by_hand, reject=rng.choice([0.05, 0.2, 0.5]))


def _with_replays(scenario: Scenario, rng: random.Random) -> Scenario:
    """Somebody has past events handled once more, now and then, from any process."""
    if scenario.guests or scenario.renames is not None or rng.random() >= 0.2:
        return scenario
    names, last = [p.name for p in scenario.programs], max(a.at for a in scenario.arrivals)
    rates = [None, None, 2.0, 20.0]
    asked = [
        ByHand(round(rng.uniform(0.4 * last, last + 6.0), 3), rng.choice(names), "replay", rate=rng.choice(rates))
        for _ in range(rng.randint(1, 5))
    ]
    switches = [ByHand(round(rng.uniform(0.5, last), 3), rng.choice(names), "switch") for _ in range(2)]
    observers = [p.name for p in scenario.programs if "observe" in p.roles]
    faults = [
        _fault_at(rng, rng.choice(observers), rng.choice(["past", "publish", "publish"]))
        for _ in range(rng.randint(0, 5) if scenario.faults and observers else 0)
    ]
    asked += [
        ByHand(round(rng.uniform(0.5 * last, last + 9.0), 3), rng.choice(names), "cancel")
        for _ in range(rng.choice([0, 0, 1, 2]))
    ]
    return msgspec.structs.replace(
        scenario,
        by_hand=tuple(sorted((*scenario.by_hand, *asked, *switches), key=lambda h: h.at)),
        replays=True,
        faults=(*scenario.faults, *faults),
        calm_after=scenario.calm_after + 6.0,
    )


def _with_undos(scenario: Scenario, rng: random.Random) -> Scenario:
    """Somebody has wagons undone, too; some events can't be."""
    if not scenario.replays or scenario.measured or scenario.pause_on is not None or rng.random() >= 0.6:
        return scenario
    names, last = [p.name for p in scenario.programs], max(a.at for a in scenario.arrivals)

    def asked(what: Literal["undo", "go on"], most: int) -> list[ByHand]:
        times = (rng.uniform(0.4 * last, last + 9.0) for _ in range(rng.randint(1, most)))
        return [ByHand(round(at, 3), rng.choice(names), what) for at in times]

    by_hand = (*scenario.by_hand, *asked("undo", 3), *asked("go on", 4))
    return msgspec.structs.replace(
        scenario,
        undoes=True,
        by_hand=tuple(sorted(by_hand, key=lambda h: h.at)),
        calm_after=scenario.calm_after + 6.0,
    )


def _with_archive(scenario: Scenario, rng: random.Random) -> Scenario:
    """Wagons are archived, and the archive has trouble of its own."""
    limits = [scenario.limit, *([scenario.redeclares[0]] if scenario.redeclares else [])]
    if scenario.guests or scenario.steps_back or any(capacity(parse_limit(limit)) is None for limit in limits):
        return scenario
    if rng.random() >= 0.25:
        return scenario
    observers = [p.name for p in scenario.programs if "observe" in p.roles]
    troubles = [
        _fault_at(rng, rng.choice(observers), "archive") for _ in range(rng.randint(0, 4) if scenario.faults else 0)
    ]
    return msgspec.structs.replace(scenario, archived=True, faults=(*scenario.faults, *troubles))


def _with_many_observers(scenario: Scenario, rng: random.Random) -> Scenario:
    """More observe than look all the time. In most of these all that work observe, so that the train may rest; in
    half, the first three fall silent together."""
    if rng.random() >= 0.12:
        return scenario
    programs = [*scenario.programs]
    if rng.random() < 0.7:
        programs = [
            msgspec.structs.replace(p, roles=tuple(sorted({*p.roles, "observe"}))) if "work" in p.roles else p
            for p in programs
        ]
    codes = [p.revision for p in programs]
    roles: tuple[Role, ...] = ("observe",) if scenario.orchestrated or rng.random() < 0.3 else ("observe", "work")
    more = [Program(f"q{n}", roles, revision=rng.choice(codes)) for n in range(rng.choice([3, 4]))]
    scenario = msgspec.structs.replace(scenario, programs=(*programs, *more))
    if not scenario.faults or scenario.guests:
        return scenario
    faults = [*scenario.faults, *(_fault(rng, rng.choice(more)) for _ in range(rng.randint(0, 6)))]
    if rng.random() < 0.6:
        leaders = [p.name for p in programs if "observe" in p.roles][:3]
        leaders += [p.name for p in more][: 3 - len(leaders)]
        kind, call = rng.choice(["crash", "pause", "hang"]), rng.randint(4, 30)
        silent = [Fault(name, "depth", call, kind, round(rng.uniform(6.0, 25.0), 3)) for name in leaders]
        # one that hangs for ever stays a member, and others leave to it what it has begun: nothing else may fail then
        faults = silent if kind == "hang" else [*faults, *silent]
    return msgspec.structs.replace(scenario, faults=tuple(faults))


def _with_bridges(scenario: Scenario, rng: random.Random) -> Scenario:
    """One or two bridges read a flow that others write, and have trouble of their own. Some of them observe, too."""
    if rng.random() >= 1 / 6:
        return scenario
    last = max(a.at for a in scenario.arrivals)
    writes = [Written(round(rng.uniform(0.0, last), 3), rng.choice([1, 2, 4, 7])) for _ in range(rng.choice([1, 2, 3]))]
    codes = [p.revision for p in scenario.programs]
    programs = [
        Program(
            f"b{n}",
            ("bridge", "observe") if rng.random() < 0.25 else ("bridge",),
            rng.choice([0.0, 0.0, 0.5, 3600.0]),
            rng.choice(codes),
        )
        for n in range(rng.choice([1, 2, 2]))
    ]
    # the meter counts letters that are retried and can't be decoded, which no handler is given
    are_decoded = scenario.measured and any(h.what == "retry" for h in scenario.by_hand)
    is_troubled = any(f.kind != "bug" for f in scenario.faults)
    faults, by_hand = [*scenario.faults], [*scenario.by_hand]
    if is_troubled:
        faults += [_fault(rng, rng.choice(programs)) for _ in range(rng.choice([0, 2, 4, 8]))]
        for _ in range(rng.choice([0, 0, 1])):
            faults.append(
                Fault(rng.choice(programs).name, "publish", rng.randint(1, 8), rng.choice(["hang", "hang-after"]))
            )
    elif scenario.faults:  # one more at the same event would make it a dead letter
        faults += [_defect(rng, rng.choice(programs)) for _ in range(2)]
    if is_troubled or not scenario.guests:
        for _ in range(rng.choice([0, 0, 1, 2])):
            at = rng.choice(writes).at + rng.choice([0.05, 0.3, 1.0, 4.0])
            by_hand.append(ByHand(round(at, 3), rng.choice(programs).name, "stop"))
    return msgspec.structs.replace(
        scenario,
        programs=(*scenario.programs, *programs),
        faults=tuple(faults),
        by_hand=tuple(sorted(by_hand, key=lambda h: h.at)),
        flow=Flow(
            partitions=rng.choice([0, 1, 2, 3]),
            idle=rng.choice([2.0, 5.0]),
            unmappable=0.0 if are_decoded else rng.choice([0.0, 0.1, 0.3]),
            own=rng.choice([0.0, 0.5]),
        ),
        writes=tuple(sorted(writes, key=lambda w: w.at)),
    )


def _with_renames(scenario: Scenario, rng: random.Random, span: float) -> Scenario:
    """Inner channels get other names, or go, while wagons have them and old programs work beside new ones."""
    if scenario.grows_at is not None or scenario.guests or scenario.orchestrated or scenario.steps_back:
        return scenario
    if scenario.depth == 1 or not scenario.faults or rng.random() >= 0.12:
        return scenario
    names = [*INNER[: scenario.depth - 1]]
    place = rng.randrange(len(names))
    names[place : place + 1] = [] if rng.random() < 0.3 else [RENAMED[place]]
    return msgspec.structs.replace(
        scenario, grows_at=round(rng.uniform(1.0, span), 3), renames=tuple(names), patient=rng.random() < 0.6
    )


def _with_later(scenario: Scenario, rng: random.Random) -> Scenario:
    """Some events are published and emitted for later, and the timetable has trouble of its own."""
    if scenario.guests or scenario.renames is not None or rng.random() >= 0.2:
        return scenario
    names = [p.name for p in scenario.programs]
    troubles = [
        _fault_at(rng, rng.choice(names), rng.choice(["keep", "claim", "claim", "forget", "time"]))
        for _ in range(rng.randint(0, 6) if scenario.faults else 0)
    ]
    return msgspec.structs.replace(scenario, later=rng.choice([0.1, 0.5, 1.0]), faults=(*scenario.faults, *troubles))


def _with_once(scenario: Scenario, rng: random.Random) -> Scenario:
    """What was handled is not handled again, and the record of it has trouble of its own."""
    if scenario.guests or scenario.renames is not None or rng.random() >= 0.15:
        return scenario
    names = [p.name for p in scenario.programs]
    troubles = [
        _fault_at(rng, rng.choice(names), rng.choice(["once", "record"]))
        for _ in range(rng.randint(0, 4) if scenario.faults else 0)
    ]
    publishers = [p.name for p in scenario.programs if "publish" in p.roles]
    copies = [Fault(rng.choice(publishers), "publish", n, "twice") for n in range(1, rng.choice([2, 5, 9]))]
    settings = {**scenario.settings, "once": 36_000.0}
    faults = (*scenario.faults, *troubles, *(copies if scenario.faults else ()))
    return msgspec.structs.replace(scenario, once=True, settings=settings, faults=faults)


def _with_ledger(scenario: Scenario, rng: random.Random) -> Scenario:
    """The train has a ledger, which has trouble of its own."""
    if scenario.guests or rng.random() >= 0.25:
        return scenario
    observers = [p.name for p in scenario.programs if "observe" in p.roles]
    troubles = [
        _fault_at(rng, rng.choice(observers), rng.choice(["ledger", "ledger", "recall"]))
        for _ in range(rng.randint(0, 5) if scenario.faults else 0)
    ]
    return msgspec.structs.replace(scenario, recorded=True, faults=(*scenario.faults, *troubles))


def _with_hangs(scenario: Scenario, rng: random.Random) -> Scenario:
    """Some calls are never answered."""
    if all(f.kind == "bug" for f in scenario.faults) or rng.random() >= 0.2:
        return scenario
    hangs = []
    for _ in range(rng.randint(1, 4)):
        op, kind, process = (
            rng.choice(_MAY_HANG),
            rng.choice(["hang", "hang-after"]),
            rng.choice(scenario.faults).process,
        )
        hangs.append(Fault(process, op, 1 + int(rng.expovariate(1 / OPS[op])), kind))
    return msgspec.structs.replace(scenario, faults=(*scenario.faults, *hangs))


def _defect(rng: random.Random, program: Program) -> Fault:
    """At a call that no handler makes."""
    calls = [op for op in _OF_ROLE[rng.choice(program.roles)] if op not in ("step", "handle", "*")]
    op = rng.choice(calls)
    return Fault(program.name, op, 1 + int(rng.expovariate(1 / OPS[op])), "bug")


def _sleepy(scenario: Scenario, rng: random.Random) -> Scenario:
    """Workers are sent home soon, and there is time for it between the arrivals. In some no switch ever calls them
    back."""
    arrivals = tuple(msgspec.structs.replace(a, at=round(a.at * 4.0, 3)) for a in scenario.arrivals)
    settings = {**scenario.settings, "spares": 0, "idle_after": rng.choice([0.5, 2.0, 4.0])}
    limit = scenario.limit if rng.random() < 0.7 else "Volume(1000)"
    return msgspec.structs.replace(scenario, arrivals=arrivals, settings=settings, limit=limit)


def _with_reuse(scenario: Scenario, rng: random.Random) -> Scenario:
    settings = {**scenario.settings, "reuse": True, "keep_warm": rng.choice([0.5, 3.0, 10.0])}
    return msgspec.structs.replace(scenario, settings=settings)


def _with_revisions(scenario: Scenario, rng: random.Random, span: float) -> Scenario:
    """Workers of two versions beside each other, and somebody who switches between them, back by itself at times."""
    programs = list(scenario.programs)
    if sum("work" in p.roles for p in programs) < 2:
        programs.append(Program(f"p{len(programs)}", ("work",)))
    codes = iter(["v1", "v2"] * len(programs))
    programs = [
        msgspec.structs.replace(p, revision=next(codes) if "work" in p.roles else rng.choice(["v1", "v2"]))
        for p in programs
    ]
    asked = [
        ByHand(
            round(rng.uniform(1.0, span + 6.0), 3),
            rng.choice(programs).name,
            "switch",
            rng.choice(["v1", "v2", "v2"]),
            rng.choice([None, 0.02, 0.3]),
        )
        for _ in range(rng.randint(1, 4))
    ]
    by_hand = tuple(sorted([*scenario.by_hand, *asked], key=lambda h: h.at))
    return msgspec.structs.replace(scenario, programs=tuple(programs), by_hand=by_hand)


def _bearable(scenario: Scenario) -> Scenario:
    """With handlers so fast that one worker could do all of it in a few minutes: else no rest could be expected."""
    handlers = scenario.depth + (scenario.grows_at is not None)
    times = 1 + sum(h.what in ("replay", "undo") for h in scenario.by_hand)  # each may take all of it once more
    foreign = sum(w.count for w in scenario.writes)
    handlings = (
        times * (sum(a.count for a in scenario.arrivals) + foreign) * sum(scenario.fan_out**n for n in range(handlers))
    )
    slow = 0.7 * float(scenario.settings["handler_timeout"]) * scenario.tail
    if handlings * slow > _MOST_WORK:
        scenario = msgspec.structs.replace(scenario, tail=0.0)
    if handlings * scenario.work * scenario.deeper > _MOST_WORK:
        scenario = msgspec.structs.replace(scenario, work=round(_MOST_WORK / handlings / scenario.deeper, 4))
    settings = scenario.settings
    if not scenario.fences:  # each wagon of a replay stays for `keep_drained`, and an undo has one for each slice
        replays = [h for h in scenario.by_hand if h.what == "replay"][:2]
        undos = [h for h in scenario.by_hand if h.what == "undo"][:1]
        orders = [h for h in scenario.by_hand if h.what not in ("replay", "undo") or h in (*replays, *undos)]
        scenario = msgspec.structs.replace(scenario, by_hand=tuple(orders))
    if not scenario.fences and settings["at_cap"] == "refuse":
        # what is due, or comes by a bridge, waits for a wagon: at the cap each drained one keeps its place for a while
        turns = (handlings * scenario.later + foreign) / (int(settings["wagons"]) - 1)
        if turns * float(settings["keep_drained"]) > _MOST_WAITING:
            scenario = msgspec.structs.replace(scenario, settings={**settings, "at_cap": "fill"})
    return scenario


def _programs(rng: random.Random) -> list[Program]:
    """One to three processes for each role, some with several roles."""
    skew = rng.choice([0.0, 0.0, 0.5, 0.5, 20.0, 3600.0])
    held: list[list[Role]] = []
    roles: tuple[Role, ...] = ("observe", "work", "publish")
    for role in roles:
        for _ in range(rng.choice([1, 1, 2, 2, 3])):
            free = [roles for roles in held if role not in roles]
            if free and rng.random() < 0.5:
                rng.choice(free).append(role)
            else:
                held.append([role])
    return [Program(f"p{n}", tuple(sorted(roles)), round(rng.uniform(-skew, skew), 3)) for n, roles in enumerate(held)]


def _limit(rng: random.Random) -> str:
    volume = f"Volume({rng.choice([1, 1, 2, 3, rng.randint(4, 15)])})"
    other = rng.choice(
        [
            f"Age({rng.choice([1, 3, 8])})",
            f"Lag({rng.randint(2, 8)})",
            f"Throughput({rng.choice([2, 10])}, seconds=1)",
            f"Wait({rng.choice([0.5, 2.0])})",
        ]
    )
    return rng.choice([volume, volume, volume, other, f"{volume} | {other}", f"{volume} & {other}"])


def _settings(rng: random.Random) -> dict[str, float | int | str]:
    wagons = rng.choice([2, 2, 3, 4, 8])
    return {
        "spares": min(rng.choice([0, 0, 1, 1, 2]), wagons - 1),
        "wagons": wagons,
        "at_cap": rng.choice(["fill", "refuse"]),
        "hold": rng.choice([0.0, 0.5, 2.0]),
        "cooldown": rng.choice([0.0, 0.2]),
        "attempts": rng.choice([2, 3, 5]),
        "backoff": rng.choice([0.2, 0.2, 3.0]),
        "observe_every": rng.choice([0.25, 0.5, 1.0]),
        "provision_timeout": rng.choice([2.0, 8.0]),
        "provision_attempts": rng.choice([1, 3]),
        "grace": rng.choice([0.5, 3.0]),
        "member_ttl": rng.choice([2.0, 5.0]),
        "visibility": rng.choice([2.0, 6.0]),
        "handler_timeout": rng.choice([1.0, 5.0]),
        "publish_timeout": rng.choice([3.0, 15.0]),
        "lease": rng.choice([1.0, 3.0]),
        "keep_drained": 40.0,
        "publish_batch": rng.choice([3, 1000]),
        "keep": rng.choice([20, 10_000]),
    }


def _fault(rng: random.Random, program: Program) -> Fault:
    return _fault_at(rng, program.name, rng.choice(_OF_ROLE[rng.choice(program.roles)]))


def _fault_at(rng: random.Random, process: str, op: str) -> Fault:
    call = 1 + int(rng.expovariate(1 / OPS[op]))
    kinds: tuple[str, ...] = _ANY
    if op in _MAY_BE_IN_FLIGHT:
        kinds = (*_ANY, "in-flight")
    if op == "publish":
        kinds = (*_ANY, "lost", "in-flight", "in-flight", "twice", "twice")
    elif op == "delete":
        kinds = (*_ANY, "in-flight", "half", "half", "half", "half")
    elif op == "depth":
        kinds = (*_ANY, "unknown", "unknown", "torn", "torn", "torn")
    elif op == "watch":
        kinds = ("late", "skipped", "old")
    elif op == "step":
        kinds = ("crash", "crash", "pause")
    elif op == "handle":
        kinds = ("crash", "pause", "delay")
    kind = rng.choice(kinds)
    return Fault(process, op, call, kind, _amount(rng, kind))


def _amount(rng: random.Random, kind: str) -> float:
    if kind in ("error", "lost", "twice", "half", "unknown", "old"):
        return 0.0
    if kind == "clock":
        return rng.choice([-1, 1]) * rng.choice([0.3, 5.0, 60.0, 3600.0])
    if kind == "torn":
        return round(rng.choice([0.01, 0.1, 0.5]), 3)
    return round(rng.choice([0.05, 0.5, 2.0, 5.0, 12.0, 25.0]) * rng.uniform(0.5, 1.0), 3)
