"""The live view of the demo: the wagons as cars, the newcomers' wait, the progress. Without a terminal: plain lines."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from ...connection import Connection
from ...contracts.broker import Depth
from ...contracts.lifecycle import State
from ...contracts.manifest import Wagon
from ...contracts.reading import History, Reading, Sample, busy_rate
from ...display.redaction import shown
from ...errors import EventwagonError
from ...event import DEAD
from ...lab.queueing import percentile
from ..console import span
from ..status import COLOURS
from .burst import Burst

_FRAME = 0.2  # real seconds between two pictures
_PLAIN = 5.0  # and between two lines
_WINDOW = 1.0  # real seconds whose newcomers are "now"
_CAR = 14
_INSIDE = _CAR - 2
_BLOCKS = " ▏▎▍▌▋▊▉█"


def watching(console: Console) -> Callable[[Burst, Connection], AbstractAsyncContextManager[None]]:
    """A context manager that shows a burst on this console while its body runs."""

    @asynccontextmanager
    async def watch(burst: Burst, c: Connection) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            shown = tasks.create_task((_live if console.is_terminal else _plain)(burst, c, console))
            try:
                yield
            finally:
                shown.cancel()

    return watch


async def _live(burst: Burst, c: Connection, console: Console) -> None:
    picture = Picture(burst, c)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            await picture.look()
            live.update(picture.draw(console.width, console.height), refresh=True)
            await asyncio.sleep(_FRAME * burst.order.speed)


async def _plain(burst: Burst, c: Connection, console: Console) -> None:
    picture = Picture(burst, c)
    while True:
        await asyncio.sleep(_PLAIN * burst.order.speed)
        console.print(picture.line(), soft_wrap=True)


class Picture:
    """The burst at one moment."""

    def __init__(self, burst: Burst, c: Connection) -> None:
        self._burst = burst
        self._c = c
        self._history = History()
        self._depths: Mapping[int, Mapping[str, Depth]] = {}
        self._wagons: tuple[Wagon, ...] = ()
        self._now = 0.0

    async def look(self) -> None:
        """Read the wagons' figures. If that fails, the last figures stay."""
        self._wagons = self._c.manifest.wagons
        self._now = self._burst.clock()
        try:
            self._depths = await self._c.depths()
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

    def _pressure(self, wagon: Wagon) -> float:
        """How full the active wagon is, measured as an observer does."""
        d = self._depths.get(wagon.number, {}).get("", Depth())
        settings = self._c.train.settings
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
        )
        return settings.limit.measure(reading).value

    def _left(self, wagon: Wagon) -> int:
        """Events of the wagon that are not settled, over all its channels."""
        depths = self._depths.get(wagon.number, {})
        return sum((d.published or 0) - (d.settled or 0) for name, d in depths.items() if name != DEAD)

    def _newcomers(self) -> str:
        """p50 and p99 of the last second's newcomers."""
        burst = self._burst
        since = burst.clock() - _WINDOW * burst.order.speed
        burst.fresh[:] = [f for f in burst.fresh if f[0] >= since]
        if not burst.fresh:
            return "none just now"
        waits = [wait for _, wait in burst.fresh]
        return f"p50 {span(percentile(waits, 0.5))}, p99 {span(percentile(waits, 0.99))}"

    def _on_time(self) -> str:
        """The share that was on time, among the sign-ups whose promise is due."""
        burst = self._burst
        due = bisect_right(burst.order.arrivals, burst.clock() - burst.began - burst.order.slo)
        on_time = len(burst.handled) - burst.late
        return f"{min(1.0, on_time / due):.0%}" if due else "-"

    def line(self) -> str:
        """One line for a log."""
        burst, wagons = self._burst, self._c.manifest.wagons
        newest = burst.active
        return (
            f"{max(0.0, burst.clock() - burst.began):4.0f} s: {burst.arrived:,} of {len(burst.order.arrivals):,} "
            f"arrived, {len(burst.handled):,} handled, {self._on_time()} on time; wagon {newest} is active, "
            f"{len(wagons)} live; newcomers' wait {self._newcomers()}"
        )

    # --- the picture ----------------------------------------------------------------------

    def draw(self, width: int, height: int) -> RenderableType:
        """Render the picture in `width` columns and `height` lines."""
        order = self._burst.order
        head = Text(f"{order.title}: {len(order.arrivals):,} sign-ups in {order.arrivals[-1]:.0f} s", style="bold")
        head.append(f", at {order.speed:g} times the speed", style="not bold")
        said = Text(f"{order.limit!r}, {order.workers!r}, spares=1 on {shown(order.url)}", style="dim")
        foot = self._foot(width)
        room = max(5, height - len(foot) - 4)
        rows = [_cut(head, width), _cut(said, width), Text(), *self._cars(width, room)]
        rows += [Text()] * max(0, height - len(rows) - len(foot))
        return Group(*rows[: max(0, height - len(foot))], *(_cut(t, width) for t in foot))

    def _foot(self, width: int) -> list[Text]:
        burst = self._burst
        draining = [w for w in self._wagons if w.state is State.DRAINING]
        behind = sum(map(self._left, draining))
        total = len(burst.order.arrivals)
        newcomers = Text("newcomers' wait  ").append(self._newcomers(), style="bold green")
        newcomers.append(f"   on time ({burst.order.slo:g} s)  ").append(self._on_time(), style="bold green")
        late = Text("behind           ").append(f"{behind:,} events in {len(draining)} draining wagons", style="yellow")
        now = max(0.0, burst.clock() - burst.began)
        return [
            newcomers,
            late,
            _progress("arrived", burst.arrived, total, width, "cyan"),
            _progress("handled", len(burst.handled) + burst.dead, total, width, "green"),
            Text(f"{now:.0f} s of the burst", style="dim"),
        ]

    def _cars(self, width: int, room: int) -> list[Text]:
        """The newest wagons, in as many rows as fit; one last car stands for the older ones."""
        across = max(1, (width + 1) // (_CAR + 1))
        down = max(1, room // 5)
        wagons = [w for w in reversed(self._wagons) if w.state not in (State.DRAINED, State.REMOVING)]
        cars = [self._car(w) for w in wagons]
        if len(cars) > across * down:
            hidden = wagons[across * down - 1 :]
            cars[across * down - 1 :] = [_more(len(hidden), sum(map(self._left, hidden)))]
        lines: list[Text] = []
        for start in range(0, len(cars), across):
            row = cars[start : start + across]
            lines += [Text("═" if i == 3 else " ", style="dim").join(car[i] for car in row) for i in range(5)]
        return lines

    def _car(self, wagon: Wagon) -> list[Text]:
        style = COLOURS[wagon.state]
        depths = self._depths.get(wagon.number, {})
        left = self._left(wagon)
        taken = depths.get("", Depth()).published or 0
        if wagon.state is State.ACTIVE:
            fill = self._pressure(wagon)
        else:
            ingress = depths.get("", Depth())
            fill = ((ingress.published or 0) - (ingress.settled or 0)) / max(1, taken)
        workers = self._burst.busy.get(wagon.number, 0)
        label = f"v{wagon.number}"
        state = {State.DRAINING: "drains", State.PROVISIONING: "opens"}.get(wagon.state, str(wagon.state))
        body = (
            f"{label}{state:>{_INSIDE - len(label)}}",
            None,
            f"{_short(left):<5}" + (f"{workers:>2} busy" if workers else " " * 7),
        )
        top = Text("╭" + "─" * _INSIDE + "╮", style=style)
        bottom = Text("╰─◯" + "─" * (_INSIDE - 4) + "◯─╯", style=style)
        inside = [
            Text.assemble(("│", style), _bar(fill, _INSIDE, style) if part is None else (part, style), ("│", style))
            for part in body
        ]
        return [top, *inside, bottom]


def _more(wagons: int, left: int) -> list[Text]:
    lines = (" " * _CAR, f"and {wagons} wagons", "behind these,", f"{left:,} left", " " * _CAR)
    return [Text(f"{text:^{_CAR}.{_CAR}}", style="yellow") for text in lines]


def _short(count: int) -> str:
    return f"{count:,}" if count < 10_000 else f"{count / 1000:.0f}k"


def _bar(share: float, width: int, style: str) -> Text:
    """A bar with `share` of `width` characters filled, drawn in eighths of a character; red if a green one is full."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    whole, rest = divmod(eighths, 8)
    text = "█" * whole + (_BLOCKS[rest] if rest else "")
    return Text(f"{text:<{width}}", style="red" if share >= 1 and "green" in style else style)


def _progress(name: str, done: int, total: int, width: int, style: str) -> Text:
    figures = f" {done:,} of {total:,}"
    room = max(1, width - 9 - len(figures) - 1)
    return Text.assemble(f"{name:<9}", (_bar(done / max(1, total), room, style)), figures)


def _cut(text: Text, width: int) -> Text:
    text.no_wrap = True
    text.truncate(width, overflow="ellipsis")
    return text
