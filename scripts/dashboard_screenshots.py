"""Pictures of the dashboard for the docs: real trains in a burst and in trouble, as Chromium shows them.

python scripts/dashboard_screenshots.py                # into docs/images; takes two minutes
python scripts/dashboard_screenshots.py --to /tmp/shots
"""

from __future__ import annotations

import argparse
import asyncio
import io
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from eventwagon import Connection, Context, Reject, Train, Volume, Wait, Workers  # noqa: E402
from tests.dashboard.browser import browser  # noqa: E402
from tests.dashboard.staging import TOKEN, Stage  # noqa: E402

SECONDS = 50.0
"""How long the burst is watched before the pictures are taken."""


def orders() -> Train:
    """A train that a burst fills wagon by wagon, and that keeps its promise."""
    train = Train("orders", limit=Volume(600) | Wait(5.0), workers=Workers(each=8), spares=1, observe_every=0.2)

    @train.on("orders")
    async def price(order: int, ctx: Context) -> None:
        await asyncio.sleep(0.12)
        if not order % 700:
            raise Reject(f"no price for article {order}")
        if not order % 4:
            await ctx.emit("invoice", order)

    @train.on("invoice")
    async def invoice(order: int) -> None:
        await asyncio.sleep(0.05)

    return train


def payments() -> Train:
    """A train in trouble: too few workers, and a service behind a handler that is down."""
    train = Train("payments", limit=Wait(2.0), workers=Workers(total=4), wagons=4, observe_every=0.2)

    @train.on("payments")
    async def charge(payment: int, ctx: Context) -> None:
        await asyncio.sleep(0.08)
        await ctx.emit("receipt", payment)

    @train.on("receipt")
    async def receipt(payment: int) -> None:
        raise ConnectionError("mail.example.com refused the connection")

    return train


def mails() -> Train:
    """A train with nothing to do."""
    train = Train("mails", limit=Wait(5.0), workers=Workers(each=2), observe_every=0.5)

    @train.on("mails")
    async def send(address: str) -> None:
        await asyncio.sleep(0.01)

    return train


async def burst(to: Connection, rate: Callable[[float], float]) -> None:
    """Publish for as long as the pictures take, so many events per second."""
    begin, sent = asyncio.get_running_loop().time(), 1
    due = 0.0
    while True:
        await asyncio.sleep(0.1)
        due += 0.1 * rate(asyncio.get_running_loop().time() - begin)
        count = int(due)
        due -= count
        await to.publish_many(range(sent, sent + count))
        sent += count


def shoot(page: Page, to: Path, *, whole: bool = True) -> None:
    """One picture, of few colours: the docs are to stay small."""
    page.evaluate("whole => whole && scrollTo(0, 0)", whole)
    with Image.open(io.BytesIO(page.screenshot(full_page=whole, animations="disabled"))) as shot:
        shot.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(to, optimize=True)
    print(f"{to.name}: {to.stat().st_size // 1024} KB", flush=True)


def opened(chrome: Browser, stage: Stage, hash_: str, *, dark: bool = False, phone: bool = False) -> Page:
    """A page of somebody who may steer."""
    page = chrome.new_page(
        viewport={"width": 390, "height": 1500} if phone else {"width": 1280, "height": 900},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
    )
    page.goto(stage.address + hash_)
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    return page


def take(stage: Stage, chrome: Browser, to: Path) -> None:
    """All pictures, while the trains run."""
    busy, bad, idle = (stage.run(train) for train in (orders(), payments(), mails()))
    stage.do(idle.publish("ada@example.com"))
    stage.start_dashboard()
    watched = [opened(chrome, stage, f"#/train/{name}") for name in ("orders", "payments")]
    publishing = [
        stage.start(burst(busy, lambda t: 30 + 230 * math.exp(-(((t - 40) / 16) ** 2)))),
        stage.start(burst(bad, lambda t: 25 + 2 * t)),
    ]
    watched[0].wait_for_timeout(SECONDS * 1000)
    for page, name in zip(watched, ("desktop-light", "trouble"), strict=True):
        shoot(page, to / f"dashboard-{name}.png")
    page = opened(chrome, stage, "#/train/orders", dark=True)
    expect(page.get_by_role("heading", name="Arriving and settled")).to_be_visible()
    page.wait_for_timeout(2_500)
    shoot(page, to / "dashboard-desktop-dark.png")
    page.get_by_role("button", name="Drain …").click()
    expect(page.get_by_role("dialog").get_by_role("button", name="Drain")).to_be_enabled()
    shoot(page, to / "dashboard-dialog.png", whole=False)
    page.keyboard.press("Escape")
    page.get_by_role("list", name="Wagons, newest first").get_by_role("link").last.click()
    expect(page.locator(".life")).to_contain_text("opened")
    shoot(page, to / "dashboard-wagon.png")
    page.goto(f"{stage.address}#/")
    expect(page.locator(".train-name")).to_have_count(3)
    page.set_viewport_size({"width": 1280, "height": 420})
    shoot(page, to / "dashboard-trains.png", whole=False)
    phone = opened(chrome, stage, "#/train/payments", phone=True)
    expect(phone.get_by_role("heading", name="Arriving and settled")).to_be_visible()
    phone.wait_for_timeout(2_500)
    shoot(phone, to / "dashboard-phone.png", whole=False)
    for each in publishing:
        each.cancel()


def main() -> int:
    """Take all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "images")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Stage(Path(folder)) as stage, browser() as chrome:
        take(stage, chrome, given.to)
    return 0


if __name__ == "__main__":
    sys.exit(main())
