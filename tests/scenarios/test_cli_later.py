"""Events for later from the shell."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.scenarios.test_cli import cli, place, running  # noqa: F401 - a fixture


def test_events_for_later_from_the_shell(place: Path) -> None:  # noqa: F811
    given = '{"email": "a@b"}\n{"email": "c@d"}\n'
    assert cli(place, "publish", "app:train", "--after", "3600", given=given).stdout == (
        "kept for later: 2 events to signups\n"
    )
    at = cli(place, "publish", "signups", "--at", "2099-01-31T18:00:00+01:00", given='{"x": 1}')
    assert "more than ten years ahead\n" in at.stderr
    assert at.returncode != 0
    found = [json.loads(line) for line in cli(place, "later", "signups", "--json").stdout.splitlines()]
    assert [event["data"] for event in found] == [{"email": "a@b"}, {"email": "c@d"}]
    listed = cli(place, "later", "signups").stdout.splitlines()
    assert f'ingress  {found[0]["id"]}  SignUp {{"email": "a@b"}}' in listed[0]
    assert listed[2].startswith("later: 2 events waiting, the next in ")
    assert "later: 2 events waiting, the next in " in cli(place, "status", "signups").stdout
    assert json.loads(cli(place, "status", "signups", "--json").stdout)["later"] == 2
    assert cli(place, "later", "signups", "--cancel", found[0]["id"]).stdout == "cancelled 1 event\n"
    again = cli(place, "later", "signups", "--cancel", found[0]["id"])
    assert (again.returncode, found[0]["id"] in again.stderr) == (1, True)
    refused = cli(place, "remove", "signups")
    assert (refused.returncode, "1 event for later" in refused.stderr) == (1, True)
    assert "1 event for later" in cli(place, "remove", "signups", "--force").stdout
    assert cli(place, "later", "signups").returncode == 2


def test_what_is_due_is_handled(place: Path) -> None:  # noqa: F811
    with running(place, "run", "app:train"):
        assert cli(place, "publish", "app:train", "--after", "0.5", given='{"email": "poison"}').returncode == 0
        for _ in range(20):
            if "an e-mail address has an @" in cli(place, "dead", "signups").stdout:
                break
        else:
            pytest.fail("it was not handled")
        assert cli(place, "later", "signups").stdout == "later: no event waits\n"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--at", "2099-01-31T18:00:00"], "add its time zone"),
        (["--at", "tomorrow"], "write a time with its zone"),
        (["--at", "2030-01-31T18:00:00Z", "--after", "5"], "not both"),
        (["--after", "1e12"], "ten years"),
    ],
)
def test_a_wrong_time_is_one_line(place: Path, options: list[str], says: str) -> None:  # noqa: F811
    ended = cli(place, "publish", "app:train", *options, given='{"email": "a@b"}')
    assert ended.returncode == 2
    assert says in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not (place / "trains").exists()


SCHEDULED = """
from eventwagon import Train

train = Train("reports")

@train.on("reports")
async def make(name: str) -> None: ...

@train.every(1)
def often() -> str:
    return "now"

@train.every("0 6 1 1 *", tz="Europe/Madrid", name="yearly")
def seldom() -> str:
    return "the year"
"""


def test_schedules_are_shown_with_their_last_and_next_tick(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(SCHEDULED)
    with running(tmp_path, "run", "app:train"):
        for _ in range(40):
            view = json.loads(cli(tmp_path, "status", "app:train", "--json").stdout)
            often, yearly = view["schedules"]
            if often["last"] and yearly["last"]:
                break
    assert (often["name"], often["when"]) == ("often", "every 1 s")
    assert often["next"] - often["last"] in (1, 2)  # the tick that is due right now may not be recorded yet
    assert (yearly["name"], yearly["when"]) == ("yearly", "0 6 1 1 * (Europe/Madrid)")
    assert yearly["last"] < view["at"] < yearly["next"]
    time.sleep(6)
    said = cli(tmp_path, "status", "app:train").stdout
    assert "schedule often, every 1 s: last tick 20" in said
    assert "is missing" in said.replace("\n", " ")
    by_name = json.loads(cli(tmp_path, "status", "reports", "--json").stdout)["schedules"]
    assert [(each["name"], each["when"], each["next"]) for each in by_name] == [
        ("often", None, None),
        ("yearly", None, None),
    ]
    assert cli(tmp_path, "later", "app:train").stdout.count("schedule ") == 2
    assert json.loads(cli(tmp_path, "list", "--json").stdout)["schedules"] == 2
    assert "schedules" in cli(tmp_path, "list").stdout
