"""A node that is cut off from all others, and comes back."""

from __future__ import annotations

import asyncio

from tests.kubernetes.test_trouble import found, spec
from tests.kubernetes.world import World, until
from tests.programs.pods import held


def test_a_node_is_cut_off_and_healed(world: World) -> None:
    """Its wagon is not ready and says why. What can't be seen to have ended is not said to have: removing waits for
    it."""
    own = world.own
    node = own.add_node()
    template = {"spec": {"nodeSelector": {"kubernetes.io/hostname": node}}}

    async def main() -> None:
        await found(world)
        async with world.orchestrator("pods:held", template=template) as orchestrator, world.looking() as looking:
            await orchestrator.ensure(spec())

            async def ready() -> bool:
                return (await orchestrator.deployments(held.name))[1].ready

            async def unready() -> bool:
                deployment = (await orchestrator.deployments(held.name))[1]
                return not deployment.ready and f"node {node}" in deployment.trouble

            await until("ready", ready)
            await asyncio.to_thread(own.cut, node)
            try:
                await until("not ready, and why", unready, 30)
                removing = asyncio.create_task(orchestrator.remove(held.name, 1, grace=0.0))
                await asyncio.sleep(8.0)
                assert not removing.done(), "nobody can know that the Pod has ended"
                assert len(await looking.all("pods")) == 1
            finally:
                await asyncio.to_thread(own.heal, node)
            async with asyncio.timeout(60):
                await removing
            assert await looking.all("pods") == {}

    asyncio.run(main())
    world.kubectl("cordon", node)
