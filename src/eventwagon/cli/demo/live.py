"""What a person sees while the demo runs: both trains' figures, the wagons as cars, the share on time by the moment of
arrival. Plain lines where no terminal is."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import pairwise

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from ...contracts.broker import Depth
from ...contracts.lifecycle import State
from ...contracts.manifest import Wagon
from ...contracts.reading import History, Reading, Sample, busy_rate
from ...display.redaction import shown
from ...errors import EventwagonError
from ...event import DEAD
from ..console import span
from .burst import Burst, Order, Side

QUEUE, WAGONS, GOOD, POOR, BAD = "magenta", "cyan", "green", "yellow", "red"
"""One colour for each train, and three for shares on time; the same ones everywhere."""
_FRAME = 0.25  # real seconds between two pictures
_PLAIN = 5.0  # and between two lines
_CARS = 10  # at most; older wagons are summed up
_CAR = 14
_INSIDE = _CAR - 2
_LABEL = 11
_WIDE = 160
"""A picture that is wider is no clearer."""
_ACROSS, _UP = " ▏▎▍▌▋▊▉█", " ▁▂▃▄▅▆▇█"


def watching(console: Console) -> Callable[[Burst], AbstractAsyncContextManager[None]]:
    """What shows a burst on this console while the body runs."""

    @asynccontextmanager
    async def watch(burst: Burst) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            shows = tasks.create_task((_live if draws(console) else _plain)(burst, console))
            try:
                yield
            finally:
                shows.cancel()

    return watch


def draws(console: Console) -> bool:
    """Can it show a picture that changes?"""
    return console.is_terminal and not console.is_dumb_terminal and console.encoding.lower().startswith("utf")


def share(value: float) -> str:
    """A share on time in percent, rounded down: only all of them are 100 %."""
    return f"{int(value * 1000 + 1e-9) / 10:.1f} %"


def rated(value: float) -> str:
    """The style of a share on time."""
    return GOOD if value >= 0.95 else POOR if value >= 0.8 else BAD


def names(order: Order) -> tuple[str, str]:
    """What the two trains are, in a few words: the queue, the wagons."""
    workers = order.workers
    spare = "a spare" if order.spares == 1 else f"{order.spares} spares"
    if workers.total:
        return f"{order.standing} workers", f"the same {workers.total}"
    if workers.elastic:
        return f"{order.standing} workers", f"{workers.elastic.least}-{workers.elastic.most}, {spare}"
    return f"{order.standing} workers", f"{workers.own} each, {spare}"


async def _live(burst: Burst, console: Console) -> None:
    picture = Picture(burst)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            await picture.look()
            live.update(picture.draw(console.width, console.height), refresh=True)
            await asyncio.sleep(_FRAME * burst.order.speed)


async def _plain(burst: Burst, console: Console) -> None:
    picture = Picture(burst)
    while True:
        await asyncio.sleep(_PLAIN * burst.order.speed)
        console.print(picture.line(), soft_wrap=True)


class Picture:
    """The burst at one moment."""

    def __init__(self, burst: Burst) -> None:
        self._burst = burst
        self._history = History()
        self._depths: Mapping[int, Mapping[str, Depth]] = {}
        self._wagons: tuple[Wagon, ...] = ()
        self._now = 0.0
        self._highest = 1
        """The most sign-ups that were behind in either train so far."""

    async def look(self) -> None:
        """Read the wagons' figures. Those that can't be read now keep their last value."""
        connection = self._burst.wagons.connection
        self._wagons = connection.manifest.wagons
        self._now = self._burst.clock()
        try:
            self._depths = await connection.depths()
        except EventwagonError:
            return
        samples = {
            n: Sample(self._now, d.published, d.settled, d.waiting or 0)
            for n, found in self._depths.items()
            if (d := found.get("")) is not None and d.published is not None and d.settled is not None
        }
        self._history.add_all(samples, self._now)
        self._history.keep(set(samples))

    # --- figures --------------------------------------------------------------------------

    def _due(self) -> int:
        """So many arrivals' promise is due."""
        return bisect_right(self._burst.order.arrivals, self._burst.now - self._burst.order.slo)

    def _on_time(self, side: Side) -> float | None:
        """Of those whose promise is due."""
        due = self._due()
        return sum(side.on_time[:due]) / due if due else None

    def _behind(self, side: Side) -> int:
        """Sign-ups that have arrived and are not handled."""
        return side.published - side.handled - side.dead

    def _pressure(self, wagon: Wagon) -> float:
        """How full the active wagon is, measured as an observer does."""
        d = self._depths.get(wagon.number, {}).get("", Depth())
        settings = self._burst.wagons.train.settings
        live = len([w for w in self._wagons if w.state in (State.ACTIVE, State.DRAINING, State.READY)])
        reading = Reading(
            number=wagon.number,
            at=self._now,
            age=max(0.0, self._now - (wagon.active_at or self._now)),
            published=d.published,
            settled=d.settled,
            waiting=d.waiting,
            in_flight=d.in_flight,
            oldest_age=None if d.oldest_at is None else max(0.0, self._now - d.oldest_at),
            settle_rate=busy_rate(self._history.of(0 if settings.workers.total else wagon.number)),
            samples=self._history.of(wagon.number),
            crowding=live / settings.wagons,
        )
        return settings.limit.measure(reading).value

    def _left(self, wagon: Wagon) -> int:
        """Events of the wagon that are not settled, over all its channels."""
        depths = self._depths.get(wagon.number, {})
        return sum((d.published or 0) - (d.settled or 0) for name, d in depths.items() if name != DEAD)

    def line(self) -> str:
        """One line for a log."""
        burst = self._burst
        parts = []
        for name, side in zip(("one queue", "wagons"), burst.sides, strict=True):
            on_time = self._on_time(side)
            said = "-" if on_time is None else share(on_time)
            parts.append(f"{name} {said} on time, {self._behind(side):,} behind")
        live = len(burst.wagons.connection.manifest.wagons)
        return (
            f"{burst.now:4.0f} s: {burst.wagons.published:,} of {len(burst.order.arrivals):,} arrived; "
            f"{'; '.join(parts)}; wagon {burst.wagons.active} is active, {live} live"
        )

    # --- the picture ----------------------------------------------------------------------

    def draw(self, width: int, height: int) -> RenderableType:
        """All of it, in the room there is."""
        width = min(width, _WIDE)
        order = self._burst.order
        pace = "in real time" if order.speed == 1 else f"at {order.speed:g} times the speed"
        head = Text(f"{order.title}: {len(order.arrivals):,} sign-ups in {order.arrivals[-1]:.0f} s", style="bold")
        head.append(f", promise {order.slo:g} s, {pace}", style="not bold")
        queue, wagons = names(order)
        legend = Text.assemble(("■ one queue", QUEUE), f" {queue}   ", ("■ wagons", WAGONS), f" {wagons}   on time")
        legend.append(" ≥95 %", GOOD).append(" ≥80 %", POOR).append(" less", BAD)
        top = [head, legend, Text(), *self._figures(width), Text()]
        foot = self._foot()
        room = height - len(top) - 2  # the foot and the axis
        rows = 2 if room >= 26 and len(self._wagons) > self._across(width) else 1
        train = [self._headline(), *self._cars(width, rows)]
        room -= len(train) + 1
        tall = max(1, min(10, room // 3))
        body = [*top, *train, Text(), *self._strips(width, tall)]
        body += [Text()] * max(0, height - len(body) - 1)
        return Group(*(_cut(t, width) for t in body[: max(0, height - 1)]), _cut(foot, width))

    def _figures(self, width: int) -> list[Text]:
        """A row for each train."""
        heads = ("on time", "behind", "worst", "mean", "busy", "worker-s")
        widths = (9, 8, 8, 8, 10, 10)
        lines = [Text(" " * _LABEL + "".join(f"{h:>{w}}" for h, w in zip(heads, widths, strict=True)), style="dim")]
        room = width - _LABEL - sum(widths) - 2
        if room >= len("behind"):
            lines[0].append("  behind")
        self._highest = max(self._highest, *(self._behind(side) for side in self._burst.sides))
        for name, style, side in zip(("one queue", "wagons"), (QUEUE, WAGONS), self._burst.sides, strict=True):
            on_time, behind = self._on_time(side), self._behind(side)
            row = Text(f"{name:<{_LABEL}}", style=style)
            row.append(f"{'-' if on_time is None else share(on_time):>9}", f"bold {rated(on_time or 0.0)}")
            mean = side.waited / side.handled if side.handled else 0.0
            busy = f"{min(side.workers, sum(side.busy.values()))} of {side.workers}"
            row.append(f"{behind:>8,}{span(side.worst):>8}{span(mean):>8}{busy:>10}{side.paid:>10,.0f}", "default")
            if room >= 4:
                row.append("  ").append_text(_bar(behind / self._highest, room, style))
            lines.append(row)
        return lines

    def _headline(self) -> Text:
        live = [w for w in self._wagons if w.state in (State.ACTIVE, State.DRAINING)]
        active = next((w.number for w in live if w.state is State.ACTIVE), 0)
        text = Text("wagons", style=WAGONS)
        drains = "1 older one drains" if len(live) == 2 else f"{max(0, len(live) - 1)} older ones drain"
        text.append(f"   number {active} takes what arrives, {drains}", "default")
        return text

    def _foot(self) -> Text:
        burst = self._burst
        usage = burst.machine.so_far()
        return Text(
            f"{burst.now:.0f} s of the burst   CPU {usage.busy:.1f} of {usage.cores} cores   "
            f"{shown(burst.order.url).partition('://')[0]}",
            style="dim",
        )

    # --- the cars -------------------------------------------------------------------------

    @staticmethod
    def _across(width: int) -> int:
        return max(1, (width + 1) // (_CAR + 1))

    def _cars(self, width: int, rows: int) -> list[Text]:
        """The newest wagons, in as many rows of cars as there is room for; the older ones as a last car."""
        across = self._across(width)
        most = min(_CARS, across * rows)
        wagons = [w for w in reversed(self._wagons) if w.state not in (State.DRAINED, State.REMOVING)]
        cars = [self._car(w) for w in wagons]
        if len(cars) > most:
            hidden = wagons[most - 1 :]
            cars[most - 1 :] = [_more(len(hidden), sum(map(self._left, hidden)))]
        lines: list[Text] = []
        for start in range(0, across * rows, across):
            row = cars[start : start + across] or [[Text()] * 5]
            lines += [Text("═" if i == 3 else " ").join(car[i] for car in row) for i in range(5)]
        return lines

    def _car(self, wagon: Wagon) -> list[Text]:
        style = {State.ACTIVE: f"bold {WAGONS}", State.DRAINING: WAGONS}.get(wagon.state, f"dim {WAGONS}")
        depths = self._depths.get(wagon.number, {})
        left = self._left(wagon)
        taken = depths.get("", Depth()).published or 0
        if wagon.state is State.ACTIVE:
            fill = self._pressure(wagon)
        else:
            ingress = depths.get("", Depth())
            fill = ((ingress.published or 0) - (ingress.settled or 0)) / max(1, taken)
        busy = self._burst.wagons.busy.get(wagon.number, 0)
        label = f"_v{wagon.number}"  # the end of its name: a car is narrow
        state = {State.DRAINING: "drains", State.PROVISIONING: "opens"}.get(wagon.state, str(wagon.state))
        body = (
            f"{label}{state:>{_INSIDE - len(label)}}",
            None,
            f"{_short(left):<5}" + (f"{busy:>2} busy" if busy else " " * 7),
        )
        top = Text("╭" + "─" * _INSIDE + "╮", style=style)
        bottom = Text("╰─◯" + "─" * (_INSIDE - 4) + "◯─╯", style=style)
        inside = [
            Text.assemble(("│", style), _bar(fill, _INSIDE, style) if part is None else (part, style), ("│", style))
            for part in body
        ]
        return [top, *inside, bottom]

    # --- over time ------------------------------------------------------------------------

    def _strips(self, width: int, tall: int) -> list[Text]:
        """By the moment of arrival: how many came, and which share of them was on time in each train."""
        burst, arrivals = self._burst, self._burst.order.arrivals
        columns = max(10, width - _LABEL)
        end = arrivals[-1] or 1.0
        cuts = [bisect_left(arrivals, end * n / columns) for n in range(columns)] + [len(arrivals)]
        counts = [b - a for a, b in pairwise(cuts)]
        most = max(counts)
        lines = _columns("arrivals", [c / most for c in counts], tall, "default")
        due = self._due()
        for name, style, side in zip(("one queue", "wagons"), (QUEUE, WAGONS), burst.sides, strict=True):
            shares = []
            for a, b in pairwise(cuts):
                shares.append(sum(side.on_time[a:b]) / (b - a) if b > a and b <= due else 0.0)
            lines += _columns(name, shares, tall, style)
        axis = (
            f"{'':<{_LABEL}}0 s{'on time, by the moment of arrival: 0 to 100 %':^{max(0, columns - 10)}}{end:>5.0f} s"
        )
        return [*lines, Text(axis, style="dim")]


def _columns(name: str, shares: Sequence[float], tall: int, style: str) -> list[Text]:
    """Columns of these heights, in rows from the top; what is not 0 can be seen."""
    eighths = [0 if s <= 0 else max(1, round(min(1.0, s) * tall * 8)) for s in shares]
    lines = []
    for row in range(tall - 1, -1, -1):
        text = "".join(_UP[max(0, min(8, e - 8 * row))] for e in eighths)
        label = f"{name if row == tall - 1 else '':<{_LABEL}}"
        lines.append(Text.assemble((label, style), (text, style)))
    return lines


def _more(wagons: int, left: int) -> list[Text]:
    lines = (" " * _CAR, f"and {wagons} older", "wagons,", f"{left:,} left", " " * _CAR)
    return [Text(f"{text:^{_CAR}.{_CAR}}", style=WAGONS) for text in lines]


def _short(count: int) -> str:
    return f"{count:,}" if count < 10_000 else f"{count / 1000:.0f}k"


def _bar(share: float, width: int, style: str) -> Text:
    """`share` of `width` filled, in eighths of a character."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    whole, rest = divmod(eighths, 8)
    text = "█" * whole + (_ACROSS[rest] if rest else "")
    return Text(f"{text:<{width}}", style=style)


def _cut(text: Text, width: int) -> Text:
    text.no_wrap = True
    text.truncate(width, overflow="ellipsis")
    return text
