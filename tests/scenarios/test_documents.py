"""Documents that can't be read, on SQLite: commands and processes say how to go on, and go on."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from eventwagon import Volume
from eventwagon.contracts.facts import StepFailed, UnknownFact
from eventwagon.errors import BrokenManifest
from tests.scenarios.test_cli import cli, cli_here, place
from tests.support import SignUp, signups, until

__all__ = ["place"]  # a fixture


@contextmanager
def database(directory: Path, train: str = "signups") -> Iterator[apsw.Connection]:
    """Somebody edits the train's file; by apsw, since Python's own sqlite3 would drop the locks of this process."""
    db = apsw.Connection(str(directory / train / "train.db"))
    db.set_busy_timeout(10_000)
    try:
        db.execute("BEGIN IMMEDIATE")
        yield db
        db.execute("COMMIT")
    finally:
        db.close()


BROKEN = ["", "{", "[]", '{"train":"signups","format":99}', '{"train":"signups","wagons":[{"number":1}]}', "\x00"]


@pytest.mark.parametrize("broken", BROKEN)
def test_processes_go_on_while_the_manifest_cant_be_read_and_take_it_up_again(
    tmp_path: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        handled = list[str]()
        train = signups(handled, observe_every=0.05, member_ttl=1.0, limit=Volume(1000))
        url = f"sqlite:///{tmp_path}"
        facts: list[object] = []
        async with train.connect(url, listeners=[facts.append]) as c, c.running():
            await c.publish(SignUp("a"))
            await until(lambda: handled == ["a"])
            with database(tmp_path) as db:
                ((good,),) = db.execute("SELECT document FROM manifest").fetchall()
                db.execute("UPDATE manifest SET document = ?, revision = revision + 1", (broken,))
            await until(lambda: any(isinstance(f, StepFailed) and "manifest" in f.because for f in facts))
            await c.publish(SignUp("b"))
            await until(lambda: handled == ["a", "b"])
            with pytest.raises(BrokenManifest, match=r"train\.db"):
                await c.refresh()
            with pytest.raises(BrokenManifest, match="upgrade this program"):
                async with train.connect(url):
                    pass
            with database(tmp_path) as db:
                db.execute("UPDATE manifest SET document = ?, revision = revision + 1", (good,))
            old = await c.request_switch()
            await c.wait_drained(old)
            assert c.trouble == ""
        assert not any("Task exception" in line for line in caplog.messages)

    with caplog.at_level(logging.INFO):
        asyncio.run(main())


def test_the_journal_and_the_members_are_read_whatever_is_in_them(tmp_path: Path) -> None:
    async def main() -> None:
        handled = list[str]()
        train = signups(handled)
        url = f"sqlite:///{tmp_path}"
        async with train.connect(url, listeners=[]) as c, c.running():
            await c.publish(SignUp("a"))
            await until(lambda: handled == ["a"])
            before = [e async for e in c.journal()]
            with database(tmp_path) as db:
                for entry in ('{"at":1,"by":"x","fact":{"fact":"New","train":"signups"}}', "", b"\xff\x00", "[]"):
                    db.execute("INSERT INTO journal (entry) VALUES (?)", (entry,))
                db.execute("INSERT INTO member VALUES ('x', '{\"name\":1}', 600, 1e12)")
            found = [e async for e in c.journal()]
            assert found[: len(before)] == before
            unknown = [e.fact for e in found if isinstance(e.fact, UnknownFact)]
            assert [f.kind for f in unknown] == ["New", "", "", ""]
            assert [m.name for m in await c.members()] == [c.name]
            old = await c.request_switch()
            await c.wait_drained(old)

    asyncio.run(main())


def test_commands_say_how_to_go_on(place: Path) -> None:
    cli(place, "publish", "app:train", given='{"email":"a"}')
    with database(place / "trains") as db:
        db.execute('INSERT INTO journal (entry) VALUES (\'{"fact":{"fact":"FromTheFuture"}}\')')
    told = cli(place, "why", "signups")
    assert (told.returncode, told.stderr) == (0, "")
    assert 'FromTheFuture can\'t be read by this version: {"fact"' in told.stdout
    lines = [json.loads(line) for line in cli(place, "why", "signups", "--json").stdout.splitlines()]
    assert lines[-1]["fact"]["kind"] == "FromTheFuture"
    with database(place / "trains") as db:
        db.execute('UPDATE manifest SET document = \'{"train":"signups","format":99}\'')
    for arguments in (["status", "signups"], ["switch", "signups"], ["publish", "app:train"], ["run", "app:train"]):
        done = cli(place, *arguments, given="1")
        assert done.returncode == 1, arguments
        assert "upgrade this program too" in done.stderr
        assert "train.db" in done.stderr
        assert "Traceback" not in done.stderr
    why = cli(place, "why", "signups")
    assert why.returncode == 0
    assert "FromTheFuture" in why.stdout
    doctor = cli(place, "doctor", "sqlite:///trains")
    assert doctor.returncode == 1
    assert "upgrade this program too" in doctor.stdout


def test_a_newer_programs_settings_are_no_hindrance(place: Path) -> None:
    cli(place, "publish", "app:train", given='{"email":"a"}')
    with database(place / "trains") as db:
        ((document,),) = db.execute("SELECT document FROM manifest").fetchall()
        manifest = json.loads(str(document))
        manifest["declared"] |= {"from_the_future": "7", "limit": "Novel(3)", "spares": "40", "cooldown": "'soon'"}
        db.execute("UPDATE manifest SET document = ?", (json.dumps(manifest),))
    for arguments in (["status", "signups"], ["publish", "signups"]):
        done = cli(place, *arguments, given="1")
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


@pytest.mark.parametrize("revision", ["../../x", "a/b", ".x", "x" * 64])
def test_no_command_takes_what_is_no_revision(place: Path, revision: str) -> None:
    target = f"{place}/app-{{revision}}.py:train"
    commands = [["run", target], ["observe", target], ["work", "app:train"], ["switch", "signups"]]
    for arguments in commands:
        done = cli_here(place, *arguments, "--revision", revision)
        assert done.exit_code == 2, done.stderr
        assert "use 1 to 63 of A-Z" in done.stderr
    assert cli(place, "run", "app:train", EVENTWAGON_REVISION=revision).returncode == 2
