"""Runs the demo once, and writes what it shows as pictures into docs/images.

    python scripts/demo_screenshots.py            # the default order, about a minute
    python scripts/demo_screenshots.py --events 1000 --seconds 60 --workers each=4 --to /tmp

Both pictures of the running demo are of the same moment: when two thirds of the sign-ups have arrived.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console, RenderableType
from rich.terminal_theme import SVG_EXPORT_THEME, TerminalTheme

from eventwagon.cli import demo
from eventwagon.cli.demo.burst import Burst, Order
from eventwagon.cli.demo.live import Picture
from eventwagon.cli.demo.report import make, show
from eventwagon.lab.arrivals import black_friday
from eventwagon.lab.pace import loop_factory
from eventwagon.limits import Wait
from eventwagon.workers import parse_workers

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
LIGHT = TerminalTheme(
    (255, 255, 255),
    (34, 48, 60),
    [
        (34, 48, 60),
        (190, 30, 45),
        (30, 125, 60),
        (160, 110, 0),
        (40, 80, 170),
        (140, 60, 150),
        (0, 110, 140),
        (90, 90, 90),
    ],
)
SIZES = ((80, 24), (140, 40))
FORMAT = re.sub(r"@font-face \{\{.*?\}\}|<!--.*?-->", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
"""Without the fonts that Rich would have a browser fetch: the reader's own monospaced one will do."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=demo.EVENTS)
    parser.add_argument("--seconds", type=float, default=demo.SECONDS)
    parser.add_argument("--speed", type=float, default=demo.SPEED)
    parser.add_argument("--workers", default=demo.WORKERS)
    parser.add_argument("--to", type=Path, default=IMAGES)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eventwagon-demo-") as directory:
        order = Order(
            url=f"sqlite:///{directory}",
            arrivals=black_friday(given.events, given.seconds, seed=1),
            limit=Wait(demo.SLO, cut=demo.CUT),
            workers=parse_workers(given.workers),
            slo=demo.SLO,
            steps=(demo.SERVICE / 2, demo.SERVICE / 3, demo.SERVICE / 6),
            speed=given.speed,
            title="Black Friday",
        )
        drawn: dict[tuple[int, int], RenderableType] = {}
        burst = Burst(order)

        @asynccontextmanager
        async def watching(burst: Burst) -> AsyncIterator[None]:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(draw(burst, drawn))
                yield

        with asyncio.Runner(loop_factory=loop_factory(given.speed)) as runner:
            both = runner.run(burst.run(watching))
    report = make(both)
    if report.bottleneck:
        sys.exit(f"nothing was written, the machine is too busy: {report.bottleneck}")
    for (width, height), picture in drawn.items():
        write(given.to / f"demo-{width}x{height}.svg", width, height, "eventwagon demo", picture)
    console = blank(80, 40)
    show(report, console)
    save(console, given.to / "demo-report.svg", "eventwagon demo")


async def draw(burst: Burst, drawn: dict[tuple[int, int], RenderableType]) -> None:
    """Both pictures at one moment; looks before it, since rates are of looks."""
    picture = Picture(burst)
    while burst.wagons.published < len(burst.order.arrivals) * 2 // 3:
        await picture.look()
        await asyncio.sleep(0.25 * burst.order.speed)
    for width, height in SIZES:
        drawn[width, height] = picture.draw(width, height)


def blank(width: int, height: int) -> Console:
    return Console(width=width, height=height, record=True, file=io.StringIO(), force_terminal=True, highlight=False)


def write(to: Path, width: int, height: int, title: str, picture: RenderableType) -> None:
    console = blank(width, height)
    console.print(picture)
    save(console, to, title)


def save(console: Console, to: Path, title: str) -> None:
    """One picture that is light, and dark where the reader's pages are."""
    dark = console.export_svg(title=title, code_format=FORMAT, unique_id="demo", theme=SVG_EXPORT_THEME, clear=False)
    svg = console.export_svg(title=title, code_format=FORMAT, unique_id="demo", theme=LIGHT)
    rules = "\n".join(re.findall(r"\.demo-r\d+ \{.*?\}", dark))
    background = f".rich-terminal > rect {{ fill: {SVG_EXPORT_THEME.background_color.hex} }}"
    title_colour = f".demo-title {{ fill: {SVG_EXPORT_THEME.foreground_color.hex} }}"
    night = f"@media (prefers-color-scheme: dark) {{\n{background}\n{title_colour}\n{rules}\n}}\n    </style>"
    svg = svg.replace("</style>", night, 1).replace("<style>", f"<title>{title}</title>\n    <style>", 1)
    to.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")
    print(f"{to}: {to.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
