"""A whole train whose wagons get their workers from Lambda or ECS, moto's control planes, and what may befall it in a
burst: calls that are throttled, killed workers, events that fail once or for good, a publisher that is stopped through
a switch. What was accepted was handled or stands in the dead letters, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from secrets import token_hex

import pytest

from eventwagon import Connection
from eventwagon.contracts.facts import WagonSealed
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.orchestrator import Orchestrator
from eventwagon.drivers.aws import SQSBroker
from eventwagon.drivers.aws.clients import Clients
from eventwagon.drivers.aws.place import parse
from eventwagon.errors import Unavailable
from eventwagon.orchestrators.aws import ECSServices, LambdaMappings
from tests.aws.agent import Agent, a_cluster, services_of
from tests.aws.poller import Poller, a_function
from tests.aws.support import clients_of, throttle
from tests.programs.sign_ups import train
from tests.servers.moto import MotoServer
from tests.support import journal

PROGRAM = "tests.programs.sign_ups:train"
PATIENCE = 340.0


class Workers:
    """Where the workers of a train come from in these tests."""

    def __init__(self, clients: Clients, url: str, environment: dict[str, str]) -> None:
        self.clients = clients
        self.url = url
        self.environment = environment
        self.name = f"n{token_hex(4)}"
        self.orchestrator: Orchestrator

    async def standing(self) -> set[int]:
        """The units or wagons of which something stands in AWS."""
        raise NotImplementedError


class ByLambda(Workers):
    @asynccontextmanager
    async def running(self) -> AsyncIterator[LambdaMappings]:
        await a_function(self.clients, self.name, timeout=5)
        poller = Poller(self.clients, self.name, PROGRAM, lambda _: self.environment, timeout=5)
        mappings = LambdaMappings(self.name, parse(self.url), batch=5)
        poller.answering(clients_of(mappings))
        throttled = throttle(clients_of(mappings), 0.2, Random(1))
        async with poller:
            yield mappings
        assert poller.failed > 0  # parts of batches
        assert poller.broken > 0  # the call that was killed
        assert throttled.total() > 0

    async def standing(self) -> set[int]:
        found = await self.clients.call("lambda", "list_event_source_mappings")
        queues = [m["EventSourceArn"].rpartition(":")[2] for m in found["EventSourceMappings"]]
        place = parse(self.url)
        async with SQSBroker.from_url(self.url) as broker:
            by_queue = {place.queue(c): c.wagon for c in await broker.channels(train.name)}
        return {by_queue.get(queue, 0) for queue in queues if queue.startswith(f"{place.prefix}-")}


class ByECS(Workers):
    @asynccontextmanager
    async def running(self) -> AsyncIterator[ECSServices]:
        await a_cluster(self.clients, self.name, self.environment)
        services = services_of(self.name, self.url, PROGRAM, each=2)
        agent = Agent(self.clients, self.name, stop_timeout=15)
        agent.answering(clients_of(services))
        throttled = throttle(clients_of(services), 0.2, Random(1))
        async with agent:
            yield services
        assert agent.died > 0
        assert throttled.total() > 0

    async def standing(self) -> set[int]:
        arns = (await self.clients.call("ecs", "list_services", cluster=self.name))["serviceArns"]
        if not arns:
            return set()
        found = await self.clients.call("ecs", "describe_services", cluster=self.name, services=arns)
        return {int(s["serviceName"].rpartition("-")[2]) for s in found["services"] if s["status"] == "ACTIVE"}


class Story:
    """The train, its publishers, and what was accepted."""

    def __init__(self, connection: Connection, workers: Workers, directory: Path) -> None:
        self.train = connection
        self.accepted: set[int] = set()
        self._workers = workers
        self._directory = directory

    async def publish(self, count: int) -> None:
        """So many more, in batches of ten."""
        for _ in range(count // 10):
            numbers = range(len(self.accepted) + 1, len(self.accepted) + 11)
            await self.train.publish_many([{"n": n} for n in numbers], timeout=PATIENCE)
            self.accepted |= set(numbers)

    async def fill(self) -> None:
        """More than the active wagon is to take: until there is another."""
        full = self.active
        await self.publish(40)
        await self.train.wait_switched(full)

    @property
    def active(self) -> int:
        active = self.train.manifest.active
        assert active is not None
        return active.number

    def handled(self) -> set[int]:
        """Their numbers."""
        return {int(line.split()[1]) for file in self._directory.iterdir() for line in file.read_text().splitlines()}

    async def at_rest(self) -> None:
        """Until all that was accepted is accounted for and the active wagon and its spare are all that is left."""
        while True:
            dead = {n async for n in self._dead()}
            assert dead <= {n for n in self.accepted if n % 29 == 0}
            states = sorted(w.state for w in self.train.manifest.wagons)
            units = {w.unit for w in self.train.manifest.wagons}
            is_done = self.handled() | dead == self.accepted
            if is_done and states == sorted([State.ACTIVE, State.READY]) and await self._workers.standing() == units:
                return
            await asyncio.sleep(0.5)

    async def _dead(self) -> AsyncIterator[int]:
        async for event in self.train.dead_letters():
            yield int(event.data.partition(b":")[2].rstrip(b"}"))

    async def tell(self) -> str:
        dead = {n async for n in self._dead()}
        missing = sorted(self.accepted - self.handled() - dead)
        told = "\n".join(str(entry) for entry in await journal(self.train))
        return f"missing {missing}\n{self.train.manifest.wagons}\n{await self._workers.standing()}\n{told}"


async def removed(orchestrator: Orchestrator, unit: int) -> None:
    """As observers do: again, where AWS says not so fast."""
    while True:
        try:
            await orchestrator.remove(train.name, unit, grace=5.0)
        except Unavailable:
            continue
        return


@pytest.mark.timeout(PATIENCE + 60)
@pytest.mark.parametrize(  # Lambda's parts have tests of their own: test_handler, test_mappings, test_lambda
    "kind", [pytest.param(ByLambda, marks=pytest.mark.soak), ByECS]
)
def test_a_burst(kind: type[ByLambda] | type[ByECS], moto_server: MotoServer, tmp_path: Path) -> None:
    url = moto_server.url.replace("/ew?", f"/b{token_hex(4)}?") + "&resend=3&poll=0.3"
    directory = tmp_path / "handled"
    directory.mkdir()

    async def play(story: Story) -> None:
        await story.fill()
        while not story.train.manifest.in_state(State.READY):
            await asyncio.sleep(0.1)
        publisher = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.aws.publisher", url, train.name, "100000"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert publisher.stdout is not None
            told = [await publisher.stdout.readline()]
            os.kill(publisher.pid, signal.SIGSTOP)  # it holds a lease on the active wagon
            held = story.active
            await story.train.wait_switched(await story.train.request_switch("while a publisher is stopped"))
            while not any(
                isinstance(e.fact, WagonSealed) and e.fact.number == held for e in await journal(story.train)
            ):
                await asyncio.sleep(0.3)
            os.kill(publisher.pid, signal.SIGCONT)
            await story.fill()
            out, _ = await publisher.communicate(b"\n")
        finally:
            if publisher.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    publisher.kill()
                await publisher.wait()
        theirs = {int(line) for line in b"".join([*told, out]).split()}
        assert theirs
        story.accepted |= theirs

    async def run() -> None:
        async with SQSBroker.from_url(url) as own:
            workers = kind(clients_of(own), url, {"EVENTWAGON_URL": url, "HANDLED": str(directory)})
            async with workers.running() as orchestrator, train.connect(url, orchestrator=orchestrator) as connection:
                story = Story(connection, workers, directory)
                try:
                    async with asyncio.timeout(PATIENCE), connection.running():
                        while connection.manifest.active is None:
                            await asyncio.sleep(0.1)
                        await play(story)
                        await story.at_rest()
                except TimeoutError:
                    raise AssertionError(await story.tell()) from None
                left = {c.wagon for c in await own.channels(train.name)}
                assert {w.number for w in connection.manifest.wagons} <= left
                for wagon in connection.manifest.wagons:
                    await removed(orchestrator, wagon.unit)
                assert await workers.standing() == set()

    asyncio.run(run())
