"""What processes say that stand still, or that do less than others: no handler is blamed, and `status` tells."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.scenarios.test_cli import cli, command, environment

PROGRAM = """
import time
from pathlib import Path
from eventwagon import Train, Workers

train = Train("parcels", workers=Workers(total=1), member_ttl=2.5)

@train.on("parcels")
async def send(what: str) -> None:
    Path("begun").touch()
    if what == "sleep":
        time.sleep(4)
    else:
        until = time.process_time() + 1
        while time.process_time() < until:
            pass
    Path("done").touch()
"""


@pytest.mark.parametrize(
    ("what", "said", "not_said"),
    [
        ("compute", "this whole process stood still for", "held the event loop"),
        ("sleep", "handler send held the event loop for", "stood still"),
    ],
)
def test_a_stop_is_told_from_a_handler_that_holds_the_loop(tmp_path: Path, what: str, said: str, not_said: str) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    assert cli(tmp_path, "publish", "app:train", given=f'"{what}"\n').returncode == 0
    with subprocess.Popen(
        command("run", "app:train"), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        _until_there(tmp_path / "begun")
        if what == "compute":
            time.sleep(0.3)
            process.send_signal(signal.SIGSTOP)
            time.sleep(4)
            process.send_signal(signal.SIGCONT)
        _until_there(tmp_path / "done")
        time.sleep(0.5)
        process.terminate()
        _, told = process.communicate(timeout=30)
    assert said in told
    assert not_said not in told


def _until_there(path: Path) -> None:
    until = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.05)


def test_status_says_that_a_stopped_process_holds_events(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROGRAM.replace("time.sleep(4)", "time.sleep(1)").replace("2.5", "1.0"))
    assert cli(tmp_path, "publish", "app:train", given='"sleep"\n').returncode == 0
    with subprocess.Popen(command("run", "app:train"), cwd=tmp_path, env=environment()) as process:
        _until_there(tmp_path / "begun")
        process.send_signal(signal.SIGSTOP)
        until = time.monotonic() + 20
        while "1 event in flight, and no process works" not in (told := cli(tmp_path, "status", "parcels").stdout):
            assert time.monotonic() < until, told
            time.sleep(0.2)
        process.kill()


def test_status_says_that_nobody_works(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    assert cli(tmp_path, "publish", "app:train", given='"a"\n"b"\n').returncode == 0
    assert "2 events waiting, and no process works" in cli(tmp_path, "status", "parcels").stdout


def test_who_only_observes_speaks_of_no_handlers_as_it_ends(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    assert cli(tmp_path, "publish", "app:train", given='"a"\n').returncode == 0
    with subprocess.Popen(
        command("observe", "app:train"), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        while "observes train parcels" not in process.stderr.readline():
            pass
        process.terminate()
        _, told = process.communicate(timeout=30)
    assert "ending: asked to" in told
    assert "handlers" not in told
