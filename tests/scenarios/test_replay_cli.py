"""`eventwagon replay`: what it counts, requests, shows and refuses."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from eventwagon import Train, Volume
from eventwagon.cli.app import app


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/trains"
    shop = Train("shop", limit=Volume(1000), observe_every=0.02, archive=(tmp_path / "archive").as_uri())

    @shop.on("shop")
    async def order(n: int) -> None: ...

    async def made() -> None:
        async with shop.connect(url, listeners=()) as c, c.running(), asyncio.timeout(60):
            await c.publish_many(range(5))
            await c.request_switch()
            while (active := c.manifest.active) is None or active.number < 2:
                await asyncio.sleep(0.01)
            await c.wait_drained(1)

    asyncio.run(made())
    return url


def replay(url: str, *words: str) -> Result:
    return CliRunner().invoke(app, ["replay", "shop", *words, "--url", url])


def test_it_counts_requests_lists_and_cancels(url: str) -> None:
    assert "nothing is replayed now" in replay(url).output
    assert "no replay 1 runs or waits: nothing was cancelled" in replay(url, "--cancel", "1").output
    assert "5 events of shop_v1 would be replayed" in replay(url, "shop_v1", "--dry-run").output
    counted = json.loads(replay(url, "shop_v1", "--dry-run", "--json").stdout)
    assert (counted["kind"], counted["number"], counted["state"], counted["count"]) == ("replay", None, "preview", 5)
    assert replay(url, "--json").stdout == ""
    requested = replay(url, "1", "--rate", "10", "--reason", "prices", "--by", "me")
    assert requested.exit_code == 0, requested.output
    number = requested.output.split()[1]
    assert "0 of 5 published (by me: prices)" in replay(url).output
    listed = json.loads(replay(url, "--json").stdout)
    assert listed == counted | {
        "number": int(number),
        "state": "running",
        "why": "prices",
        "by": "me",
        "at": listed["at"],
    }
    assert f"replay {number} is cancelled" in replay(url, "--cancel", number).output
    assert "cancelled" in replay(url).output


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--dry-run"], "--dry-run: give the WAGON"),
        (["--type", "x", "--cancel", "3"], "--type: give the WAGON"),
        (["dead"], "--outcome dead"),
        (["7"], "shop_v7 is not archived"),
        (["1", "--outcome", "lost"], "outcome='lost'"),
        (["1", "--subject", ""], "subject is empty"),
        (["1", "--rate", "0"], "rate"),
        (["1", "--since", "yesterdayish"], "--since"),
        (["1", "--json"], "--json goes with the list of replays, or with a WAGON and --dry-run"),
        (["--cancel", "2"], "2 is the number of shop_v2"),
        (["--cancel", "99"], "no replay 99"),
    ],
)
def test_mistakes_are_refused(url: str, words: list[str], why: str) -> None:
    refused = replay(url, *words)
    assert refused.exit_code == 2, refused.output
    assert why in " ".join(refused.output.split())
    assert "Traceback" not in refused.output
