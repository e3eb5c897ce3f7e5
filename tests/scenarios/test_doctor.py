"""`doctor` where there is no server: SQLite and memory; where its URL comes from; what it says in a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eventwagon import Train
from eventwagon.cli.app import app
from eventwagon.cli.doctor import examine
from eventwagon.contracts.broker import Finding, told_together
from eventwagon.drivers.opening import open_drivers
from eventwagon.drivers.sqlite import inspection
from eventwagon.errors import StorageBroken, Unavailable
from tests import doctors


def doctor(*arguments: str, **environment: str) -> Any:
    return CliRunner(env={"EVENTWAGON_URL": None, **environment}).invoke(app, ["doctor", *arguments])


def test_it_leaves_no_file(tmp_path: Path) -> None:
    """Nor the directory, if it was not there; one that was is left, with what is in it."""

    def listing() -> list[str]:
        return sorted(f"{path.relative_to(tmp_path)}" for path in tmp_path.rglob("*"))

    doctors.leaves_nothing(f"sqlite:///{tmp_path}/deep/trains", listing)
    assert listing() == []
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.txt").touch()
    doctors.leaves_nothing(f"sqlite:///{tmp_path}/here", listing, doctors.FEW)


def test_a_train_that_is_there_stays_and_is_looked_at(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}"

    async def found_it() -> None:
        async with Train("signups").connect(url) as connection:
            await connection.publish(1)

    asyncio.run(found_it())
    before = sorted(tmp_path.rglob("*.db"))
    said = json.loads(doctor(url, "--json").stdout)
    assert "list all trains' channels" in [step["what"] for step in said["steps"]["broker"]]
    assert sorted(tmp_path.rglob("*.db")) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_one_leaves_no_file(tmp_path: Path, number: signal.Signals) -> None:
    place = tmp_path / "trains"
    doctors.interrupt(f"sqlite:///{place}", lambda: any(place.glob("*/v1.db")), number)
    assert list(tmp_path.iterdir()) == []


def test_memory_loses_all(tmp_path: Path) -> None:
    done = doctor("memory://", "--json")
    assert done.exit_code == 1
    said = json.loads(done.stdout)
    assert [finding["severity"] for finding in said["findings"]["broker"]] == ["loses"]
    assert not said["well"]
    assert "1 setting of the server can lose events" in done.stderr


def test_the_text_and_the_json_have_the_same_content() -> None:
    text, said = doctor("memory://").stdout, json.loads(doctor("memory://", "--json").stdout)
    for finding in said["findings"]["broker"]:
        assert f"loses events  {finding['what']}: {finding['means']} → {finding['todo']}" in text
    for name, means in said["means"].items():
        assert f"{'✓' if said['capabilities'][name] else '–'} {name:8} {means}" in text  # to lack one is no failure
    for steps in said["steps"].values():
        for step in steps:
            assert f"✓ {step['what']} " in text
    assert said["url"] == "memory://"
    assert said["url"] in text


def test_the_url_comes_from_where_that_of_all_commands_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def url(*arguments: str, **environment: str) -> str:
        return str(json.loads(doctor(*arguments, "--json", **environment).stdout)["url"])

    assert url() == "sqlite:///.eventwagon"
    assert url(EVENTWAGON_URL="memory://a") == "memory://a"
    assert url("--url", "memory://b", EVENTWAGON_URL="memory://a") == "memory://b"
    assert url("memory://c", EVENTWAGON_URL="memory://a") == "memory://c"
    both = doctor("memory://c", "--url", "memory://b")
    assert (both.exit_code, "not both" in both.stderr) == (2, True)


@pytest.mark.parametrize(
    ("kind", "severity"), [("ext4", "fine"), ("overlay", "loses"), ("tmpfs", "loses"), (None, "unknown")]
)
def test_file_systems(kind: str | None, severity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "file_system", lambda directory: kind)
    (found,) = (finding for finding in inspection.inspect(tmp_path) if "file system" in finding.what)
    assert found.severity == severity


def test_what_others_may_see_and_what_is_not_synchronous_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    found = doctors.look(f"sqlite:///{tmp_path}?sync=normal")["broker"].findings
    costs = {finding.what: finding for finding in found if finding.severity == "costs"}
    assert "0755" in costs[f"rights on {tmp_path}"].means
    assert costs[f"rights on {tmp_path}"].todo.startswith("`chmod -R go=")
    assert "power cut" in costs["journal_mode=wal, synchronous=1 (normal)"].means
    tmp_path.chmod(0o700)
    found = doctors.look(f"sqlite:///{tmp_path}")["broker"].findings
    assert "journal_mode=wal, synchronous=2 (full)" in [finding.what for finding in found if finding.severity == "fine"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_rights_is_a_step_that_fails(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = doctor(f"sqlite:///{tmp_path}/trains")
    assert (done.exit_code, "✗ create a channel: " in done.stdout) == (1, True)


def test_a_server_that_does_not_answer_is_asked_once() -> None:
    """Its driver opens without it. A registry elsewhere is examined all the same."""

    async def away(*_: object) -> Any:
        raise Unavailable("nobody is there")

    async def main(*, together: bool) -> dict[str, list[tuple[str, str, bool]]]:
        drivers = open_drivers("memory://")
        drivers.broker.channels = away  # type: ignore[method-assign, assignment]
        found = await examine(drivers, together=together)
        return {name: [(s.what, s.problem, s.skipped) for s in each.steps] for name, each in found.items()}

    found = asyncio.run(main(together=True))
    assert found == {"broker": [("connect", "nobody is there", False)], "registry": [("connect", "", True)]}
    apart = asyncio.run(main(together=False))
    assert apart["broker"] == found["broker"]
    assert len(apart["registry"]) > 5
    assert not [step for step in apart["registry"] if step[1]]


def test_one_train_that_can_not_be_read_is_no_server_that_does_not_answer() -> None:
    """With SQLite each train has a file of its own, and one may be locked."""

    async def locked(*_: object) -> Any:
        raise Unavailable("train.db has been locked by another process for 10 s")

    async def main() -> list[tuple[str, str]]:
        drivers = open_drivers("memory://")
        drivers.registry.trains = locked  # type: ignore[method-assign]
        return [(step.what, step.problem) for step in (await examine(drivers))["registry"].steps]

    steps = asyncio.run(main())
    assert ("connect", "") in steps
    assert ("list the trains", "train.db has been locked by another process for 10 s") in steps


def test_an_answer_that_is_no_is_left_to_its_own_step() -> None:
    async def forbidden(*_: object) -> Any:
        raise StorageBroken("grant DESCRIBE")

    async def main() -> list[tuple[str, str]]:
        drivers = open_drivers("memory://")
        drivers.broker.channels = forbidden  # type: ignore[method-assign, assignment]
        return [(step.what, step.problem) for step in (await examine(drivers))["broker"].steps]

    steps = asyncio.run(main())
    assert ("connect", "") in steps
    assert ("list channels", "grant DESCRIBE") in steps


def test_findings_of_several_are_told_once_or_with_their_names() -> None:
    a, b = (Finding(severity="fine", what=what, means="") for what in "ab")
    found = {"x": [a, a, b], "y": [a], "z": [a]}
    assert [finding.what for finding in told_together(found)] == ["a", "b (x)"]
    assert [finding.what for finding in told_together({f"t{i}": [b] if i else [] for i in range(6)})] == [
        "b (t1, t2, t3 and 2 more)"
    ]
