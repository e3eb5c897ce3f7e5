"""What commands that wait say meanwhile, and when they are interrupted."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from eventwagon import Train
from eventwagon.cli import waiting
from eventwagon.testing.virtual_time import run
from eventwagon.views.steering import events_left
from tests.scenarios.test_cli import (
    cli,
    cli_here,
    command,
    environment,
    lines,
    place,  # noqa: F401 - a fixture
    running,
    until_handled,
)

LEFT = re.compile(r"draining: (\d+) events? left: signups_v1 \d+")


@pytest.mark.parametrize(
    ("left", "says"),
    [
        ({"t_v1": 1200, "t_v2": 0, "t_v3": 34}, "1,234 events left: t_v1 1,200, t_v3 34"),
        ({"t_v1": 1}, "1 event left: t_v1 1"),
        ({"t_v1": 0}, "no event is left; t_v1 is being removed"),
        ({"t_v1": 0, "t_v2": 0}, "no event is left; t_v1, t_v2 are being removed"),
        ({"t_v1": None, "t_v2": 5}, "at least 5 events left: t_v1 ?, t_v2 5"),
        ({f"t_v{n}": 1 for n in range(1, 8)}, "7 events left: t_v1 1, t_v2 1, t_v3 1, t_v4 1, t_v5 1, 2 wagons more"),
        ({}, "no wagon is left"),
    ],
)
def test_what_is_left(left: dict[str, int | None], says: str) -> None:
    assert events_left(left) == says


def interrupted_when(place: Path, marker: re.Pattern[str], *arguments: str) -> tuple[int, str]:  # noqa: F811
    """The exit code and stderr of a command that is interrupted once it has said this."""
    process = subprocess.Popen(
        command(*arguments), cwd=place, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    said = ""
    try:
        for text in process.stderr:
            said += text
            if marker.search(said):
                process.send_signal(signal.SIGINT)
                break
        said += process.stderr.read()
        return process.wait(30), said
    finally:
        process.kill()
        process.communicate()


def test_a_drain_says_what_it_waits_for_and_what_goes_on(place: Path) -> None:  # noqa: F811
    with running(place, "run", "app:train"):
        cli(place, "publish", "app:train", given=lines("slow", "slow", "a@x"))
        code, said = interrupted_when(place, LEFT, "drain", "signups")
        assert code == 130
        assert said.splitlines()[-1] == (
            "eventwagon: interrupted: signups goes on draining while processes run it; "
            "`eventwagon status signups --watch` shows it"
        )
        view = json.loads(cli(place, "status", "signups", "--json").stdout)
        assert next((wagon["name"], wagon["state"]) for wagon in view["wagons"]) == ("signups_v1", "draining")
        late = cli(place, "drain", "signups", "--timeout", "5")
        assert late.returncode == 3
        assert "not done in time: 2 events left: signups_v1 2" in late.stderr
        assert "goes on draining" in late.stderr


def test_a_drain_misses_no_worker_that_has_a_process_of_its_own(place: Path) -> None:  # noqa: F811
    with running(place, "run", "app:train", "--isolate"):
        cli(place, "publish", "app:train", given=lines("a@x"))
        until_handled(place, 1)
        done = cli(place, "drain", "signups")
        assert done.returncode == 0
        assert "no worker" not in done.stderr
        cli(place, "stop", "signups")
    assert "no worker of train signups is alive" in cli(place, "drain", "signups", "--timeout", "0.1").stderr


class Talk:
    """What `until` says, and when, in virtual time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, left: Callable[[float], str]) -> None:
        self.said: list[tuple[int, str]] = []
        self._left = left
        monkeypatch.setattr(waiting, "say", lambda text: self.said.append((round(self.now), text)))

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time() - self.began

    async def wait(self, seconds: float) -> None:
        self.began = asyncio.get_running_loop().time()

        async def left() -> str:
            return self._left(self.now)

        await waiting.until(asyncio.sleep(seconds), self.began + 1000, "draining", left, goes_on="it goes on")


def test_on_a_pipe_it_says_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    talk = Talk(monkeypatch, lambda now: "9 left" if now < 100 else "8 left")
    run(talk.wait(200))
    assert talk.said == [
        (2, "draining: 9 left"),
        (62, "draining: 9 left"),
        (100, "draining: 8 left"),
        (160, "draining: 8 left"),
    ]
    falling = Talk(monkeypatch, lambda now: f"{200 - round(now)} left")
    run(falling.wait(45))
    assert [at for at, _ in falling.said] == [2, 12, 22, 32, 42]
    short = Talk(monkeypatch, lambda now: "1 left")
    run(short.wait(1.5))
    assert short.said == []


def test_an_interrupted_switch_says_that_it_stays_requested(place: Path) -> None:  # noqa: F811
    cli(place, "publish", "app:train", given=lines("a@x"))
    process = subprocess.Popen(
        command("switch", "signups"), cwd=place, env=environment(), stderr=subprocess.PIPE, text=True
    )
    try:
        while not json.loads(cli(place, "status", "signups", "--json").stdout)["asked"]:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert said.splitlines()[-1] == (
        "eventwagon: interrupted: the switch stays requested; `eventwagon switch signups --withdraw` withdraws it"
    )


def test_a_switch_to_a_ready_wagon_waits_for_an_observer(tmp_path: Path) -> None:
    """status shows the wagon as ready: it is not what the switch waits for."""

    async def with_a_spare() -> None:
        train = Train("orders", spares=1)
        train.on("orders")(lambda order: None)
        async with train.connect(f"sqlite:///{tmp_path}/trains") as c, c.running():
            while not c.manifest.ready:
                await asyncio.sleep(0.02)

    asyncio.run(with_a_spare())
    late = cli_here(tmp_path, "switch", "orders", "--timeout", "0.2")
    assert late.exit_code == 3
    assert "orders_v2 is ready; it waits for an observer, and none is alive. " in late.stderr
    assert "not ready yet" not in late.stderr

    async def observing() -> None:
        train = Train("orders", spares=1)
        train.on("orders")(lambda order: None)
        async with train.connect(f"sqlite:///{tmp_path}/trains") as c, c.running(work=False):
            while c.manifest.ready:
                await asyncio.sleep(0.02)

    asyncio.run(observing())
    late = cli_here(tmp_path, "switch", "orders", "--timeout", "0.2")
    assert "It waits for orders_v2: not ready yet. No worker is alive. No observer is alive. " in late.stderr


def read_until(terminal: int, marker: re.Pattern[str] | None, seconds: float = 20.0) -> str:
    """What a terminal gets until this is shown; None: what is there, or until it is closed."""
    seen, until = "", time.monotonic() + seconds
    while not (marker is not None and marker.search(seen)) and time.monotonic() < until:
        if not select.select([terminal], [], [], 0.5)[0]:
            if marker is None:
                break
            continue
        try:
            new = os.read(terminal, 65536)
        except OSError:  # its other end is closed
            break
        seen += new.decode(errors="replace")
    return seen


def test_a_drain_at_a_terminal_says_it_in_place(place: Path) -> None:  # noqa: F811
    with running(place, "run", "app:train"):
        cli(place, "publish", "app:train", given=lines("slow"))
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            command("drain", "signups"), cwd=place, env=environment(TERM="xterm"), stderr=theirs, stdout=theirs
        )
        os.close(theirs)
        seen = read_until(ours, LEFT)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        os.close(ours)
        assert LEFT.search(seen)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_watch_on_a_pipe_ends_quietly(place: Path, options: tuple[str, ...]) -> None:  # noqa: F811
    cli(place, "publish", "app:train", given=lines("a@x"))
    process = subprocess.Popen(
        command("status", "signups", "--watch", *options),
        cwd=place,
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert "signups" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, said) == (0, "")


def test_a_watch_at_a_terminal_leaves_the_screen_clean(place: Path) -> None:  # noqa: F811
    cli(place, "publish", "app:train", given=lines("a@x"))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("status", "signups", "--watch"), cwd=place, env=environment(TERM="xterm"), stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = read_until(ours, re.compile("signups_v1"))
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    seen += read_until(ours, None)
    os.close(ours)
    shown, _, after = seen.rpartition("\x1b[?1049l")  # back from the other screen
    assert "signups_v1" in shown
    assert "\x1b[?25h" in seen  # the cursor is there again
    assert "interrupted" not in seen
    assert not re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", after).strip()
