"""Connecting while a server is down."""

from __future__ import annotations

import asyncio

import pytest

from eventwagon.contracts.registry import Snapshot
from eventwagon.drivers.memory.registry import MemoryRegistry
from eventwagon.errors import Unavailable
from tests.support import World, signups


class Down(MemoryRegistry):
    async def read(self, train: str) -> Snapshot:
        raise Unavailable("the server is not ready")


def test_an_unavailable_registry_is_said_as_it_is() -> None:
    async def main() -> None:
        world = World()
        with pytest.raises(Unavailable, match="not ready"):
            async with world.connect(signups([]), registry=Down()):
                pass

    asyncio.run(main())
