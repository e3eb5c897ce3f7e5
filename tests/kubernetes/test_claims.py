"""What a Pod had in hand when it ended: another has it at once where the end is proven, and else after the visibility
time of 60 s."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from eventwagon import Connection
from eventwagon.contracts.facts import ClaimsReturned
from eventwagon.orchestrators.kubernetes import Kubernetes
from tests.kubernetes.test_burst import processes
from tests.kubernetes.world import Looking, World, until
from tests.programs.pods import claims

WORK = "pods:claims\0--wagon\0"


class Story:
    """A train that is observed from here, and two Pods at its wagon, one of which handles an event that it never
    finishes."""

    def __init__(self, world: World, train: Connection, looking: Looking) -> None:
        self.world = world
        self.train = train
        self.looking = looking
        self.pod = ""
        """That Pod."""

    async def begin(self) -> None:
        async def both() -> bool:
            pods = await self.looking.all("pods")
            members = [m for m in await self.train.registry.members(claims.name) if any(a.ready for a in m.attachments)]
            return len(members) == len(pods) == 2 and all(
                # the end of a younger one would not be proven
                m.pod is not None and m.pod.since < time.time() - 3
                for m in members
            )

        await until("both Pods are at work", both, 90)
        await self.train.publish(1)
        ((self.pod, _),) = await until("begun", lambda: self.looking.notes("claimed"))

    async def begun_again(self, seconds: float) -> str:
        """The Pod that has it then."""

        async def again() -> list[list[str]]:
            return (await self.looking.notes("claimed"))[1:]

        ((pod, _), *_) = await until("begun again", again, seconds)
        return str(pod)

    def worker(self) -> int:
        """The number, here, of the process in that Pod."""
        uid = self.world.kubectl("get", "pod", self.pod, "-o", "jsonpath={.metadata.uid}")
        (pid,) = processes(WORK, self.world.own.directory.name, f"pod{uid}")
        return pid

    async def kubectl(self, *arguments: str) -> str:
        return await asyncio.to_thread(self.world.kubectl, *arguments)

    async def given_back(self) -> Sequence[ClaimsReturned]:
        facts = [entry.fact async for entry in self.train.registry.entries(claims.name)]
        return [fact for fact in facts if isinstance(fact, ClaimsReturned)]


@asynccontextmanager
async def story(world: World) -> AsyncIterator[Story]:
    def orchestrator() -> Kubernetes:
        return world.orchestrator("pods:claims", handler_timeout=claims.settings.handler_timeout)

    try:
        async with (
            claims.connect(world.url, listeners=(), orchestrator=orchestrator()) as train,
            world.looking() as looking,
            train.running(work=False),
        ):
            told = Story(world, train, looking)
            await told.begin()
            yield told
            await looking.let_go()
    finally:
        async with orchestrator() as after:
            for unit in await after.deployments(claims.name):
                await after.remove(claims.name, unit, grace=0.0)


def test_a_container_is_killed(world: World) -> None:
    """The other Pod has its event long before the claim runs out."""

    async def main() -> None:
        async with story(world) as at:
            os.kill(await asyncio.to_thread(at.worker), signal.SIGKILL)
            await at.begun_again(20.0)
            (fact,) = await at.given_back()
            assert fact.count == 1
            assert at.pod in fact.owner

    asyncio.run(main())


def test_a_pod_is_deleted_and_does_not_end_by_itself(world: World) -> None:
    """Its process stands still, so that the kubelet kills it. None comes after it in its Pod: the observer alone can
    know."""

    async def main() -> None:
        async with story(world) as at:
            os.kill(await asyncio.to_thread(at.worker), signal.SIGSTOP)
            await asyncio.sleep(2 * claims.settings.member_ttl)
            assert not await at.given_back(), "a process that is merely silent keeps what it has"
            await at.kubectl("delete", "pod", at.pod, "--grace-period=1")
            assert await at.begun_again(20.0) != at.pod
            (fact,) = await at.given_back()
            assert f"its container in Pod {at.pod} ended at" in fact.because

    asyncio.run(main())


def test_a_pod_that_was_deleted_by_force_is_not_known_to_have_ended(world: World) -> None:
    """Its object is gone before its kubelet has said anything, as where the node is cut off."""

    async def main() -> None:
        async with story(world) as at:
            pid = await asyncio.to_thread(at.worker)
            os.kill(pid, signal.SIGSTOP)
            await at.kubectl("delete", "pod", at.pod, "--force", "--grace-period=0")
            await asyncio.sleep(2 * claims.settings.member_ttl)
            assert at.pod not in await at.looking.all("pods")
            assert not await at.given_back()
            assert len(await at.looking.notes("claimed")) == 1

    asyncio.run(main())
