"""The offsets of a group, where the server stands still."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from eventwagon.drivers.kafka.admin import Admin
from eventwagon.drivers.kafka.options import Options
from eventwagon.errors import Unavailable
from tests.servers.kafka import KafkaServer


def test_no_call_outlasts_its_time(tmp_path: Path) -> None:
    async def main(server: KafkaServer) -> None:
        admin = Admin(Options(server.bootstrap, timeout=2.0, group="tools"))
        leaves = Admin(Options(server.bootstrap, timeout=2.0, group="tools"))
        await admin.create("t", 2, {})
        place, loop = ("t", 0), asyncio.get_running_loop()
        for one in (admin, leaves):
            await one.group.commit({place: 3})
            assert await one.group.committed([place]) == {place: 3}
        server.pause()
        try:
            began = loop.time()
            for call in (
                admin.group.commit({place: 4}),
                admin.group.committed([place]),
                leaves.group.commit({("t", 1): 5}),
            ):
                with pytest.raises(Unavailable, match="on group tools"):
                    await call
            assert loop.time() - began < 3 * 3.5
            began = loop.time()
            await leaves.close()
            assert loop.time() - began < 6.0
        finally:
            server.resume()
        async with asyncio.timeout(20):
            while True:
                try:
                    await admin.group.commit({place: 6})
                except Unavailable:
                    continue
                break
        assert await admin.group.committed([place]) == {place: 6}
        await admin.group.commit({place: 7, ("gone", 0): 1})  # a wagon's topic goes with the wagon
        assert await admin.group.committed([place]) == {place: 7}
        await admin.close()

    with KafkaServer(tmp_path) as server:
        asyncio.run(main(server))
