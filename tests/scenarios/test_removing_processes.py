"""`eventwagon remove` with real processes on SQLite."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.removed import lives_and_is_removed
from tests.scenarios.test_cli import cli, command, environment
from tests.scenarios.test_pausing_processes import place, running, until_count

__all__ = ["place"]


def left_in(trains: Path) -> list[str]:
    """Its files, except the ledgers: those outlast their trains."""
    files = (path for path in trains.rglob("*") if path.is_file() and not path.name.startswith("ledger.db"))
    return sorted(str(path.relative_to(trains)) for path in files)


def directories_in(place: Path) -> set[str]:
    return {name.partition("/")[0] for name in left_in(place / "trains")}


def test_a_removed_train_leaves_no_file_but_its_ledger(tmp_path: Path) -> None:
    async def left() -> list[str]:
        return left_in(tmp_path / "trains")

    asyncio.run(lives_and_is_removed("parcels", f"sqlite:///{tmp_path}/trains", left))
    assert (tmp_path / "trains" / "parcels" / "ledger.db").exists()


def test_without_a_ledger_it_leaves_no_directory(tmp_path: Path) -> None:
    async def left() -> list[str]:
        return sorted(str(path) for path in (tmp_path / "trains").rglob("*"))

    url = f"sqlite:///{tmp_path}/trains"
    asyncio.run(lives_and_is_removed("parcels", url, left, ledger="none"))


def test_what_the_command_says(place: Path) -> None:
    assert cli(place, "publish", "app:train", given="1\n2\n").returncode == 0
    refused = cli(place, "remove", "parcels")
    assert refused.returncode == 1
    assert "eventwagon: train parcels is not removed: 2 events in parcels_v1. Have the events handled" in refused.stderr
    with running(place, "run", "app:train"):
        until_count(place, "done", 2)
        alive = cli(place, "remove", "parcels")
        assert alive.returncode == 1
        assert "a process of it is alive: " in alive.stderr
        assert "(observe, work). End them (eventwagon stop parcels" in alive.stderr
    removed = cli(place, "remove", "parcels", "--by", "ada")
    assert removed.returncode == 0, removed.stderr
    assert removed.stdout == "parcels is removed: 2 channels, its journal and its manifest\n"
    assert directories_in(place) == {"0removed"}
    nothing = "there is no train 'parcels' at sqlite:///trains: nothing to remove\n"
    again = cli(place, "remove", "parcels")
    assert (again.returncode, again.stderr) == (1, f"eventwagon: {nothing}")
    forced = cli(place, "remove", "parcels", "--force")
    assert (forced.returncode, forced.stdout) == (0, nothing)
    wrong = cli(place, "remove", "parcels", "--orchestrator", "subprocess:")
    assert wrong.returncode == 2
    assert "--orchestrator needs the train's program as TARGET" in wrong.stderr


def test_by_force_with_a_process_alive_and_events_left(place: Path) -> None:
    """The process is asked to end, and so is what --isolate has started."""
    assert cli(place, "publish", "app:train", given="".join(f"{n}\n" for n in range(500))).returncode == 0
    with running(place, "run", "app:train", "--isolate") as process:
        until_count(place, "begun", 2)
        removed = cli(place, "remove", "parcels", "--force", "--timeout", "30")
        assert removed.returncode == 0, removed.stderr
        assert process.wait(timeout=30) == 0
        assert directories_in(place) == {"0removed"}


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.8, 1.2, 1.6, 2.2])
def test_one_that_is_killed_is_finished_by_calling_it_again(place: Path, after: float) -> None:
    assert cli(place, "publish", "app:train", given="1\n2\n").returncode == 0
    cut = subprocess.Popen(command("remove", "parcels", "--force"), cwd=place, env=environment())
    try:
        cut.wait(timeout=after)
    except subprocess.TimeoutExpired:
        os.kill(cut.pid, signal.SIGKILL)
        cut.wait()
    assert cli(place, "remove", "parcels", "--force").returncode == 0
    probes = {name for name in directories_in(place) if name.startswith(".probe-")}  # they may stay for an hour
    assert directories_in(place) - probes == {"0removed"}
