"""`undeploy` ends what an orchestrator runs for a train, leftovers included, and says what it could not end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import pytest
from typer.testing import CliRunner

from eventwagon.cli import undeploy
from eventwagon.cli.app import app
from eventwagon.contracts.orchestrator import Deployment
from eventwagon.drivers.opening import Program

PROGRAM = """\
from eventwagon import Train

train = Train("signups", handler_timeout=7.0)
"""


class Deployed:
    """An orchestrator with these units; an observer that is alive makes `stubborn` ones anew."""

    def __init__(self, *units: int, stubborn: bool = False) -> None:
        self.units = {unit: Deployment(number=unit, ready=True) for unit in units}
        self.removed: list[tuple[str, int, float]] = []
        self._stubborn = stubborn

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    async def deployments(self, train: str) -> Mapping[int, Deployment]:
        return dict(self.units)

    async def remove(self, train: str, unit: int, *, grace: float) -> None:
        self.removed.append((train, unit, grace))
        if not self._stubborn:
            del self.units[unit]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    (tmp_path / "program.py").write_text(PROGRAM)

    def run(deployed: Deployed, *options: str) -> Any:
        def opened(url: str, program: Program) -> Deployed:
            assert url == "kubernetes:?secret=s"
            return deployed

        monkeypatch.setattr(undeploy, "open_orchestrator", opened)
        target = f"{tmp_path}/program.py:train"
        return CliRunner().invoke(app, ["undeploy", target, "--orchestrator", "kubernetes:?secret=s", *options])

    return run


def test_all_units_end_and_handlers_may_finish(command: Callable[..., Any]) -> None:
    deployed = Deployed(1, 4)
    ended = command(deployed)
    assert (ended.exit_code, ended.stdout) == (0, "the workers of 2 units of train signups ended\n")
    assert deployed.removed == [("signups", 1, 7.0), ("signups", 4, 7.0)]


def test_nothing_to_end_is_success(command: Callable[..., Any]) -> None:
    ended = command(Deployed())
    assert (ended.exit_code, ended.stdout) == (0, "the workers of 0 units of train signups ended\n")


def test_workers_that_are_made_anew_are_named(command: Callable[..., Any]) -> None:
    ended = command(Deployed(3, stubborn=True), "--timeout", "0.3")
    assert ended.exit_code == 3
    assert "not ended within 0.3 s: unit 3; an observer that is still alive starts workers again" in ended.stderr


def test_without_an_orchestrator(command: Callable[..., Any]) -> None:
    ended = CliRunner().invoke(app, ["undeploy", "app:train"])
    assert ended.exit_code == 2
    assert "--orchestrator" in ended.stderr
