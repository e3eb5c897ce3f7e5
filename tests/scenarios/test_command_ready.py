"""Commands as wagons' workers: how they show that they serve."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec
import pytest

from eventwagon import Train
from eventwagon.contracts.orchestrator import Deployment, WagonSpec
from eventwagon.contracts.registry import Member
from eventwagon.drivers.opening import open_drivers
from eventwagon.event import Channel
from eventwagon.orchestrators.processes.command import CheckIn, Command, Http, Line, Tcp
from tests.commands import PATIENCE, SERVER, TRAIN, Place, spec
from tests.deployed import is_ready, until_deployed
from tests.programs.signups import signups


@pytest.fixture
def at(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("ready", [Http("http://127.0.0.1:{port}/"), Tcp(), Line("Serving HTTP")], ids=repr)
def test_ready_when_it_answers(at: Place, ready: Http | Tcp | Line) -> None:
    async def scenario() -> None:
        async with at.command(SERVER, ready=ready) as orchestrator:
            found = await until_deployed(orchestrator, spec(workers=2), is_ready)
            assert (found.number, found.workers, found.trouble) == (1, 2, "")

    asyncio.run(scenario())
    assert list(at.processes.iterdir()) == []


def test_not_ready_says_what_was_asked(at: Place) -> None:
    async def scenario() -> None:
        for ready, why in (
            (Http("http://127.0.0.1:{port}/missing"), "/missing: HTTP 404"),
            (Tcp("1"), "127.0.0.1:1: "),
            (Line("never said"), "no line with 'never said' yet"),
        ):
            async with at.command(SERVER, ready=ready) as orchestrator:
                await until_deployed(orchestrator, spec(), lambda d: not d.ready and why in d.trouble)  # noqa: B023

    asyncio.run(scenario())


def test_ready_when_it_has_checked_in(tmp_path: Path, at: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's own worker as a command: it is ready when the registry says so, and its crash is told."""
    monkeypatch.setenv("HANDLED", str(tmp_path / "handled"))
    url = f"sqlite:///{tmp_path}/trains"
    argv = [sys.executable, "-m", "eventwagon", "work", "tests.programs.signups:signups", "--wagon", "{wagon}"]

    async def scenario() -> None:
        train: Train = signups
        async with train.connect(url, listeners=()) as c:
            await c.found()
            options = {"url": url, "ready": CheckIn(), "registry": open_drivers(url).registry, "grace": 5.0}
            async with at.command([*argv, "--workers", "2"], **options) as orchestrator:
                wanted = spec(workers=1, channels=(Channel(train.name, 1),))
                wanted = msgspec.structs.replace(wanted, train=train.name)
                told = set()
                async with asyncio.timeout(PATIENCE):
                    while not (found := (await _ensured(orchestrator, wanted))) or not found.ready:
                        told.add(found.trouble if found else "")
                        await asyncio.sleep(0.02)
                assert "0 of 1 copies of the command have checked in as ready" in told
                assert [(a.number, a.workers) for m in await c.members() for a in m.attachments] == [(1, 2)]
                await orchestrator.remove(train.name, 1, grace=5.0)
                assert [m for m in await c.members() if m.attachments] == []

    asyncio.run(scenario())


FIRST = """
trap 'exit 0' TERM
mkdir "$NOTES/first" 2> /dev/null && echo attached
while :; do sleep 0.05; done
"""
"""Of all copies only one is ever ready."""


def test_ready_with_enough_copies(at: Place) -> None:
    """Where workers follow the traffic a wagon need not wait for those that were asked for just now."""

    async def scenario() -> None:
        async with at.command(FIRST) as orchestrator:
            found = await until_deployed(orchestrator, spec(workers=3, enough=1), is_ready)
            assert (found.workers, found.attached) == (3, 1)
            found = await until_deployed(orchestrator, spec(workers=3, enough=2), lambda d: not d.ready)
            assert "is not ready" in found.trouble
            await until_deployed(orchestrator, spec(workers=3), lambda d: not d.ready and "is not ready" in d.trouble)
            await until_deployed(orchestrator, spec(workers=3, enough=1), is_ready)

    asyncio.run(scenario())


def test_ready_with_enough_that_have_checked_in(tmp_path: Path, at: Place) -> None:
    async def scenario() -> None:
        registry = open_drivers(f"sqlite:///{tmp_path}/trains").registry
        wanted = spec(workers=3, enough=2)
        async with (
            at.command("while :; do sleep 0.05; done", ready=CheckIn(), registry=registry) as orchestrator,
            open_drivers(f"sqlite:///{tmp_path}/trains").registry as theirs,
        ):

            async def checked_in(copies: int) -> None:
                said = tuple(Deployment(number=1, ready=True, workers=1) for _ in range(copies))
                await theirs.check_in(TRAIN, Member(name="w", roles=("serve",), attachments=said), ttl=60.0)

            await checked_in(1)
            why = "1 of 3 copies of the command have checked in as ready"
            await until_deployed(orchestrator, wanted, lambda d: not d.ready and d.trouble == why)
            await checked_in(2)
            assert (await until_deployed(orchestrator, wanted, is_ready)).attached == 2
            await until_deployed(orchestrator, spec(workers=3), lambda d: not d.ready)
            await checked_in(3)
            await until_deployed(orchestrator, spec(workers=3), is_ready)

    asyncio.run(scenario())


async def _ensured(orchestrator: Command, wanted: WagonSpec) -> Deployment | None:
    await orchestrator.ensure(wanted)
    return (await orchestrator.deployments(wanted.train)).get(wanted.unit)
