"""`eventwagon undo`: what it shows, requests, lists and refuses."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from eventwagon import Context, Reject, Train, Volume
from eventwagon.cli.app import app
from eventwagon.connection import Connection

undone: list[int] = []


def shop(archive: Path) -> Train:
    train = Train(
        "shop", limit=Volume(1000), observe_every=0.02, archive=archive.as_uri(), ledger=f"sqlite:///{archive}/ledger"
    )

    @train.on("shop")
    async def order(n: int, ctx: Context) -> None:
        if n == 3:
            raise Reject("three")
        ctx.emit("bill", n)

    @train.on("bill")
    async def bill(n: int) -> None: ...

    @train.undo("shop")
    async def unorder(n: int) -> None:
        undone.append(n)

    return train


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/trains"

    async def made() -> None:
        async with shop(tmp_path).connect(url, listeners=()) as c, c.running(), asyncio.timeout(60):
            await c.publish_many(range(5))
            await c.wait_drained(await c.request_switch())

    asyncio.run(made())
    return url


def command(url: str, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--url", url])


def test_it_shows_requests_lists_and_what_is_done_is_in_the_ledger(url: str, tmp_path: Path) -> None:
    undone.clear()
    refused = command(url, "undo", "shop", "shop_v1")
    assert refused.exit_code == 2
    assert "no process works for train shop" in " ".join(refused.output.split())

    async def main() -> None:
        async with shop(tmp_path).connect(url, listeners=()) as c, c.running(), asyncio.timeout(60):
            await _asked(c)

    async def _asked(c: Connection) -> None:
        def said(*words: str, code: int = 0) -> str:
            result = command(url, "undo", "shop", *words)
            assert result.exit_code == code, result.output
            assert "Traceback" not in result.output
            return " ".join(result.output.split())

        shown = await asyncio.to_thread(said, "1", "--dry-run")
        assert "bill: 4 events handled, and no undo handler shop: 4 events to undo; 1 dead, not undone" in shown
        assert "4 events of shop_v1 would be undone, in 1 wagon" in shown
        assert "no undo handler for bill: --partial" in await asyncio.to_thread(said, "1", "--yes", code=2)
        assert "say --yes" in await asyncio.to_thread(said, "1", "--partial", code=2)
        told = await asyncio.to_thread(said, "1", "--partial", "--yes", "--reason", "bad prices", "--by", "me")
        number = int(told.partition(" of shop_v1 is requested")[0].rpartition(" ")[2])
        assert await c.undo.wait(number) == ""
        assert sorted(undone) == [0, 1, 2, 4]
        assert "was undone before, by undo" in await asyncio.to_thread(said, "1", "--dry-run")
        assert "--again undoes it once more" in await asyncio.to_thread(said, "1", "--partial", "--yes", code=2)
        assert "nothing is undone now" in await asyncio.to_thread(said)
        assert f"no undo {number} runs or waits" in await asyncio.to_thread(said, "--cancel", str(number))

    asyncio.run(main())
    ledger = f"sqlite:///{tmp_path}/ledger"
    audit = CliRunner().invoke(app, ["audit", "shop", "1", "--ledger", ledger])
    assert audit.exit_code == 0, audit.output
    assert "undoes shop_v1" in " ".join(audit.output.split()), "the records of both"
    audit = CliRunner().invoke(app, ["audit", "shop", "--ledger", ledger])
    assert "undoing shop_v1 drained" in " ".join(audit.output.split())


def test_one_that_is_not_over_is_not_called_over(url: str, tmp_path: Path) -> None:
    async def main() -> None:
        undone.clear()
        async with shop(tmp_path).connect(url, listeners=()) as c, c.running(observe=False), asyncio.timeout(60):
            made = await c.undo.request(1, partial=True)
            refused = await asyncio.to_thread(command, url, "undo", "shop", "1", "--partial", "--yes")
            assert refused.exit_code == 2, refused.output
            assert f"shop_v1 is being undone, by undo {made.number}: " in " ".join(refused.output.split())
            listed = json.loads((await asyncio.to_thread(command, url, "undo", "shop", "--json")).stdout)
            told = {
                name: listed[name] for name in ("kind", "number", "wagon", "state", "count", "published", "channel")
            }
            assert told == {
                "kind": "undo",
                "number": made.number,
                "wagon": 1,
                "state": "running",
                "count": 4,
                "published": 0,
                "channel": "shop",
            }
            seen = await asyncio.to_thread(command, url, "undo", "shop", "1", "--dry-run", "--json")
            preview = json.loads(seen.stdout)
            assert preview.keys() == listed.keys()
            assert (preview["state"], preview["count"], preview["preview"]["slices"]) == ("preview", 4, 1)
            assert [each["channel"] for each in preview["preview"]["channels"]] == ["bill", "shop"]
            mistaken = await asyncio.to_thread(command, url, "replay", "shop", "--cancel", str(made.number))
            assert mistaken.exit_code == 2, mistaken.output
            assert f"eventwagon undo shop --cancel {made.number}" in " ".join(mistaken.output.split())

    asyncio.run(main())


def test_what_the_archive_lacks_is_left_only_if_that_is_said(url: str, tmp_path: Path) -> None:
    (bills,) = tmp_path.glob("shop/*.bill.parquet")
    bills.unlink()

    async def main() -> None:
        async with shop(tmp_path).connect(url, listeners=()) as c, c.running(observe=False), asyncio.timeout(60):
            refused = await asyncio.to_thread(command, url, "undo", "shop", "1", "--yes")
            assert refused.exit_code == 2, refused.output
            said = " ".join(refused.output.split())
            assert "not known what became of 4 events, not undone: 4 rows of the archive are gone from it" in said
            assert "the archive lacks 4 events of shop_v1, which can't be undone: --partial leaves them" in said
            assert c.undo.standing == []
            asked = await asyncio.to_thread(command, url, "undo", "shop", "1", "--yes", "--partial")
            assert asked.exit_code == 0, asked.output

    asyncio.run(main())


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--dry-run"], "--dry-run: give the WAGON"),
        (["1", "--resume", "3"], "take no WAGON"),
        (["--resume", "3", "--cancel", "3"], "not both"),
        (["--without-failed"], "goes with --resume"),
        (["7", "--dry-run"], "shop_v7 is not archived"),
        (["2", "--dry-run"], "not gone yet"),
        (["--resume", "99"], "no undo 99"),
        (["--cancel", "99"], "no undo 99"),
        (["seven"], "WAGON"),
        (["1", "--json"], "--json goes with the list of undos, or with a WAGON and --dry-run"),
    ],
)
def test_mistakes_are_refused(url: str, words: list[str], why: str) -> None:
    refused = command(url, "undo", "shop", *words)
    assert refused.exit_code == 2, refused.output
    assert why in " ".join(refused.output.split())
    assert "Traceback" not in refused.output
