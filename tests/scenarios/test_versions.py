"""New code by wagon, in real processes: it is switched to and back from, by hand and by itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from eventwagon import Volume, Workers
from eventwagon.contracts.facts import Switched, SwitchGivenUp, WentBack, sentence
from eventwagon.contracts.orchestrator import WagonSpec
from eventwagon.event import DEAD, Channel
from eventwagon.orchestrators.processes.records import UnitFiles
from eventwagon.orchestrators.processes.subprocess import Subprocess
from eventwagon.testing.virtual_time import run
from tests.orders import PATIENCE, Place, orders, settled
from tests.support import World, journal, signups, until


def versions(directory: Path) -> str:
    """Two versions of a program, and one that fails, each in a folder of its own; the target that names all of them."""
    for version, fails in (("v1", ""), ("v2", ""), ("v3", "raise ValueError('v3 fails')"), ("v4", "import nowhere")):
        folder = directory / f"app-{version}"
        folder.mkdir()
        at_import, in_handler = (fails, "pass") if fails.startswith("import") else ("pass", fails or "pass")
        (folder / "app.py").write_text(
            f"""
import os
from pathlib import Path
from eventwagon import Train, Volume, Workers
{at_import}

VERSION = "{version}"
orders = Train(
    "orders", limit=Volume(1000), workers=Workers(each=2), grace=5.0, attempts=3, backoff=0.01, member_ttl=2.0
)

@orders.on("orders")
async def handle(number, ctx):
    {in_handler}
    with (Path(os.environ["HANDLED"]) / str(os.getpid())).open("a") as file:
        file.write(f"{{os.getpid()}} {{ctx.wagon}} {{VERSION}}/{{orders.revision}} {{number}}\\n")
"""
        )
    return f"{directory}/app-{{revision}}/app.py:orders"


def test_the_next_wagon_runs_the_new_code_and_the_old_one_drains_with_the_old(place: Place, tmp_path: Path) -> None:
    async def scenario() -> None:
        train = orders(limit=Volume(1000), revision="v1", spares=1)
        async with place.running(versions(tmp_path), train) as (c, orchestrator):
            await settled(lambda: c.manifest.ready)
            await c.publish_many(f"old-{n}" for n in range(30))
            old = await c.request_switch("the new release", revision="v2")
            new = await c.wait_answered()
            assert new != old
            await c.publish_many(f"new-{n}" for n in range(30))
            await c.wait_drained(old)
            await settled(lambda: len(place.lines()) == 60)
            active = c.manifest.active
            assert active is not None
            assert active.revision == c.manifest.revision == "v2"
            await settled(lambda: [w.revision for w in c.manifest.wagons] == ["v2", "v2"])
            running = await orchestrator.deployments("orders")
            assert {d.revision for d in running.values()} == {"v2"}
            told = [sentence(e.fact) for e in await journal(c)]
            assert any("_v3 (revision v2)" in line and "the new release" in line for line in told)
            assert any(("_v2 discarded: it has revision v1, v2 is wanted now" in line) for line in told)

            back = await c.request_switch("it was not that good", revision="v1")
            assert await c.wait_answered() != back
            await c.publish("again")
            await settled(lambda: len(place.lines()) == 61)

    asyncio.run(scenario())
    lines = place.lines()
    assert {line.revision for line in lines if line.number.startswith("old")} == {"v1/v1"}
    assert {line.revision for line in lines if line.number.startswith("new")} == {"v2/v2"}
    assert [line.revision for line in lines if line.number == "again"] == ["v1/v1"]


def test_a_failing_version_goes_back_by_itself(place: Place, tmp_path: Path) -> None:
    """Under watch: v3 fails on every event, so the train goes back to v1; what v3 could not handle is in the dead
    letters."""

    async def scenario() -> None:
        train = orders(limit=Volume(1000), revision="v1", attempts=3, backoff=0.01)
        async with place.running(versions(tmp_path), train) as (c, _):
            await c.publish_many(f"old-{n}" for n in range(30))
            await c.request_switch("a bad release", revision="v3", watch_errors=0.02)
            bad = await c.wait_answered()
            assert c.manifest.watch is not None
            await c.publish_many(f"lost-{n}" for n in range(15))
            after = await c.wait_switched(bad)
            wagon = c.manifest.wagon(after)
            assert wagon is not None
            assert wagon.revision == c.manifest.revision == "v1"
            await c.publish_many(f"new-{n}" for n in range(30))
            await c.wait_drained(bad)
            await settled(lambda: len(place.lines()) == 60)
            (fact,) = [e.fact for e in await journal(c) if isinstance(e.fact, WentBack)]
            assert (fact.number, fact.revision, fact.back, fact.handled) == (bad, "v3", "v1", 0)
            assert fact.failed >= 20
            assert "more than the 0.02 allowed" in sentence(fact)
            assert len({letter.id async for letter in c.dead_letters()}) == 15
            assert c.manifest.watch is None

    asyncio.run(scenario())
    assert {line.revision for line in place.lines()} == {"v1/v1"}


def test_a_version_that_does_not_start_is_never_switched_to(place: Place, tmp_path: Path) -> None:
    async def scenario() -> None:
        train = orders(limit=Volume(1000), revision="v1", provision_timeout=3.0, provision_attempts=2)
        async with place.running(versions(tmp_path), train) as (c, _):
            await c.publish_many(f"{n}" for n in range(30))
            old = await c.request_switch("a broken release", revision="v4", watch_errors=0.5)
            assert await c.wait_answered() == old
            assert (c.manifest.revision, c.manifest.watch) == ("v1", None)
            (fact,) = [e.fact for e in await journal(c) if isinstance(e.fact, SwitchGivenUp)]
            assert (fact.revision, fact.back) == ("v4", "v1")
            assert "there is no module 'nowhere'" in fact.because
            assert not any(isinstance(e.fact, Switched) and e.fact.revision == "v4" for e in await journal(c))
            await c.request_switch("as ever")
            assert await c.wait_answered() != old

    asyncio.run(scenario())
    assert {line.revision for line in place.lines()} == {"v1/v1"}


def test_a_process_that_still_loads_its_program_says_which_code_it_is(place: Place, tmp_path: Path) -> None:
    """Or for as long as it takes to import its program, one would not know what runs there."""
    folder = tmp_path / "app-v9"
    folder.mkdir()
    (folder / "app.py").write_text(f"import time\ntime.sleep({PATIENCE})\n")

    async def scenario() -> None:
        files = UnitFiles(place.processes, "orders", 1)
        async with (
            asyncio.timeout(PATIENCE),
            Subprocess(f"{tmp_path}/app-{{revision}}/app.py:orders", url=place.url, directory=place.processes) as there,
        ):
            await there.ensure(
                WagonSpec(
                    train="orders",
                    number=1,
                    unit=1,
                    revision="v9",
                    channels=(Channel("orders", 1),),
                    dead_letters=Channel("orders", 1, DEAD),
                    workers=1,
                )
            )
            await settled(files.state)
            assert [d.revision for d in (await there.deployments("orders")).values()] == ["v9"]
            await there.remove("orders", 1, grace=0.0)

    asyncio.run(scenario())


def test_processes_of_two_versions_beside_each_other() -> None:
    """Without an orchestrator: a process serves only wagons of its own revision. Blue and green, then the switch."""

    async def scenario() -> None:
        world, by_blue, by_green = World(), list[str](), list[str]()
        settings: dict[str, Any] = {"limit": Volume(1000), "workers": Workers(each=4), "spares": 0}
        blue, green = signups(by_blue, **settings), signups(by_green, **settings)
        blue.revision, green.revision = "blue", "green"
        async with world.running(blue) as c, world.running(green, observe=False) as other:
            await c.publish_many({"email": f"{n}@x"} for n in range(20))
            await until(lambda: len(by_blue) == 20)
            assert by_green == []
            (member,) = [m for m in await c.members() if m.name == other.name]
            assert (
                "this program has revision green, and the wagon is for revision blue" in member.attachments[0].trouble
            )
            (member,) = [m for m in await c.members() if m.name == c.name]
            assert member.attachments[0].workers == 4  # those who can't serve it have no share of it
            await c.request_switch("the release", revision="green")
            await c.wait_answered()
            await c.publish_many({"email": f"{n}@y"} for n in range(20))
            await until(lambda: len(by_green) == 20)
            assert len(by_blue) == 20

    run(scenario())
