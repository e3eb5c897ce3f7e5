"""`switch --revision`, `--watch-errors` and `--revision` on the command line, with two folders of code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eventwagon.contracts.process import this_user
from tests.scenarios.test_cli import PROGRAM, cli, lines, running, until_handled


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for version in ("v1", "v2"):
        folder = tmp_path / f"app-{version}"
        folder.mkdir()
        (folder / "app.py").write_text(PROGRAM)
    return tmp_path


TARGET = "app-{revision}/app.py:train"


def test_a_release_in_a_folder_of_its_own_and_back(place: Path) -> None:
    with running(place, "run", TARGET, "--isolate", "--revision", "v1"):
        assert cli(place, "publish", "signups", given=lines("a@x", "b@x")).returncode == 0
        said = cli(place, "switch", "signups", "--revision", "v2", "--watch-errors", "2%", "--reason", "release 2")
        assert said.returncode == 0, said.stderr
        assert said.stdout.endswith(", revision v2\n")
        until_handled(place, 1)
        view = json.loads(cli(place, "status", "signups", "--json").stdout)
        active = next(w for w in view["wagons"] if w["state"] == "active")
        assert (active["revision"], active["asleep"]) == ("v2", False)
        assert view["watched"].endswith("back to revision v1 if more than 0.02 of it fails")
        shown = cli(place, "status", "signups").stdout
        assert "revision" in shown
        assert "watched: signups_v" in shown
        back = cli(place, "switch", "signups", "--revision", "v1")
        assert back.stdout.endswith(", revision v1\n")
    told = cli(place, "why", "signups").stdout
    assert "signups_v1 (revision v1) active" in told
    assert (
        f"a switch to revision v2 was requested by {this_user()}, and a switch back if more than 0.02 of its handlings "
        "fail: release 2" in told
    )
    assert "(revision v2) at pressure 0.00: asked for: release 2" in told


def test_code_that_can_not_be_had_is_given_up_and_the_command_fails(place: Path) -> None:
    program = PROGRAM.replace("spares=1)", "spares=1, provision_timeout=2.0, provision_attempts=1)")
    (place / "app-v1" / "app.py").write_text(program)
    with running(place, "run", TARGET, "--isolate", "--revision", "v1"):
        said = cli(place, "switch", "signups", "--revision", "v9")
        assert said.returncode == 1
        assert "the switch to revision v9 was given up, revision v1 goes on" in said.stderr
        assert "app-v9" in said.stderr


def test_a_revision_that_nothing_runs_is_named_and_the_switch_withdrawn(place: Path) -> None:
    with running(place, "run", "app-v1/app.py:train", "--revision", "v1"):
        late = cli(place, "switch", "signups", "--revision", "v9", "--timeout", "2")
        assert late.returncode == 3
        said = " ".join(late.stderr.split())
        assert "No live worker reports revision v9; they report revision v1." in said
        assert "It waits for signups_v" in said
        assert ", revision v9: " in said
        assert "`eventwagon switch signups --withdraw` withdraws it" in said
        again = cli(place, "switch", "signups", "--timeout", "0.5")  # joins it: the revision stays asked for
        assert again.returncode == 3
        assert "revision v9" in again.stderr
        withdrawn = cli(place, "switch", "signups", "--withdraw", "--reason", "not today")
        assert (withdrawn.returncode, withdrawn.stdout) == (
            0,
            "the switch is withdrawn; signups_v1 goes on, revision v1\n",
        ), withdrawn.stderr
        twice = cli(place, "switch", "signups", "--withdraw")
        assert (twice.returncode, twice.stdout) == (0, "no switch was requested; signups_v1 goes on, revision v1\n")
        made = cli(place, "switch", "signups")
        assert made.returncode == 0, made.stderr
    told = cli(place, "why", "signups").stdout
    assert f"was withdrawn by {this_user()}, signups_v1 (revision v1) goes on: not today" in told


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["switch", "signups", "--withdraw", "--revision", "v2"], "--withdraw takes no --revision"),
        (["switch", "signups", "--watch-errors", "2%"], "needs --revision"),
        (["switch", "signups", "--revision", "v2", "--watch-errors", "200%"], "above 0 and at most 1"),
        (["switch", "signups", "--revision", "v2", "--watch-errors", "some"], "2% or 0.02"),
        (["run", TARGET], "give --revision"),
        (["work", "app-v1/app.py:named", "--revision", "v2"], "says that it is revision v1, not v2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_named(place: Path, arguments: list[str], says: str) -> None:
    (place / "app-v1" / "app.py").write_text(PROGRAM + "\nnamed = Train('named', revision='v1')\n")
    said = cli(place, *arguments)
    assert said.returncode == 2
    assert says in " ".join(said.stderr.split())
    assert "Traceback" not in said.stderr
