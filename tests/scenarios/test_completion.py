"""What the shell gets when Tab is pressed: names, at once, and never an error."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eventwagon import Train


def completed(typed: str, place: Path, **environment: str) -> tuple[list[str], str, float]:
    """What bash is offered, what was printed besides, and how long it took."""
    words = typed.split(" ")
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "eventwagon"],
        cwd=place,
        env={
            **os.environ,
            "_EVENTWAGON_COMPLETE": "complete_bash",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(len(words) - 1),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.split(), done.stderr, time.monotonic() - began


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVENTWAGON_URL", raising=False)

    async def found() -> None:
        for name in ("orders", "other", "billing"):
            async with Train(name).connect("sqlite:///trains") as c:
                await c.found()

    asyncio.run(found())
    return tmp_path


@pytest.mark.parametrize("command", ["status", "why", "dead", "switch", "drain", "pause", "resume", "stop", "remove"])
def test_names_of_trains(place: Path, command: str) -> None:
    assert completed(f"eventwagon {command} o", place, EVENTWAGON_URL="sqlite:///trains")[:2] == (
        ["orders", "other"],
        "",
    )


def test_the_url_of_the_line_comes_first(place: Path) -> None:
    typed = "eventwagon status --url sqlite:///trains bil"
    assert completed(typed, place, EVENTWAGON_URL="sqlite:///elsewhere")[:2] == (["billing"], "")


def test_scenarios_of_the_lab(place: Path) -> None:
    for command in ("lab", "plan"):
        assert completed(f"eventwagon {command} bl", place)[:2] == (["black-friday"], "")


@pytest.mark.parametrize("url", ["pigeon://x", "sqlite:///nowhere", "redis://127.0.0.1:9/0", "", "kafka://", "\x1b["])
def test_what_is_wrong_is_no_error_and_leaves_nothing(place: Path, url: str) -> None:
    assert completed("eventwagon status o", place, EVENTWAGON_URL=url)[:2] == ([], "")
    assert not (place / "nowhere").exists()
    assert not (place / ".eventwagon").exists()


def test_a_server_that_does_not_answer_is_not_waited_for(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        found, said, took = completed("eventwagon status o", place, EVENTWAGON_URL=url)
    usual = completed("eventwagon lab bl", place)[2]
    assert (found, said) == ([], "")
    assert took < usual + 4
