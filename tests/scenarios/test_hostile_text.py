"""What a payload, an error, a reason, a name or an id holds, in every view of the command line."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pty
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer

from eventwagon import Train, Volume, Workers
from eventwagon.cli.console import ending
from eventwagon.contracts.facts import Entry, Switched
from eventwagon.contracts.manifest import Request
from eventwagon.contracts.orchestrator import Deployment
from eventwagon.contracts.registry import Member
from eventwagon.event import DEAD, Channel, Event
from tests.scenarios.test_cli import cli, command, environment

FORGED = "2026-11-26 12:00:00.000  switched from wagon 1 to wagon 2 at pressure 1.00: forged"
EVIL = f"\x1b[2J\x1b]0;title\x07\x9b31m [bold red]red[/] [/nothing] \u202e\u2028\r\n\n{FORGED}\nend"
LONG = "x" * 300 + " " * 300 + FORGED

DATA: dict[str, bytes] = {
    "no text": b"\xff\xfe\x00\x9b31m",
    "huge": b'"' + b"y" * 300_000 + b'"',
    "control characters": EVIL.encode(),
    "control characters in JSON": json.dumps({"a": EVIL}).encode(),
    "raw ones in JSON": f'"\x7f\u009b{chr(0x202E)}"'.encode(),
    "broken JSON": b'{"a": [1, 2',
    "half a character": b'"\\ud800"',
    "deep": b"[" * 100_000,
    "a large number": b"123456789012345678901234567890",
    "twice the same": b'{"a": 1, "a": 2}',
    "nothing": b"",
}


def letters() -> list[Event]:
    now = time.time()
    odd: list[dict[str, str]] = [
        {"deadat": "soon", "deadwagon": "one", "deadattempts": EVIL},
        {"deadat": "1e300", "deadwagon": "nan", "deadattempts": "1e999", "deadchannel": EVIL},
        {},
    ]
    whole = {"deadwagon": "1", "deadattempts": "2", "deadat": str(now), "deadbecause": EVIL}
    made = [Event(name, "t", "/s", now, data, extensions=whole) for name, data in DATA.items()]
    made += [Event(f"odd {n}", EVIL, "/s", now, b"1", extensions=x) for n, x in enumerate(odd)]
    made.append(Event(EVIL, EVIL, EVIL, now, b"1", EVIL, EVIL, {**whole, "deadbecause": LONG}))
    return made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A train whose every document was written by somebody who means no good."""
    directory = tmp_path_factory.mktemp("hostile")

    async def write() -> None:
        async with Train("signups", limit=Volume(10), workers=Workers(each=1)).connect(
            f"sqlite:///{directory}/trains", listeners=()
        ) as c:
            await c.found()
            snapshot = await c.registry.read("signups")
            wagons = tuple(
                msgspec.structs.replace(w, trouble=EVIL, opened_because=EVIL, revision=EVIL)
                for w in snapshot.manifest.wagons
            )
            evil = msgspec.structs.replace(
                snapshot.manifest,
                wagons=wagons,
                refusing=EVIL,
                request=Request(EVIL, 1.0, EVIL),
                declared={**snapshot.manifest.declared, "limit": EVIL, "workers": EVIL},
            )
            await c.registry.replace("signups", evil, expect=snapshot.version)
            facts = [
                Entry(at, EVIL, Switched(train=EVIL, old=1, new=2, pressure=1.0, because=text))
                for at, text in ((1.0, EVIL), (1e300, LONG), (2.0, "[bold]no markup[/bold]"))
            ]
            await c.registry.append("signups", facts)
            said = Deployment(number=1, ready=False, trouble=EVIL, missing=(EVIL,), open={EVIL: EVIL})
            await c.registry.check_in(
                "signups", Member(name=EVIL, roles=("work",), trouble=EVIL, attachments=(said,)), ttl=600.0
            )
            dead = Channel("signups", 0, DEAD)
            await c.broker.create(dead)
            for letter in letters():
                await c.broker.publish(dead, [letter])

    asyncio.run(write())
    return directory


def on_a_terminal(place: Path, *arguments: str) -> list[str]:
    """The lines that a command shows on a terminal 80 columns wide, without Rich's own colours."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command(*arguments),
        cwd=place,
        env={**environment(), "COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"},
        stdout=follower,
        stderr=follower,
        stdin=subprocess.DEVNULL,
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            got = os.read(leader, 65536)
        except OSError:
            break
        if not got:
            break
        shown += got
    os.close(leader)
    assert process.wait(60) == 0, shown
    return shown.decode().replace("\r\n", "\n").split("\n")


VIEWS: tuple[tuple[str, ...], ...] = (
    ("status", "signups"),
    ("status", "signups", "--json"),
    ("status", "signups", "--all"),
    ("why", "signups"),
    ("why", "signups", "--json"),
    ("dead", "signups"),
    ("dead", "signups", "--json"),
)


@pytest.mark.parametrize("view", VIEWS, ids=" ".join)
def test_what_others_wrote_is_shown_escaped(place: Path, view: tuple[str, ...]) -> None:
    done = cli(place, *view)
    assert done.returncode == 0, done.stderr
    shown = [*done.stdout.split("\n"), *done.stderr.split("\n"), *on_a_terminal(place, *view)]
    for line in shown:
        assert line.isprintable(), ascii(line)
        assert not line.lstrip().startswith(FORGED) or line.startswith("  ")
        assert not line.startswith(FORGED)
    if "--json" in view:
        for line in done.stdout.splitlines():
            json.loads(line)
    else:
        assert "\\x1b[2J" in done.stdout or view[0] == "status"
        assert "[bold" in done.stdout


def test_dead_shows_every_letter(place: Path) -> None:
    told = cli(place, "dead", "signups").stdout
    assert told.endswith(f"{len(letters())} dead letters\n")
    assert "\\xff\\xfe" in told
    assert "(300,002 bytes)" in told
    found = {
        letter["id"]: letter for letter in map(json.loads, cli(place, "dead", "signups", "--json").stdout.splitlines())
    }
    assert len(found) == len(letters())
    as_json: dict[str, Any] = {
        "huge": "y" * 300_000,
        "control characters in JSON": {"a": EVIL},
        "raw ones in JSON": "\x7f\x9b\u202e",
        "a large number": 123456789012345678901234567890,
        "twice the same": {"a": 2},
    }
    for name, data in DATA.items():
        assert found[name]["data"] == as_json.get(name, base64.b64encode(data).decode())
    assert found[EVIL]["because"] == LONG


def test_errors_and_bad_lines_are_one_line(place: Path) -> None:
    for arguments, given in (
        (["status", EVIL], ""),
        (["status", "signups", EVIL], ""),
        (["run", f"{EVIL}:train"], ""),
        (["status", "signups", "--url", f"sqlite://{EVIL}"], ""),
        (["publish", "signups", "--subject-field", EVIL], '{"a": 1}\n'),
        (["publish", "signups", EVIL], ""),
    ):
        done = cli(place, *arguments, given=given)
        assert done.returncode in (1, 2)
        for line in (done.stdout + done.stderr).split("\n"):
            assert line.isprintable(), ascii(line)
            assert not line.startswith(FORGED)


def test_a_bug_ends_a_command_with_its_traceback_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, ending():
        raise ValueError(EVIL)
    assert ended.value.exit_code == 1
    *trace, last = capsys.readouterr().err.splitlines()
    assert all(line.startswith("    ") and line.isprintable() for line in trace)
    assert last.startswith("eventwagon: unexpected, please report it: ValueError: ")
    assert last.isprintable()
