"""A manifest that was restored from an older copy names a wagon of which a part is gone at the broker: it drains, and
goes, all the same. On SQLite and a real Redis."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from eventwagon import Connection, Context, Reject, Train, Volume, Workers
from eventwagon.cli.status import look
from eventwagon.contracts.facts import ChannelThreatened, DrainGivenUp, EventsLost, WagonRemoved
from eventwagon.contracts.lifecycle import Move, State
from eventwagon.contracts.manifest import Manifest, moved
from eventwagon.event import DEAD, Channel
from eventwagon.policy import losses
from eventwagon.runtime.observer import Observer
from tests.servers.redis import ask
from tests.servers.server import Server
from tests.support import journal, until


class Case:
    """One train; `gate` opens its handlers."""

    def __init__(self) -> None:
        self.name = f"half_{token_hex(4)}"
        self.handled: list[int] = []
        self.gate = asyncio.Event()
        self.train = Train(
            self.name, limit=Volume(1000), workers=Workers(total=8), grace=0.2, observe_every=0.05, visibility=2.0
        )

        @self.train.on(self.name)
        async def handle(n: int, ctx: Context) -> None:
            await self.gate.wait()
            if n == 99:
                raise Reject("poison")
            await ctx.emit("mail", n)

        @self.train.on("mail")
        async def mail(n: int) -> None:
            await self.gate.wait()
            self.handled.append(n)

    async def cut_off(self, url: str) -> Manifest:
        """Wagon 1 drains and is sealed; 1, 2 and a poison event stand in its ingress, 7 in its inner channel."""
        async with self.train.connect(url) as c, c.running():
            await c.publish(7)
            (seven,) = [e async for e in c.broker.read(Channel(self.name, 1))]
            self.gate.set()
            await until(lambda: self.handled == [7])
            self.gate.clear()
            await c.broker.publish(Channel(self.name, 1, "mail"), [seven])
            for n in (1, 2, 99):
                await c.publish(n)
            await c.request_switch()
            await c.wait_switched(1)
            await until(lambda: (w := c.manifest.wagon(1)) is not None and w.sealed_at is not None)
        return c.manifest

    async def gone(self, c: Connection) -> None:
        await until(lambda: c.manifest.wagon(1) is None, seconds=60)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes half a minute takes a second."""
    defaults: Any = Observer.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "sweep_every", 0.5)
    monkeypatch.setattr(losses, "_SURE", 1.0)


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/data"
    server: Server = request.getfixturevalue("redis_server")
    return f"{server.url}?prefix=half{token_hex(4)}"


PARTS: list[Sequence[str]] = [[""], ["mail"], [DEAD], ["", "mail", DEAD]]


@pytest.mark.timeout(150)
@pytest.mark.parametrize("parts", PARTS, ids=lambda parts: "+".join(p or "ingress" for p in parts))
def test_a_draining_wagon(url: str, parts: Sequence[str]) -> None:
    """What stands is handled, what died is kept, what is lost is told."""

    async def main() -> None:
        case = Case()
        await case.cut_off(url)
        async with case.train.connect(url) as c:
            for part in parts:
                await c.broker.delete(Channel(case.name, 1, part))
        case.handled.clear()
        async with case.train.connect(url) as c, c.running():
            if parts == [DEAD]:
                await asyncio.sleep(1.5)  # two sweeps
                assert any(t.startswith(f"{case.name}_v1.dead has vanished") for t in (await look(c, url)).threatened)
            case.gate.set()
            await case.gone(c)
            await c.publish(3)
            await until(lambda: 3 in case.handled)
            assert {1, 2} <= set(case.handled) or "" in parts
            assert 7 in case.handled or "mail" in parts
            letters = [letter.data async for letter in c.dead_letters()]
            assert letters == ([] if "" in parts else [b"99"])
            facts = [e.fact for e in await journal(c)]
            lost = [f for f in facts if isinstance(f, EventsLost)]
            assert bool(lost) is ("" in parts)
            told = {f.channel for f in facts if isinstance(f, ChannelThreatened)}
            assert told == {p for p in parts if p}
            assert [f.wagon.number for f in facts if isinstance(f, WagonRemoved)] == [1]
            assert {ch.wagon for ch in await c.broker.channels(case.name)} <= {
                0,
                *(w.number for w in c.manifest.wagons),
            }

    asyncio.run(main())


@pytest.mark.timeout(150)
@pytest.mark.parametrize("parts", [PARTS[0], PARTS[-1]], ids=lambda parts: "+".join(p or "ingress" for p in parts))
@pytest.mark.parametrize("state", [State.DRAINED, State.REMOVING])
def test_a_wagon_at_its_end(url: str, parts: Sequence[str], state: State) -> None:
    async def main() -> None:
        case = Case()
        await case.cut_off(url)
        async with case.train.connect(url) as c:
            manifest = (await c.refresh()).manifest
            for channel in manifest.working_channels(manifest.wagons[0]):  # as if all had been handled
                await c.broker.delete(channel)
                await c.broker.create(channel)
                await c.broker.seal(channel)
            for part in parts:
                await c.broker.delete(Channel(case.name, 1, part))
            manifest = moved(manifest, 1, Move.PROVEN_EMPTY, drained_at=1.0)
            if state is State.REMOVING:
                manifest = moved(manifest, 1, Move.REMOVAL_BEGUN)
            await c.registry.replace(case.name, manifest, expect=(await c.refresh()).version)
        case.gate.set()
        async with case.train.connect(url) as c, c.running():
            await case.gone(c)
            await c.publish(3)
            await until(lambda: 3 in case.handled)
            assert {ch.wagon for ch in await c.broker.channels(case.name)} <= {
                0,
                *(w.number for w in c.manifest.wagons),
            }
            if state is State.DRAINED or DEAD not in parts:
                assert [e.fact.wagon.number for e in await journal(c) if isinstance(e.fact, WagonRemoved)] == [1]

    asyncio.run(main())


# --- half of a channel, on Redis ------------------------------------------------------------


def _break(server: Server, key: str, how: str) -> None:
    if how == "group":
        ask(server.port, "XGROUP", "DESTROY", key, "eventwagon")
        return
    ask(server.port, "DEL", key)
    if how != "gone":
        ask(server.port, "SET", key, "somebody else's")


BROKEN = [
    (State.ACTIVE, "", "", "taken"),
    (State.ACTIVE, "", ":back", "taken"),
    (State.ACTIVE, ".mail", "", "gone"),
    (State.ACTIVE, ".mail", "", "taken"),
    (State.ACTIVE, ".dead", "", "taken"),
    (State.DRAINING, "", "", "group"),
    (State.DRAINING, ".mail", "", "gone"),
    (State.DRAINING, ".mail", "", "taken"),
    (State.DRAINING, ".mail", "", "group"),
    (State.DRAINING, ".dead", ":meta", "gone"),
]


@pytest.mark.timeout(150)
@pytest.mark.parametrize(("state", "name", "key", "how"), BROKEN)
def test_half_of_a_channel(
    redis_server: Server, caplog: pytest.LogCaptureFixture, state: State, name: str, key: str, how: str
) -> None:
    """A key of it was evicted, its group was destroyed, or somebody else's key has taken its place: that one is never
    deleted."""

    async def main(prefix: str) -> None:
        case, url = Case(), f"{redis_server.url}?prefix={prefix}"
        place = f"{prefix}:{{{case.name}_v1}}{name}{key}"
        if state is State.DRAINING:
            await case.cut_off(url)
            _break(redis_server, place, how)
            case.handled.clear()
        async with case.train.connect(url) as c, c.running():
            if state is State.ACTIVE:
                await c.publish(1)
                await asyncio.sleep(0.3)  # seen by the observer
                _break(redis_server, place, how)
                case.gate.set()
                if name == ".dead" or (name == ".mail" and how in ("gone", "group")):
                    await c.publish(99)
                    await asyncio.sleep(1.5)
                    await c.request_switch()
                async with asyncio.timeout(20):
                    await c.wait_switched(1)
            case.gate.set()
            await c.publish(3, timeout=20)
            await until(lambda: 3 in case.handled, seconds=30)
            await case.gone(c)
            assert {1, 2, 3} <= set(case.handled) or not (state is State.DRAINING and name != "")
            given_up = [e.fact.because for e in await journal(c) if isinstance(e.fact, DrainGivenUp)]
            assert bool(given_up) is (name == ".mail" and how == "taken")
            assert {ch.wagon for ch in await c.broker.channels(case.name)} <= {
                0,
                *(w.number for w in c.manifest.wagons),
            }
        left = ask(redis_server.port, "KEYS", f"{prefix}:{{{case.name}_v1}}*")
        if how == "taken":
            assert ask(redis_server.port, "GET", place) == b"$15\r\nsomebody else's\r\n"
            assert left.startswith(b"*1\r\n"), left
            assert "is left alone" in caplog.text
        else:
            assert left == b"*0\r\n", left

    with caplog.at_level(logging.WARNING, "eventwagon"):
        asyncio.run(main(f"p{token_hex(4)}"))
