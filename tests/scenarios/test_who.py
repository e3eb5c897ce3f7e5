"""Hand-made changes say in the journal who made them."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path

import pytest

from eventwagon import Train, Volume, Workers
from eventwagon.contracts.facts import Declared, Fact, StopRequested, SwitchRequested, decode_entry, sentence
from eventwagon.contracts.process import this_user
from eventwagon.errors import UsageError
from tests.scenarios.test_cli import cli, lines, place, running

__all__ = ["place"]


def test_who_asked_is_told_by_why_and_status(place: Path) -> None:
    cli(place, "publish", "app:train", given=lines("a@x"))
    assert cli(place, "switch", "signups", "--reason", "deploy", "--timeout", "0.1").returncode == 3
    assert f"a switch is requested: deploy (by {this_user()})" in cli(place, "status", "signups").stdout
    with running(place, "run", "app:train"):
        cli(place, "drain", "signups", "--by", "the release job 17", "--timeout", "20")
        assert cli(place, "stop", "signups", EVENTWAGON_BY="alice").returncode == 0
    told = cli(place, "why", "signups").stdout
    assert f"a switch was requested by {this_user()}: deploy\n" in told
    assert "a switch was requested by the release job 17: drain, by hand\n" in told
    assert "the train's processes were asked to end by alice: by hand\n" in told
    facts = [json.loads(line)["fact"] for line in cli(place, "why", "signups", "--json").stdout.splitlines()]
    assert [f["by"] for f in facts if f["fact"] in ("SwitchRequested", "StopRequested")] == [
        this_user(),
        "the release job 17",
        "alice",
    ]


def test_from_a_program_and_by_declaring_anew(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/trains"

    def train(volume: int) -> Train:
        made = Train("signups", limit=Volume(volume), workers=Workers(each=1))

        @made.on("signups")
        async def handle(payload: str) -> None: ...

        return made

    async def main() -> list[Fact]:
        async with train(10).connect(url, listeners=()) as c, c.running():
            await c.wait_switched(await c.request_switch())
            await c.wait_switched(await c.request_switch("again", by="Zoë"))
            await c.request_stop(by="redis://u:Goldcrest@h")
            for wrong in ("\x1b[2J", "\ud800"):
                with pytest.raises(UsageError, match="by holds"):
                    await c.request_switch(by=wrong)
        async with train(20).connect(url, listeners=(), redeclare=True) as c, c.running():
            return [entry.fact async for entry in c.journal()]

    facts = asyncio.run(main())
    asked = [f.by for f in facts if isinstance(f, SwitchRequested | StopRequested)]
    assert asked == [this_user(), "Zoë", "redis://u:***@h"]
    assert [f.by for f in facts if isinstance(f, Declared)] == ["", this_user()]


def test_facts_of_earlier_and_later_versions_open() -> None:
    for kind, more, told in (
        ("SwitchRequested", "", "a switch was requested: deploy"),
        ("StopRequested", "", "the train's processes were asked to end: deploy"),
        ("StopRequested", ',"by":"bob@h","host":"x"', "the train's processes were asked to end by bob@h: deploy"),
        ("Declared", ',"settings":{"limit":"Volume(1)"},"channels":[]', "train declared: limit=Volume(1); channels: "),
    ):
        entry = f'{{"at":1.5,"by":"h-1-ab","fact":{{"fact":"{kind}","train":"t","because":"deploy"{more}}}}}'
        assert sentence(decode_entry(entry.encode()).fact).startswith(told)


def test_this_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "forged")
    monkeypatch.setenv("LOGNAME", "forged")
    assert this_user().endswith(f"@{socket.gethostname()}")
    assert "forged" not in this_user()
    monkeypatch.setattr(os, "geteuid", lambda: 987_654_321)
    assert this_user() == f"uid 987654321@{socket.gethostname()}"
