"""Writes docs/scale.md and its picture from the figures."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill

import msgspec

from eventwagon import Settings
from eventwagon.policy.leading import LEADERS

from .analysis import EVERY, FEW, LIMITS, OF_LOOKS, PROCESSES, TERMS_OF, WAGONS, bends, costs_of, error, idle, shape
from .figures import FIGURES, Figures
from .measure import EACH, MEASURES, Point
from .model import Cost, Shape, bend, use
from .simulate import HORIZON, ROUND_TRIP

DOCUMENT = FIGURES.with_name("scale.md")
PICTURE = FIGURES.parent / "images" / "scale.svg"
_TTL = Settings().member_ttl
_CURVES = (1, 32, 1000)
"""Live wagons."""
_FORMS: Mapping[str, tuple[str, float]] = {
    "requests": ("requests", 1.0),
    "sent": ("KB in", 1e-3),
    "received": ("KB out", 1e-3),
    "stored": ("carried out or stored", 1.0),
    "server_cpu": ("server CPU, ms", 1e3),
    "client_cpu": ("processes' CPU, ms", 1e3),
}

_HEAD = """# How far it scales

What do many processes and many live wagons of **one train** ask of its broker, and what gives way first? Real processes
on real servers were counted here with 1, 4 and 16 processes and 1, 4 and 16 live wagons. Beyond that the figures are
those of a cost model and a simulation, and say so. One command measures again, and writes this page and its picture:

```sh
make scale                          # all, about 25 minutes; starts its own servers
make scale ARGS="--only Kafka"      # only the processes on Kafka again; or Redis, or looks
make scale ARGS="--page"            # measure nothing: simulate, and write the page from the figures in docs/scale.json
```

"""

_MEASURED = """## What was counted

Each process observes, works and publishes (`connection.running()`; `observe=False` in those that do not observe), with
the default settings and `Workers(each=4)`.
Every live wagon but the active one is sealed and has an event at work. All requests go through a proxy that counts
them; on Redis the server's own count of bytes must agree, or the run fails. A *look* is one pass of an observer. The
loaded rows publish 40 events a second in all, one a call, of about 200 bytes. All figures are per second, of all
processes together. *Carried out or stored*: commands that Redis carried out, those inside scripts included; records
written to Kafka.

**Counts are exact; times are not.** The machine has two cores and others worked on it (*machine in use*: by whomever).
Observers that should look every 0.1 s did so less often, so looks are counted too, and all costs that arise with a look
are costs of a look. What processes do beside, such as Kafka's fetches, is counted as often as it came about. CPU times
are of a server that has little to do, and wakes for each request: busy, it needs less for each.

"""

_BY_NAME = """### What an idle process asks for

Requests a second of one process, with one live wagon. A process that is alone at a train at which nothing happens
looks every 2 s only.

"""

_MODEL = """## The cost model

A cost in a second is a sum: what each term costs, times how often it arises.

<!-- not run: a sketch -->
```text
cost = fixed + process · processes + consumer · consumers + event · events
     + looks · (look + wagon · live wagons)
     + looks · processes · (process + process × wagon · live wagons)                 Redis
     + processes² · (process² + process² × wagon · live wagons)                      Kafka
     + events · processes · event × process                                          Kafka
```

*Consumers* are the pairs of a process and a live wagon that it has a worker for. A look at Redis asks which check-ins
are new; on Kafka each observer reads all check-ins, once each, and each process follows the log of all claims. A
check-in lists all live wagons. The costs are fitted by least squares of the relative errors; none is negative. Two
kinds are not fitted to the processes above but to [larger sizes](#a-look-at-sizes-that-are-real): the CPU time of Redis
for a look, and that of an observer for many check-ins and wagons (with a term for the square of the wagons).

"""

_REPLAYED = """### A look at sizes that are real

The costs that matter most need no extrapolation. So many check-ins and live wagons were stored on a real Redis, by the
driver; the requests of one look of a real observer were kept and sent again as fast as Redis answers. The CPU time that
a look costs Redis in the model is from these. The observer's own CPU time is that of the same look in memory, with
what the check-ins take to decode.

"""

_BEYOND = """## Beyond: modelled

A train that does not rest, because events wait in a wagon: three observers lead and look every 0.1 s, and all others
every 2 s, or only three processes observe. What the broker **would be asked for** in a second, whether or not it can do
it. **2 ×** is twice the limit: there is no such train.

"""

_SIMULATED = """## A look and a switch: simulated

In virtual time, with the costs above: one server that works off what it is asked for, the processes' looks and
check-ins, and a switch. `pause` and `plan`, the production code of policy, say when an observer looks and what it
decides. A round trip takes {trip:g} ms (assumed), and each process has a core for itself.

- **look**: the median time of one; it should be short beside `observe_every`.
- **check-in**: the slowest. From {ttl:g} s on (`member_ttl`) live processes count as gone.
- **decided**: from the full wagon to the switch in the manifest.
- **reached**: from there until the last process knew it. Nothing is lost meanwhile: the sealed wagon refuses, and
  publishers read the manifest anew.

"> {horizon:g} s": the simulation waits no longer. The round trips of a look are made one after the other, which is the
slowest way.

"""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n\n"


def number(value: float) -> str:
    """With three digits: more can't be known."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{round(value, 2 - math.floor(math.log10(abs(value)))):,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.2g}"


def seconds(value: float | None) -> str:
    """As people write it."""
    if value is None:
        return f"> {HORIZON:g} s"
    return f"{number(value * 1000)} ms" if value < 1 else f"{number(value)} s"


def part(value: float) -> str:
    """Of a limit."""
    return f"{number(100 * value)} %" if value < 1 else f"**{number(value)} ×**"


def megabytes(value: float) -> str:
    """Bytes, as people write them."""
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB")):
        if value >= 10**power:
            return f"{number(value / 10**power)} {unit}"
    return f"{number(value / 1000)} KB"


def document(figures: Figures) -> str:
    """The whole of it."""
    text = _HEAD + _short(figures) + _measured(figures) + _model(figures) + _beyond(figures) + _simulated(figures)
    return _in_columns((text + _then(figures) + _not_modelled()).rstrip()) + "\n"


def _who(looking: int | None) -> str:
    return "all observe" if looking is None else f"{looking} observe"


def _bend(name: str, figures: Figures, wagons: int, looking: int | None) -> str:
    found = bends(name, costs_of(name, figures), wagons, looking)
    return "none below a million" if found is None else f"{number(found.processes)}: {found.what}"


def _short(figures: Figures) -> str:
    rows = [
        [name, f"{wagons:,}", _bend(name, figures, wagons, None), _bend(name, figures, wagons, FEW)]
        for name in figures.brokers
        for wagons in (1, 8, 32, 100, 1000)
    ]
    text = (
        "## In short\n\nThe processes of one train at which the first limit is reached, as modelled. Events wait, but "
        "none comes:\n\n"
    )
    text += table(("broker", "live wagons", "every process observes (default)", f"only {FEW} processes observe"), rows)
    return text + (
        f"{_REASON} Live wagons are bounded by `wagons`, {Settings().wagons} unless set otherwise; more are "
        "shown to see what would happen.\n\n![What a train asks of its broker, by its processes](images/scale.svg)\n\n"
        "The measured points on Redis lie above the curve: an idle server needs more CPU time for a request.\n\n"
    )


_REASON = (
    "**What bends first is not the traffic but the observers.** [Three of them "
    "lead](decisions/0035-three-observers-lead.md), and all others look every 2 s. A check-in that has changed goes to "
    "each observer."
)


def _measured(figures: Figures) -> str:
    text = _MEASURED
    for name, found in figures.brokers.items():
        rows = [_row(point) for point in found.points]
        text += f"### {name}\n\n" + table(
            (
                "processes",
                "observe",
                "live wagons",
                "events",
                "looks",
                *(form for form, _ in _FORMS.values()),
                "machine in use",
            ),
            rows,
        )
    text += _BY_NAME
    for name, found in figures.brokers.items():
        few = {p.processes: p for p in idle(found)}
        kinds = sorted({kind for point in few.values() for kind in point.requests})
        rows = [
            [f"`{kind}`", *(number(p.requests.get(kind, 0) / p.seconds / n) for n, p in few.items())] for kind in kinds
        ]
        text += table((name, *(f"{n} process{'es' * (n > 1)}" for n in few)), rows)
    return text + (
        "On Redis, `script NAME` is a script of the driver: `other` reads the manifest if it has changed, `members` "
        "asks which check-ins are new, `depth` for the totals of all channels, `again` looks for claims that have "
        "expired.\n\n"
    )


def _row(point: Point) -> list[str]:
    shape_ = point.shape
    figures = [number(point.per_second(measure) * factor) for measure, (_, factor) in _FORMS.items()]
    return [
        str(point.processes),
        str(point.observers),
        str(point.wagons),
        number(shape_.events),
        number(shape_.looks),
        *figures,
        f"{100 * point.machine:.0f} %",
    ]


def _model(figures: Figures) -> str:
    text = _MODEL
    for name, found in figures.brokers.items():
        costs = costs_of(name, figures)
        rows = [
            [term, *(number(costs[m].terms.get(term, 0.0) * factor) for m, (_, factor) in _FORMS.items())]
            for term in dict.fromkeys((*TERMS_OF[name], *OF_LOOKS))
            if any(cost.terms.get(term) for cost in costs.values())
        ]
        worst = [f"{100 * _worst(costs[m], found.points, m):.0f} %" for m in MEASURES]
        rows.append(["*largest error at a point*", *worst])
        text += table((name, *(form for form, _ in _FORMS.values())), rows)
    text += (
        "**How good is it?** The model over the measured figure, at points that it was not fitted to: between those, "
        "and with more processes. Extrapolation to a thousand processes goes far beyond what such a check can show: "
        "take it for the power of ten.\n\n"
    )
    rows = [
        [
            f"{name}, {p.processes} processes, {p.wagons} live, {p.rate:g} events/s",
            *(f"{error(costs_of(name, figures)[m], p, m):.2f}" for m in MEASURES),
        ]
        for name, found in figures.brokers.items()
        for p in found.checks
    ]
    text += table(("", *(form for form, _ in _FORMS.values())), rows)
    text += _REPLAYED
    own = {(look.processes, look.wagons): look.cpu for look in figures.looks}
    return text + table(
        ("check-ins", "live wagons", "requests", "KB in", "KB out", "Redis's CPU, ms", "the observer's CPU, ms"),
        [
            [
                f"{one.processes:,}",
                f"{one.wagons:,}",
                str(one.requests),
                number(one.sent / 1e3),
                number(one.received / 1e3),
                number(one.server_cpu * 1e3),
                number(own[key] * 1e3) if (key := (one.processes, one.wagons)) in own else "",
            ]
            for one in figures.replayed
        ],
    )


def _worst(cost: Cost, points: Sequence[Point], measure: str) -> float:
    return max(abs(error(cost, point, measure) - 1) for point in points)


def _beyond(figures: Figures) -> str:
    text = _BEYOND
    for name in figures.brokers:
        costs, rows = costs_of(name, figures), []
        for looking in (None, FEW):
            for wagons in WAGONS:
                for processes in PROCESSES:
                    size = shape(processes, wagons, looking)
                    asked = [
                        number(costs["requests"].of(size)),
                        megabytes(costs["received"].of(size)),
                    ]
                    used = [part(use(limit, costs, size)) for limit in LIMITS[name]]
                    rows.append([f"{processes:,}", f"{wagons:,}", _who(looking), *asked, *used])
        head = ("processes", "live wagons", "who observes", "requests", "out", *(each.what for each in LIMITS[name]))
        text += f"### {name} beyond\n\n" + table(head, rows)
    return text + (
        "**The limits, and where they are from.** One core for the main thread of Redis, which carries out all "
        "commands; its CPU time was measured here. No number of commands a second is assumed: scripts differ from one "
        "another a hundredfold. 8 cores for Kafka are assumed; their CPU time was measured here, on a server that had "
        "little to do, so that real limits are further away. 10 Gbit/s of network are assumed.\n\n"
    )


def _simulated(figures: Figures) -> str:
    rows = [
        [
            one.broker,
            f"{one.processes:,}",
            f"{one.wagons:,}",
            "all" if one.observers == one.processes else str(one.observers),
            seconds(one.came.look),
            f"{seconds(one.came.check_in)}{' **late**' * (one.came.check_in is None or one.came.check_in >= _TTL)}",
            seconds(one.came.decided),
            seconds(one.came.reached),
        ]
        for one in figures.simulated
    ]
    head = ("broker", "processes", "live wagons", "observe", "look", "check-in", "decided", "reached")
    return _SIMULATED.format(trip=ROUND_TRIP * 1e3, ttl=_TTL, horizon=HORIZON) + table(head, rows)


def _then(figures: Figures) -> str:
    return (
        "## What to do then\n\n"
        f"- **Let {FEW} processes observe**, on different machines (on one if the train has a "
        "[ledger](ledger.md#where-it-is)), and start all others with "
        "`connection.running(observe=False)`, or `eventwagon work`. Any observer does all that is to be done for the "
        "train. What is lost: where no observer runs on a killed process's machine, its claims come back after "
        "`visibility` and not at once ([operations](operations.md#when-a-process-dies)). The first limit moves on "
        f"Redis from {_at('Redis', figures, None)} processes to {_at('Redis', figures, FEW)}, with one live wagon.\n"
        "- **Look less often**: with `observe_every=1.0` those that lead ask for a tenth, and the first limit on Redis "
        f"is at {_seldom(figures)} processes. Limits are noticed that much later; only publishers at an exact "
        "bound don't wait for a look.\n"
        "- **Fewer live wagons**: `wagons=` bounds them, and a larger limit makes fewer. Each costs every look, and "
        "every check-in lists each.\n"
        "- **Several trains instead of one** where the flows are different ones: a train's manifest, members and looks "
        "are its own. With a Redis Cluster each train lies in one slot, so trains spread over nodes, and one train "
        "does not.\n"
        "- **Publish in batches**: the cost of an event above is that of one a call, the dearest. See "
        "[benchmarks](benchmarks.md).\n\n"
    )


def _at(name: str, figures: Figures, looking: int | None) -> str:
    found = bends(name, costs_of(name, figures), 1, looking)
    return "more than a million" if found is None else number(found.processes)


def _seldom(figures: Figures) -> str:
    costs = costs_of("Redis", figures)

    def size(n: int) -> Shape:
        usual = shape(n, 1, None)
        return msgspec.structs.replace(usual, looks=usual.looks - 0.9 * min(n, LEADERS) / EVERY)

    found = bend(costs, LIMITS["Redis"], size)
    return "more than a million" if found is None else number(found.processes)


def _not_modelled() -> str:
    return (
        "## What is not in the figures\n\n"
        "- **Traffic.** The limits are those of an idle train; events come on top (the term *event*).\n"
        "- **Memory** of the server and of the processes, connections, and a cluster of several nodes.\n"
        "- **Starts**: processes that begin at the same time all read everything once.\n"
        "- **Killed processes**: what one had in hand is handled [one event at a "
        "time](guarantees.md#no-innocent-loses-an-attempt), or [in batches](batches.md#after-a-death) if its handler "
        "takes them.\n"
        f"- **More than {EACH} workers a wagon**: then more processes consume from each wagon.\n"
        "- **Overload beyond the figures**: check-ins that come late make observers take live processes for gone, and "
        "act on it. The simulation counts how late they are, and stops there.\n"
    )


_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 380, 260, 70, 60, 90
_DECADES, _LOW, _HIGH = 4, -3, 2
_SVG_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 950 370" role="img">
<title>The part of a broker's first limit that one idle train uses, by its processes</title>
<style>
text { font: 11px system-ui, sans-serif; fill: #22303c }
.head { font-weight: 600 }
.end { text-anchor: end }
.middle { text-anchor: middle }
.grid { stroke: #d5dbe1; stroke-width: 1 }
.limit { stroke: #c8553d; stroke-width: 1.5; stroke-dasharray: 6 3 }
path { fill: none; stroke-width: 2 }
.few { stroke-dasharray: 2 3 }
.w1 { stroke: #1d86c8 } .w32 { stroke: #2a9d5c } .w1000 { stroke: #8a5cc2 }
circle { fill: #1d86c8 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .grid { stroke: #3b4650 } }
</style>"""


def picture(figures: Figures) -> str:
    """A panel for each broker: the most used limit by processes, both on logarithmic scales; dots are measured."""
    parts = [_SVG_HEAD]
    x = float(_LEFT)
    for wagons in _CURVES:
        parts.append(f'<path class="w{wagons}" d="M{x:.0f} 20h24"/>')
        parts.append(f'<text x="{x + 30:.0f}" y="24">{wagons:,} live wagon{"s" * (wagons > 1)}</text>')
        x += 140
    parts.append(f'<path class="w1 few" d="M{x:.0f} 20h24"/>')
    parts.append(f'<text x="{x + 30:.0f}" y="24">{FEW} processes observe</text>')
    parts.append(f'<circle cx="{x + 180:.0f}" cy="20" r="3"/><text x="{x + 190:.0f}" y="24">measured (1 live)</text>')
    for panel, name in enumerate(figures.brokers):
        parts += _panel(name, figures, _LEFT + panel * (_WIDTH + _GAP))
    return "\n".join(parts) + "\n</svg>\n"


def _panel(name: str, figures: Figures, left: float) -> list[str]:
    found, costs = figures.brokers[name], costs_of(name, figures)
    server = [limit for limit in LIMITS[name] if not limit.per_process]

    def at(processes: float, used: float) -> tuple[float, float]:
        across = math.log10(processes) / _DECADES
        up = (math.log10(max(used, 1e-9)) - _LOW) / (_HIGH - _LOW)
        return left + _WIDTH * across, _TOP + _HEIGHT * (1 - up)

    parts = [f'<text class="head" x="{left:.0f}" y="{_TOP - 10}">{name}: the part of its first limit in use</text>']
    for power in range(_LOW, _HIGH + 1):
        _, y = at(1, 10.0**power)
        kind = "limit" if power == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{left:.0f}" x2="{left + _WIDTH:.0f}" y1="{y:.0f}" y2="{y:.0f}"/>')
        parts.append(f'<text class="end" x="{left - 6:.0f}" y="{y + 4:.0f}">{100 * 10.0**power:g} %</text>')
    for power in range(_DECADES + 1):
        x, _ = at(10.0**power, 1)
        parts.append(f'<text class="middle" x="{x:.0f}" y="{_TOP + _HEIGHT + 18}">{10**power:,}</text>')
    parts.append(
        f'<text class="middle" x="{left + _WIDTH / 2:.0f}" y="{_TOP + _HEIGHT + 38}">processes of one train</text>'
    )
    for looking, more in ((None, ""), (FEW, " few")):
        for wagons in _CURVES:
            points = []
            for step in range(41):
                processes = round(10 ** (step * _DECADES / 40))
                used = max(use(limit, costs, shape(processes, wagons, looking)) for limit in server)
                x, y = at(processes, used)
                if _TOP <= y <= _TOP + _HEIGHT:
                    points.append(f"{x:.1f} {y:.1f}")
            if points:
                parts.append(f'<path class="w{wagons}{more}" d="M{"L".join(points)}"/>')
    for point in idle(found):
        x, y = at(point.processes, max(point.per_second(limit.measure) / limit.most for limit in server))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    return parts


def _in_columns(text: str) -> str:
    """The text with its paragraphs and items wrapped at 120 columns; tables and code stay."""
    return "".join(map(_block, re.split(r"(\n\n|\n(?=- ))", text)))


def _block(block: str) -> str:
    if not block.strip() or block.startswith(("|", "```", "<!--", "#", "![")):
        return block
    words = " ".join(block.split())
    indent = "  " if block.startswith("- ") else ""
    return fill(words, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def write(figures: Figures) -> None:
    """The page and its picture."""
    DOCUMENT.write_text(document(figures), encoding="utf-8")
    PICTURE.write_text(picture(figures), encoding="utf-8")
