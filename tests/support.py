"""What several tests need: a train in memory, run in virtual time."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

from eventwagon import Connection, Context, Train, Volume, Workers
from eventwagon.contracts.broker import Broker
from eventwagon.contracts.facts import Entry, Fact, Listener
from eventwagon.contracts.registry import Snapshot
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.drivers.memory.registry import MemoryRegistry
from eventwagon.event import Channel
from eventwagon.runtime.bulkhead import Bulkhead
from eventwagon.runtime.publish_settings import PublishSettings
from eventwagon.runtime.runtime import Runtime
from eventwagon.runtime.train_state import TrainState
from eventwagon.runtime.worker_pool import WorkerPool
from eventwagon.runtime.worker_states import PoolState
from eventwagon.testing.virtual_time import VirtualClock


class World:
    """One memory broker and registry, to which any number of "processes" connect."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.clock = clock or VirtualClock()
        self.broker: Broker = MemoryBroker(clock=self.clock)
        self.registry = MemoryRegistry(clock=self.clock)
        self.facts: list[Fact] = []

    def connect(self, train: Train, **options: Any) -> Connection:
        options = {"broker": self.broker, "registry": self.registry, **options}
        return train.connect(clock=self.clock, listeners=[self.facts.append], **options)

    @asynccontextmanager
    async def running(self, train: Train, *, broker: Broker | None = None, **roles: bool) -> AsyncIterator[Connection]:
        async with self.connect(train, broker=broker or self.broker) as connection, connection.running(**roles):
            yield connection

    def of(self, kind: type) -> list[Any]:
        return [fact for fact in self.facts if isinstance(fact, kind)]


async def left_behind(world: World, train: Train, payloads: Sequence[object]) -> None:
    """A process claims events with these payloads in the first wagon of the train, which has no other, and says nothing
    any more. What it had claimed is due when this returns."""
    async with world.connect(train) as publisher:
        await publisher.publish_many(payloads)
    async with world.broker.consume(Channel(train.name, 1), visibility=1.0) as dead:
        got = 0
        while got < len(payloads):
            got += len(await dead.receive(len(payloads), 1.0))
    await asyncio.sleep(1.5)


def runtime_of(
    train: Train,
    broker: Broker,
    *,
    clock: Callable[[], float],
    tell: Listener = lambda fact: None,
    **given: Any,
) -> Runtime:
    """What a process's actors use, for tests that run them without a connection."""
    return Runtime(
        **{
            "train": train.name,
            "handlers": train.handlers,
            "settings": train.settings,
            "publishing": PublishSettings(train.settings),
            "broker": broker,
            "clock": clock,
            "tell": tell,
            "bulkhead": Bulkhead(train.name),
            **given,
        }
    )


def pools_of(train: str) -> list[PoolState]:
    """The pools of workers of this train that are open in this process."""
    pools = [thing for thing in gc.get_objects() if type(thing) is WorkerPool and thing.runtime.train == train]
    return [pool.state for pool in pools if not pool.state.closed]


class Silence:
    """A watch on a train that never brings news."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Snapshot:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")


class Deaf(MemoryRegistry):
    """The same trains for a process that hears of no change: it learns of them only when it reads by itself."""

    def __init__(self, of: MemoryRegistry) -> None:
        super().__init__()
        self.documents = of.documents

    def watch(self, train: str) -> Any:
        return Silence()


@asynccontextmanager
async def state_of(world: World, train: Train) -> AsyncIterator[TrainState]:
    """The train's manifest as one more process knows it, which does nothing else."""
    runtime = runtime_of(train, world.broker, clock=world.clock, tell=world.facts.append)
    async with TrainState(runtime, world.registry) as state:
        yield state


async def until(true: Callable[[], object], *, seconds: float = 60.0, step: float = 0.01) -> None:
    """Wait (in the loop's time) for something to become true; fail with the time that was given."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(step)


async def journal(connection: Connection) -> list[Entry]:
    return [entry async for entry in connection.journal()]


async def journal_with(connection: Connection, kind: type[Fact]) -> list[Fact]:
    """The journal's facts once there is one of this kind: an entry may come after the change that it tells of."""
    async with asyncio.timeout(20):
        while True:
            facts: list[Fact] = [entry.fact for entry in await journal(connection)]
            if any(isinstance(fact, kind) for fact in facts):
                return facts
            await asyncio.sleep(0.05)


@dataclasses.dataclass
class SignUp:
    email: str


@dataclasses.dataclass
class Email:
    to: str


def signups(handled: list[str], *, seconds: float = 0.0, **settings: object) -> Train:
    """Sign-up → welcome e-mail; `handled` gets what the last of the chain has seen."""
    defaults: dict[str, object] = {"limit": Volume(100), "workers": Workers(total=4), "spares": 1}
    train = Train("signups", **{**defaults, **settings})  # type: ignore[arg-type]

    @train.on("signups")
    async def register(signup: SignUp, ctx: Context) -> None:
        await asyncio.sleep(seconds)
        await ctx.emit("welcome", Email(signup.email))

    @train.on("welcome")
    async def welcome(email: Email) -> None:
        handled.append(email.to)

    return train
