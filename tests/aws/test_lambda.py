"""The Lambda orchestrator with a function that is called: moto keeps the mappings, a poller of the tests' own works for
them."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from secrets import token_hex
from typing import Self

import pytest

from eventwagon import Train, Volume, Workers
from eventwagon.contracts.facts import WagonScaled, WentBack
from eventwagon.contracts.orchestrator import Orchestrator
from eventwagon.drivers.aws import SQSBroker
from eventwagon.drivers.aws.place import parse
from eventwagon.orchestrators.aws import LambdaMappings
from eventwagon.orchestrators.aws.counters import Counters
from eventwagon.testing.conformance import Check, Harness, Undeclared, orchestrator_checks
from tests.aws.held import Held
from tests.aws.poller import Poller, a_function, a_version
from tests.aws.support import QUICK, clients_of
from tests.held import PROGRAM
from tests.programs.calls import calls
from tests.servers.moto import MotoServer
from tests.support import journal

TIMEOUT = 20
"""Seconds that a call may take."""


class LambdaHarness(Held):
    """Lambda as far as moto goes, calls by the tests' poller: one event at a time, so that calls are workers."""

    ends = False
    revision = "1"

    def __init__(self, server: MotoServer, directory: Path) -> None:
        super().__init__(server, directory)
        self.function = f"f_{token_hex(4)}"

    def another(self) -> AbstractAsyncContextManager[Orchestrator]:
        mappings = LambdaMappings(self.function, parse(self.url), batch=1)
        self.poller.answering(clients_of(mappings))
        return mappings

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        clients = clients_of(self.broker)
        await a_function(clients, self.function, timeout=TIMEOUT)
        assert await a_version(clients, self.function) == self.revision
        self.poller = await self._stack.enter_async_context(
            Poller(clients, self.function, PROGRAM, lambda _: self.environment, timeout=TIMEOUT)
        )
        self.orchestrator: Orchestrator = await self._stack.enter_async_context(self.another())
        return self


@pytest.mark.parametrize("check", orchestrator_checks(moment=1.0, patience=60.0), ids=str)
def test_lambda(check: Check[Harness], moto_server: MotoServer, tmp_path: Path) -> None:
    try:
        asyncio.run(check.run(lambda: LambdaHarness(moto_server, tmp_path)))
    except Undeclared as undeclared:
        pytest.skip(str(undeclared))


def test_a_failing_version_goes_back_by_itself(moto_server: MotoServer, tmp_path: Path) -> None:
    """Version 2 of the function fails on every event: seen by its calls only, told in the table, judged by the
    observer."""
    url, name = moto_server.url.replace("/ew?", f"/w{token_hex(4)}?") + "&poll=0.2", f"f_{token_hex(4)}"
    revisions = {"1": "good", "2": "bad"}

    def environment(version: str) -> dict[str, str]:
        return {"EVENTWAGON_URL": url, "HANDLED": str(tmp_path), "EVENTWAGON_REVISION": revisions[version]}

    train = Train("orders", limit=Volume(1000), workers=Workers(each=2), revision="1", attempts=2, **QUICK)

    @train.on("orders")
    async def handle(number: str) -> None:
        raise AssertionError("handled in the observer's process")

    async def scenario() -> WentBack:
        async with SQSBroker.from_url(url) as broker:
            await a_function(clients_of(broker), name, timeout=20)
            for version in revisions:
                assert await a_version(clients_of(broker), name) == version
            poller = Poller(clients_of(broker), name, "tests.programs.versions:orders", environment, timeout=20)
            mappings = LambdaMappings(name, parse(url))
            poller.answering(clients_of(mappings))
            connection = train.connect(url, orchestrator=mappings, listeners=())
            async with asyncio.timeout(120), poller, connection as c, c.running():
                await c.publish_many(f"old-{n}" for n in range(5))
                await c.request_switch("a bad release", revision="2", watch_errors=0.02)
                bad = await c.wait_answered()
                await c.publish_many(f"lost-{n}" for n in range(15))
                number = await c.wait_switched(bad)
                after = c.manifest.wagon(number)
                assert after is not None
                assert after.revision == "1"
                await c.publish_many(f"new-{n}" for n in range(5))
                await c.wait_drained(bad)
                assert {letter.data async for letter in c.dead_letters()} == {b'"lost-%d"' % n for n in range(15)}
                (fact,) = [e.fact for e in await journal(c) if isinstance(e.fact, WentBack)]
                while (await mappings.deployments("orders"))[after.unit].handled < 5:
                    await asyncio.sleep(0.1)
                for unit in await mappings.deployments("orders"):
                    await mappings.remove("orders", unit, grace=0.0)
                assert await Counters(broker.table, broker.place.prefix).of("orders") == {}
        return fact

    fact = asyncio.run(scenario())
    assert (fact.revision, fact.back, fact.handled) == ("2", "1", 0)
    assert fact.failed >= 20


def test_calls_follow_the_traffic(moto_server: MotoServer, tmp_path: Path) -> None:
    """Fifteen events a second of 0.3 s each need five calls at a time; two stand. The mapping's maximum concurrency
    goes up meanwhile, and down when it is over."""
    url, name = moto_server.url.replace("/ew?", f"/e{token_hex(4)}?") + "&poll=0.2", f"f_{token_hex(4)}"

    async def concurrency(mappings: LambdaMappings) -> int:
        found = (await clients_of(mappings).call("lambda", "list_event_source_mappings"))["EventSourceMappings"]
        ours = [m for m in found if f":function:{name}" in m["FunctionArn"] and m["State"] == "Enabled"]
        return max((int(m["ScalingConfig"]["MaximumConcurrency"]) for m in ours), default=0)

    async def scenario() -> None:
        async with SQSBroker.from_url(url) as broker:
            await a_function(clients_of(broker), name, timeout=20)
            environment = {"EVENTWAGON_URL": url, "HANDLED": str(tmp_path)}
            poller = Poller(clients_of(broker), name, "tests.programs.calls:calls", lambda _: environment, timeout=20)
            mappings = LambdaMappings(name, parse(url), batch=1)
            poller.answering(clients_of(mappings))
            connection = calls.connect(url, orchestrator=mappings, listeners=())
            async with asyncio.timeout(150), poller, connection as c, c.running():
                await c.found()
                while await concurrency(mappings) != 2:
                    await asyncio.sleep(0.2)
                most = 0
                for number in range(150):
                    await c.publish(number)
                    await asyncio.sleep(1 / 15)
                    most = max(most, await concurrency(mappings)) if number % 15 == 0 else most
                while len(_noted(tmp_path)) < 150:
                    most = max(most, await concurrency(mappings))
                    await asyncio.sleep(0.2)
                assert _noted(tmp_path) == set(range(150))
                assert 2 < most <= 12  # how far it goes depends on how fast a busy machine publishes
                while await concurrency(mappings) != 2:
                    await asyncio.sleep(0.5)
                scaled = [e.fact for e in await journal(c) if isinstance(e.fact, WagonScaled)]
                assert all(2 <= fact.workers <= 12 for fact in scaled)
                for unit in await mappings.deployments("calls"):
                    await mappings.remove("calls", unit, grace=0.0)

    asyncio.run(scenario())


def _noted(directory: Path) -> set[int]:
    return {int(line) for file in directory.iterdir() for line in file.read_text().splitlines()}
