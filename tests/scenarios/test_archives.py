"""Archives in a directory, with a train on SQLite, and from the shell."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eventwagon import Train, Volume, Workers
from eventwagon.archives.objects import Objects
from eventwagon.cli.app import app
from eventwagon.contracts.archive import ArchivedWagon
from eventwagon.contracts.facts import StepFailed
from eventwagon.views.notes import conditions
from eventwagon.views.train import look
from tests.archived import lives_and_is_archived, processes_die_and_all_is_archived
from tests.scenarios.test_cli import cli
from tests.support import until
from tests.unit.test_archive import row, written


def test_a_train_on_sqlite(tmp_path: Path) -> None:
    asyncio.run(lives_and_is_archived("orders", f"sqlite:///{tmp_path}/trains", f"file://{tmp_path}/archive"))


def test_wagons_wait_while_the_archives_disk_is_not_mounted(tmp_path: Path) -> None:
    archive, disk, failed = tmp_path / "archive", tmp_path / "disk", list[str]()
    url = f"sqlite:///{tmp_path}/trains"

    def heard(fact: object) -> None:
        if isinstance(fact, StepFailed):
            failed.append(fact.because)

    train = Train("parcels", limit=Volume(10), workers=Workers(each=2), archive=archive.as_uri())

    @train.on("parcels")
    async def handle(n: int) -> None:
        pass

    async def lives() -> None:
        async with train.connect(url, listeners=[heard]) as c, c.running():
            await c.publish_many(range(15))
            await until(lambda: c.manifest.wagon(1) is None, seconds=30)
            archive.rename(disk)
            archive.mkdir()  # as an empty mount point
            await c.publish_many(range(10))
            await until(lambda: any("the mark of that is missing" in why for why in failed), seconds=30)
            assert c.manifest.wagon(2) is not None
            view = await look(c, url)
            [note] = [each for each in conditions(view, view.wagons) if "to be removed" in each.text]
            assert note.level == "warn"
            assert note.text.startswith(f"parcels_v2 waits to be removed: archive {archive.as_uri()}: ")
            assert note.text.endswith(" ago)")
            assert not list(archive.iterdir())
            archive.rmdir()
            disk.rename(archive)
            await until(lambda: c.manifest.wagon(2) is None, seconds=30)
            assert not (await look(c, url)).unremoved

    asyncio.run(lives())
    assert len(list(archive.glob("parcels/parcels_v*.parquet"))) == 2


def test_a_directory_that_can_not_be_made_is_said_when_a_process_begins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    handled: list[int] = []
    train = Train("parcels", limit=Volume(10), archive=(tmp_path / "file" / "archive").as_uri())

    @train.on("parcels")
    async def handle(n: int) -> None:
        handled.append(n)

    async def lives() -> None:
        async with train.connect("memory:", listeners=()) as c, c.running():
            await c.publish(1)
            await until(lambda: handled == [1], seconds=30)

    asyncio.run(lives())
    [said] = [r.getMessage() for r in caplog.records if "making its directory" in r.getMessage()]
    assert str(tmp_path / "file") in said
    assert said.endswith("until it is there, drained wagons wait")


@pytest.mark.slow
def test_processes_that_are_killed(tmp_path: Path) -> None:
    processes_die_and_all_is_archived(f"sqlite:///{tmp_path}/trains", f"file://{tmp_path}/archive")


def test_what_the_shell_shows_of_it(tmp_path: Path) -> None:
    archive, trains = f"file://{tmp_path}/archive", f"sqlite:///{tmp_path}/trains"
    asyncio.run(lives_and_is_archived("orders", trains, archive))
    listed = cli(tmp_path, "export", "orders", "--url", trains)
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.endswith("6 files\n")
    assert listed.stdout.startswith("orders_v1  ingress  ")
    dead = cli(tmp_path, "export", "orders", "orders_v2", "--url", trains, "--outcome", "dead", "--channel", "orders")
    assert [json.loads(line)["data"] for line in dead.stdout.splitlines()] == [29, 39]
    [row, *_] = [json.loads(line) for line in dead.stdout.splitlines()]
    assert (row["wagon"], row["channel"], row["outcome"], row["attempts"]) == (2, "", "dead", 1)
    assert row["because"] == "rejected: a nine"
    alone = cli(tmp_path, "export", "orders", "1", "--archive", archive, "--url", "sqlite:///nowhere")
    assert len(alone.stdout.splitlines()) == 38
    same = cli(tmp_path, "audit", "orders", "--archive", "--url", trains)
    assert same.returncode == 0, same.stderr
    assert "the archive agrees with the records of " in same.stdout
    assert "  archived  38 rows at file://" in cli(tmp_path, "audit", "orders", "1", "--url", trains).stdout
    next((tmp_path / "archive" / "orders").glob("orders_v2-*.inner.parquet")).unlink()
    less = cli(tmp_path, "audit", "orders", "--archive", "--url", trains)
    assert less.returncode == 1
    assert "orders_v2: 38 rows were archived, 20 are at file://" in less.stderr


def test_an_audit_lists_the_archive_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, trains = f"file://{tmp_path}/archive", f"sqlite:///{tmp_path}/trains"
    asyncio.run(lives_and_is_archived("orders", trains, archive))
    listed = list[str]()
    names = Objects.names

    def counted(self: Objects, folder: str) -> Sequence[tuple[str, int]]:
        listed.append(folder)
        return names(self, folder)

    monkeypatch.setattr(Objects, "names", counted)
    same = CliRunner().invoke(app, ["audit", "orders", "--archive", "--url", trains])
    assert (same.exit_code, listed) == (0, ["orders"])
    (tmp_path / "archive").rename(tmp_path / "elsewhere")
    away = CliRunner().invoke(app, ["audit", "orders", "--archive", "--url", trains])
    assert away.exit_code == 1
    assert away.stderr.count("the directory is not on this machine") == 1


def test_of_wagons_of_one_name_the_last_one_is_shown_unless_another_is_asked_for(tmp_path: Path) -> None:
    archive = tmp_path.as_uri()
    for opened_at, n in ((1_800_000_000.25, 1), (1_800_000_001.25, 2)):
        wagon = ArchivedWagon(train="orders", number=7, opened_at=opened_at)
        asyncio.run(written(archive, [row(n)], wagon))
    asyncio.run(written(archive, [row(3)], ArchivedWagon(train="orders", number=7, opened_at=None, late="0f")))

    def shown(*words: str) -> tuple[list[str], str]:
        found = CliRunner().invoke(app, ["export", "orders", "7", "--archive", archive, *words])
        return [json.loads(line)["id"] for line in found.stdout.splitlines()], found.stderr

    ids, said = shown()
    assert ids == ["id-2", "id-3"]
    assert "has 2 wagons of the name orders_v7" in said
    assert "opened at 20270115T080001250Z; --opened has the others: 20270115T080000250Z" in said
    assert shown("--opened", "20270115T080000250Z") == (["id-1", "id-3"], "")
    assert shown("--opened", "2027")[0] == []
    assert (
        "no archived events from '2027', but of 20270115T080000250Z, 20270115T080001250Z"
        in shown("--opened", "2027")[1]
    )


def test_what_it_can_not_show(tmp_path: Path) -> None:
    archive, trains = f"file://{tmp_path}/archive", f"sqlite:///{tmp_path}/trains"
    asyncio.run(lives_and_is_archived("orders", trains, archive, count=20))
    for words, code, says in (
        (["orders", "99"], 1, "orders_v99 is not archived at"),
        (["orders", "1", "--channel", "nope"], 1, "orders_v1 has no archived events of channel 'nope'"),
        (["orders", "1", "--outcome", "good"], 2, "--outcome 'good': give handled, dead, passed or skipped"),
        (["orders", "parcels_v1"], 2, "WAGON 'parcels_v1' is a wagon of train 'parcels'"),
        (["orders", "x"], 2, "WAGON 'x': give a wagon's name"),
        (["orders", "1", "--archive", "nope"], 2, "give file:///directory or s3://bucket/prefix"),
        (["orders", "--opened", "20270115T080000250Z"], 2, "--opened: give the WAGON"),
        (["parcels", "1"], 2, "there is no train 'parcels'"),
    ):
        found = cli(tmp_path, "export", *words, "--url", trains)
        assert found.returncode == code, found.stderr
        assert says in found.stderr
        assert "Traceback" not in found.stderr
