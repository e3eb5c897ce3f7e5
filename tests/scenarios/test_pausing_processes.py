"""`eventwagon pause` and `resume` with real processes: on SQLite here, on Redis in tests/redis/test_pausing.py."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eventwagon.cli.app import app
from eventwagon.connection import Connection
from eventwagon.contracts.broker import Depth
from tests.scenarios.test_cli import cli, command, environment

PROGRAM = """
import asyncio, time
from pathlib import Path
from eventwagon import Context, Train, Volume, Workers

train = Train("parcels", limit=Volume(100_000), workers=Workers(total=4), spares=0)

@train.on("parcels")
async def send(n: int, ctx: Context) -> None:
    with Path("begun").open("a") as file:
        file.write(f"{ctx.wagon} {n} {ctx.attempt} {time.time()}\\n")
    await asyncio.sleep(0.0 if Path("quick").exists() else 0.2)
    with Path("done").open("a") as file:
        file.write(f"{n}\\n")
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(PROGRAM)
    for name in ("begun", "done"):
        (tmp_path / name).touch()
    return tmp_path


@contextmanager
def running(place: Path, *arguments: str, **further: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command(*arguments), cwd=place, env=environment(**further), stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stderr is not None
    try:
        for said in process.stderr:
            if "Ctrl-C ends it" in said:
                break
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def begun(place: Path) -> list[list[str]]:
    return [line.split() for line in (place / "begun").read_text().splitlines()]


def count(place: Path, name: str) -> int:
    return len((place / name).read_text().splitlines())


def until_count(place: Path, name: str, least: int) -> None:
    deadline = time.monotonic() + 60
    while count(place, name) < least:
        assert time.monotonic() < deadline, f"{name}: {count(place, name)} of {least}"
        time.sleep(0.05)


def publish(place: Path, events: range, **further: str) -> None:
    sent = cli(place, "publish", "parcels", given="".join(f"{n}\n" for n in events), **further)
    assert sent.returncode == 0, sent.stderr


def pauses_and_goes_on(place: Path, *run: str, **further: str) -> None:
    """Two processes at work; a pause, a restart of both meanwhile, and the end of the pause."""
    assert cli(place, "publish", "app:train", given="0\n", **further).returncode == 0
    publish(place, range(1, 400), **further)
    with running(place, *run, **further), running(place, *run, **further):
        until_count(place, "begun", 20)
        paused = cli(place, "pause", "parcels", "--reason", "the van is full", "--by", "ada", **further)
        told = time.time()
        assert (paused.returncode, paused.stdout) == (
            0,
            "parcels is paused: no more events are handed out; publishers go on\n",
        ), paused.stderr
        publish(place, range(400, 410), **further)
        time.sleep(1.5)
        assert count(place, "begun") == count(place, "done")
    with running(place, *run, **further):
        time.sleep(1.5)
        view = json.loads(cli(place, "status", "parcels", "--json", **further).stdout)
        assert "by ada: the van is full" in view["paused"]
        assert [a["paused"] for m in view["members"] for a in (*m["attachments"], *m["deployed"])] == [True]
        wagon = view["wagons"][0]
        assert wagon["in_flight"] == 0
        assert wagon["waiting"] == wagon["published"] - wagon["settled"] == 410 - count(place, "done")
    assert max(float(at) for *_, at in begun(place)) <= told  # the command returned when all had said so
    assert {attempt for _, _, attempt, _ in begun(place)} == {"1"}
    assert "the train was paused by ada: the van is full" in cli(place, "why", "parcels", **further).stdout


def test_a_pause_holds_between_processes_and_survives_them(place: Path) -> None:
    pauses_and_goes_on(place, "run", "app:train")
    (place / "quick").touch()
    with running(place, "run", "app:train"):
        assert cli(place, "resume", "parcels").stdout == "parcels is resumed\n"
        until_count(place, "done", 410)
    assert count(place, "begun") == 410


def test_a_wagon_s_own_process_obeys(place: Path) -> None:
    """With --isolate: the observing process tells it, and what it says reaches the command."""
    pauses_and_goes_on(place, "run", "app:train", "--isolate")


def test_what_status_resume_and_drain_say(place: Path) -> None:
    assert cli(place, "publish", "app:train", given="1\n2\n").returncode == 0
    world = {"EVENTWAGON_URL": f"sqlite:///{place}/trains", "COLUMNS": "120"}

    def said(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, arguments, env=world)
        assert done.exit_code == code, done.output
        return done.output

    assert said("resume", "parcels", "--wagon", "1") == "parcels_v1 was not paused\n"
    said("pause", "parcels", "--publishing", "--reason", "audit", "--by", "ada")
    twice = said("pause", "parcels", "--by", "bob")
    assert "parcels was paused already, " in twice
    assert "by ada: audit; publishers are refused" in twice
    shown = said("status", "parcels")
    assert "the train was paused" in shown
    assert "by ada: audit; publishers are refused" in shown
    assert "paused with the train" in shown
    refused = cli(place, "publish", "parcels", given="3\n")
    assert refused.returncode == 1
    assert "train parcels is paused, and so is publishing by ada: audit" in refused.stderr
    own = said("resume", "parcels", "--wagon", "1")
    assert "parcels_v1 was not paused by itself\n" in own
    assert "the whole train is still paused: eventwagon resume parcels\n" in own
    said("pause", "parcels", "--wagon", "1", "--by", "bob")
    assert "parcels_v1 is still paused by itself: eventwagon resume parcels --wagon parcels_v1" in said(
        "resume", "parcels"
    )
    assert "parcels_v1 was paused" in said("status", "parcels")
    assert "parcels_v1 was paused by bob: by hand" in said("why", "parcels", "--wagon", "1")
    assert "parcels_v1 is paused" in said("drain", "parcels", "--timeout", "0.1", code=3)
    assert "parcels was not paused\n" in said("resume", "parcels")


def test_what_was_handed_out_before_is_counted_and_unknown_is_never_none(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = PROGRAM.replace(
        '    await asyncio.sleep(0.0 if Path("quick").exists() else 0.2)\n',
        '    while not Path("quick").exists():\n        await asyncio.sleep(0.05)\n',
    )
    assert waits != PROGRAM
    (place / "app.py").write_text(waits)
    assert cli(place, "publish", "app:train", given="1\n2\n").returncode == 0
    with running(place, "run", "app:train"):
        until_count(place, "begun", 2)
        held = cli(place, "pause", "parcels")
        (place / "quick").touch()
        assert held.returncode == 0, held.stderr
        assert "2 events handed out before: the handlers finish" in held.stderr
        assert held.stdout == "parcels is paused: no more events are handed out; publishers go on\n"

    async def unknown(_: Connection) -> Mapping[int, Mapping[str, Depth]]:
        return {1: {"": Depth(in_flight=0), "second": Depth()}}

    monkeypatch.setattr(Connection, "depths", unknown)
    again = CliRunner().invoke(app, ["pause", "parcels"], env={"EVENTWAGON_URL": f"sqlite:///{place}/trains"})
    assert again.exit_code == 0, again.output
    assert "this broker can't tell how many events were handed out before" in again.output


def test_a_mistake_is_one_line_and_changes_nothing(place: Path) -> None:
    assert cli(place, "publish", "app:train", given="1\n").returncode == 0
    world = {"EVENTWAGON_URL": f"sqlite:///{place}/trains"}
    for arguments, says in (
        (("pause", "parcels", "--wagon", "9"), "there is no wagon parcels_v9; there are: parcels_v1"),
        (("resume", "parcels", "--wagon", "9"), "there is no wagon parcels_v9; there are: parcels_v1"),
        (("pause", "parcels", "--wagon", "1", "--publishing"), "publishing goes to the train"),
        (("pause", "parcel"), "there is no train 'parcel'"),
        (("pause", "parcels", "--reason", "\x1b[31m"), "the reason holds"),
        (("resume", "parcels", "--by", "\ud800"), "by holds"),
    ):
        wrong = CliRunner().invoke(app, arguments, env=world)
        assert wrong.exit_code == 2, wrong.output
        assert says in wrong.output
        assert len(wrong.output.splitlines()) == 1
    view = json.loads(CliRunner().invoke(app, ["status", "parcels", "--json"], env=world).output)
    assert (view["paused"], view["wagons"][0]["paused"]) == ("", "")


def test_a_wagon_that_never_was_is_a_mistake_also_where_the_train_was_paused(place: Path) -> None:
    assert cli(place, "publish", "app:train", given="1\n").returncode == 0
    world = {"EVENTWAGON_URL": f"sqlite:///{place}/trains"}
    for verb in ("pause", "resume"):
        assert CliRunner().invoke(app, [verb, "parcels"], env=world).exit_code == 0
    for arguments in (
        ("why", "parcels", "--wagon", "9"),
        ("why", "parcels", "--wagon", "parcels_v9", "--json"),
        ("dead", "parcels", "--wagon", "9"),
        ("dead", "list", "parcels", "--wagon", "9"),
        ("dead", "retry", "parcels", "--wagon", "9", "--yes"),
        ("dead", "export", "parcels", "--wagon", "9"),
        ("audit", "parcels", "9"),
    ):
        wrong = CliRunner().invoke(app, arguments, env=world)
        told = "eventwagon: there never was a wagon parcels_v9: the newest is parcels_v1\n"
        assert (wrong.exit_code, wrong.stdout, wrong.stderr) == (2, "", told), arguments
    own = CliRunner().invoke(app, ["why", "parcels", "--wagon", "1"], env=world).stdout
    assert "parcels_v1 opened" in own
    assert "the train was paused" in own


def test_a_process_that_stands_still_is_named(place: Path) -> None:
    """It has the manifest when it goes on; until then the command can't say that the pause holds."""
    (place / "app.py").write_text(PROGRAM.replace("spares=0", "spares=0, member_ttl=60.0"))
    assert cli(place, "publish", "app:train", given="1\n").returncode == 0
    with running(place, "run", "app:train") as process:
        until_count(place, "done", 1)
        process.send_signal(signal.SIGSTOP)
        try:
            late = cli(place, "pause", "parcels", "--timeout", "1")
        finally:
            process.send_signal(signal.SIGCONT)
        assert late.returncode == 3
        assert f"-{process.pid}-" in late.stderr
        assert "these have not confirmed it" in late.stderr
        assert cli(place, "pause", "parcels").returncode == 0
