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
from eventwagon.contracts.facts import ChannelThreatened, DrainGivenUp, EventsLost, WagonRemoved
from eventwagon.contracts.lifecycle import Move, State
from eventwagon.contracts.manifest import Manifest, moved
from eventwagon.errors import RemovalRefused
from eventwagon.event import DEAD, Channel
from eventwagon.policy import losses
from eventwagon.runtime.observer import Observer
from eventwagon.views.train import look
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
            # a channel that is gone says nothing of how many letters the train's own took instead
            records = [(f.wagon.number, f.dead) for f in facts if isinstance(f, WagonRemoved)]
            assert records == [(1, None if DEAD in parts else 0 if "" in parts else 1)]
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


_LOSING = ((State.ACTIVE, ""), (State.DRAINING, ".mail"))
"""The streams that hold an event when they go, and are not made again."""

# Where, how, what of 1, 2, 3 and 7 is handled, and the dead letters in the wagon's record
BROKEN = [
    (State.ACTIVE, "", "", "taken", {3}, 0),
    (State.ACTIVE, "", ":meta", "gone", {1, 3}, 0),
    (State.ACTIVE, ".mail", "", "gone", {1, 3}, 1),
    (State.ACTIVE, ".mail", "", "taken", {1, 3}, 0),
    (State.ACTIVE, ".dead", "", "taken", {1, 3}, None),
    (State.DRAINING, "", "", "group", {1, 2, 3, 7}, 1),
    (State.DRAINING, "", ":meta", "gone", {1, 2, 3, 7}, 1),
    (State.DRAINING, ".mail", "", "gone", {1, 2, 3}, 1),
    (State.DRAINING, ".mail", "", "taken", {1, 2, 3}, 0),
    (State.DRAINING, ".mail", "", "group", {1, 2, 3, 7}, 1),
    (State.DRAINING, ".mail", ":meta", "gone", {1, 2, 3, 7}, 1),
    (State.DRAINING, ".dead", ":meta", "gone", {1, 2, 3, 7}, 1),
]


@pytest.mark.timeout(150)
@pytest.mark.parametrize(("state", "name", "key", "how", "handled", "dead"), BROKEN)
def test_half_of_a_channel(
    redis_server: Server,
    caplog: pytest.LogCaptureFixture,
    state: State,
    name: str,
    key: str,
    how: str,
    handled: set[int],
    dead: int | None,
) -> None:
    """A key of it was evicted, its group was destroyed, or somebody else's key has taken the place of its stream: that
    one is never deleted. Only what was in that stream is lost."""

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
                if name == ".dead" or how == "gone":
                    await c.publish(99, timeout=20)
                    await asyncio.sleep(1.5)
                    await c.request_switch()
                async with asyncio.timeout(20):
                    await c.wait_switched(1)
            case.gate.set()
            await c.publish(3, timeout=20)
            await until(lambda: handled <= set(case.handled), seconds=30)
            await case.gone(c)
            assert set(case.handled) - {1} == handled - {1}
            facts = [e.fact for e in await journal(c)]
            assert any(isinstance(f, DrainGivenUp) for f in facts) is (name == ".mail" and how == "taken")
            assert any(isinstance(f, EventsLost) for f in facts) is (how == "taken" and (state, name) in _LOSING)
            (record,) = [f for f in facts if isinstance(f, WagonRemoved) and f.wagon.number == 1]
            assert record.dead == dead
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


@pytest.mark.timeout(150)
@pytest.mark.parametrize("key", [":back", ":taken", ":meta", ".mail:back", ".mail:taken", ".mail:meta"])
def test_a_key_beside_a_stream_holds_something_else(redis_server: Server, key: str) -> None:
    """Nothing is lost and nothing removed: it is told, and the events wait until somebody deletes that key."""

    async def main(prefix: str) -> None:
        case, url = Case(), f"{redis_server.url}?prefix={prefix}"
        place = f"{prefix}:{{{case.name}_v1}}{key}"
        await case.cut_off(url)
        ask(redis_server.port, "DEL", place)
        ask(redis_server.port, "SET", place, "somebody else's")
        case.handled.clear()
        async with case.train.connect(url) as c:
            channel = Channel(case.name, 1, "mail" if "mail" in key else "")
            (depth,) = await c.broker.depth([channel])
            held = 1 if "mail" in key else 3
            assert (
                (depth.published or 0) - (depth.settled or 0) == held == len([e async for e in c.broker.read(channel)])
            )
            assert place in depth.trouble
            assert channel in await c.broker.channels(case.name)
            with pytest.raises(RemovalRefused, match=f"{held} events? in {channel}"):
                await c.remove("a test")
        async with case.train.connect(url) as c, c.running():
            case.gate.set()
            await c.publish(3, timeout=20)
            await until(lambda: 3 in case.handled, seconds=30)
            await asyncio.sleep(3.0)  # longer than it takes to count as vanished
            assert any(place in t for t in (await look(c, url)).threatened)
            wagon = c.manifest.wagon(1)
            assert wagon is not None
            assert wagon.state is State.DRAINING
            ask(redis_server.port, "DEL", place)
            await until(lambda: {1, 2, 3, 7} <= set(case.handled), seconds=30)
            await case.gone(c)
            assert [letter.data async for letter in c.dead_letters()] == [b"99"]
            assert not [e.fact for e in await journal(c) if isinstance(e.fact, EventsLost | DrainGivenUp)]

    asyncio.run(main(f"p{token_hex(4)}"))


@pytest.mark.timeout(150)
def test_an_ingress_of_which_nobody_knows_whether_it_is_sealed(redis_server: Server) -> None:
    """It takes no more events: the next wagon does. Its own are handled once the key is deleted."""

    async def main(prefix: str) -> None:
        case, url = Case(), f"{redis_server.url}?prefix={prefix}"
        place = f"{prefix}:{{{case.name}_v1}}:meta"
        async with case.train.connect(url) as c, c.running():
            await c.publish(1)
            await asyncio.sleep(0.3)
            ask(redis_server.port, "DEL", place)
            ask(redis_server.port, "SET", place, "somebody else's")
            await c.publish(3, timeout=20)
            await c.wait_switched(1)
            case.gate.set()
            await until(lambda: 3 in case.handled, seconds=30)
            ask(redis_server.port, "DEL", place)
            await until(lambda: 1 in case.handled, seconds=30)
            await case.gone(c)
            assert not [e.fact for e in await journal(c) if isinstance(e.fact, EventsLost)]

    asyncio.run(main(f"p{token_hex(4)}"))
