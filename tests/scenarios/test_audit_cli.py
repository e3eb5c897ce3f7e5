"""`eventwagon audit`: lists, searches, shows one; in words and as JSON."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from urllib.parse import quote

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from eventwagon import Train
from eventwagon.cli import console
from eventwagon.cli.app import app
from tests.recorded import recorded


def audit(url: str, *words: str) -> Result:
    return CliRunner().invoke(app, ["audit", "orders", *words, "--url", url])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('trains')}"
    asyncio.run(recorded(url, None))  # by default beside the events
    return url


def test_it_lists_and_shows(url: str) -> None:
    listed = audit(url)
    assert listed.exit_code == 0, listed.output
    (line,) = [each for each in listed.stdout.splitlines() if "orders_v1" in each]
    assert line.endswith("in 50, emitted 45, settled 95, dead 5, retried 7")
    assert " drained (closed: asked for: an audit); in 50" in line
    shown = audit(url, "orders_v1").stdout
    assert "reconciled: of each channel, published = settled + lost + left" in shown
    assert "digests and percentiles cover 95 of 95 settled events" in shown
    assert "channel ship: published 45, settled 45" in shown
    assert "letters   5 kept, 0 retried or dropped, 0 lost" in shown
    assert "ada@desk" in shown
    for line in shown.splitlines():
        assert line.count("ada@desk") <= 1, "who did it is said once"


def test_a_terminal_breaks_no_word(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "out", lambda: Console(force_terminal=True, width=60))
    with pytest.raises(SystemExit):
        app(["audit", "orders", "1", "--url", url])
    shown = capsys.readouterr().out.splitlines()
    at = shown.index("  channel ship: published 45, settled 45; counted 45, of")
    assert shown[at + 1] == "      these dead 0; retried 0, put off 0"
    assert max(map(len, shown)) <= 60


def test_it_searches(url: str) -> None:
    assert json.loads(audit(url, "--json", "1").stdout)["dead"] == 5
    for nothing in (
        ("--since", "2100-01-01T00:00:00Z"),
        ("--revision", "v9"),
        ("--reason", "no such"),
        ("--until", "2001-01-01T00:00:00Z"),
    ):
        found = audit(url, *nothing)
        assert (found.exit_code, found.stdout) == (1, "")
        assert "no such record" in found.stderr
    none = audit(url, "--unreconciled")
    assert (none.exit_code, none.stdout) == (0, "none is unreconciled: the figures of 1 record reconcile\n")
    assert audit(url, "--unreconciled", "--json").stdout == ""
    assert audit(url, "--unreconciled", "9").exit_code == 2  # there never was such a wagon
    assert audit(url, "--since", "2001-01-01T00:00:00Z", "--recover").exit_code == 0


def test_a_train_that_does_not_exist_is_said_as_by_status(url: str) -> None:
    told = CliRunner().invoke(app, ["status", "nosuch", "--url", url])
    for words in ((), ("1",), ("--json",), ("--recover",), ("--unreconciled",), ("--reason", "x")):
        found = CliRunner().invoke(app, ["audit", "nosuch", *words, "--url", url])
        assert (found.exit_code, found.stdout) == (told.exit_code, "")
        assert found.stderr == told.stderr
    assert "there is no train 'nosuch'" in told.stderr


def test_what_a_ledger_has_of_a_train_that_is_not_there_is_shown(url: str, tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["audit", "orders", "--ledger", url, "--url", f"sqlite:///{tmp_path}/none"])
    assert found.exit_code == 0, found.output
    assert "orders_v1" in found.stdout
    found = CliRunner().invoke(app, ["audit", "orders", "9", "--ledger", url, "--url", f"sqlite:///{tmp_path}/none"])
    assert (found.exit_code, "no such record of train 'orders'" in found.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--since", "yesterday"), "write a time with its zone"),
        (("--since", "2027-01-01"), "write a time with its zone"),
        (("other_v1",), "is a wagon of train 'other'"),
        (("--ledger", "none"), "has no ledger"),
        (("--ledger", "redis://localhost"), "ledger"),
    ],
)
def test_mistakes_have_no_traceback(url: str, words: tuple[str, ...], says: str) -> None:
    found = audit(url, *words)
    assert found.exit_code == 2
    assert says in found.stderr
    assert "Traceback" not in found.output


def advice(program: Path, target: str, url: str) -> str:
    """What `audit` says instead of records."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(program)
        found = CliRunner().invoke(app, ["audit", target, "--url", url])
    assert (found.exit_code, found.stdout) == (2, ""), found.output
    return found.stderr


def test_without_a_ledger_it_says_how_a_train_gets_one(tmp_path: Path) -> None:
    """Where there is none, no --ledger and no TARGET would find one."""
    (tmp_path / "without_ledger.py").write_text(
        """
from eventwagon import Train
train = Train("orders", ledger="none")
train.on("orders")(lambda order: None)
"""
    )
    url = f"sqlite:///{tmp_path}/trains"
    asyncio.run(run_once(Train("orders", ledger="none"), url))
    none = "train 'orders' has no ledger: Train(ledger='sqlite:///var/ledger') gives it one"
    assert none in advice(tmp_path, "orders", url)
    assert "it says ledger='none'" in advice(tmp_path, "without_ledger:train", url)
    # where nothing can be beside the events
    elsewhere = f"memory://audited?registry={quote(url, safe='')}"
    assert none in advice(tmp_path, "orders", elsewhere)
    (tmp_path / "app2.py").write_text((tmp_path / "without_ledger.py").read_text().replace(', ledger="none"', ""))
    assert none in advice(tmp_path, "app2:train", elsewhere)


def test_a_ledger_elsewhere_is_to_be_named(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/trains"
    asyncio.run(run_once(Train("orders", ledger=f"sqlite:///{tmp_path}/ledger"), url))
    found = CliRunner().invoke(app, ["audit", "orders", "--url", url])
    assert found.exit_code == 1
    assert "if it keeps its ledger elsewhere, name it (--ledger URL, or its program as TARGET" in found.stderr
    said = advice(tmp_path, "orders", f"memory://audited?registry={quote(url, safe='')}")
    assert "the ledger of train 'orders' is not beside its events" in said
    assert "name it (--ledger URL, or its program as TARGET: module:attribute)" in said


async def run_once(train: Train, url: str) -> None:
    train.on("orders")(lambda order: None)
    async with train.connect(url) as c, c.running():
        pass


def test_a_train_that_is_not_where_no_ledger_can_be_may_have_been_removed() -> None:
    found = audit("memory://")
    assert found.exit_code == 2
    assert "If it was removed, name its ledger: --ledger URL" in found.stderr
