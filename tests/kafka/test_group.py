"""The offsets of a group, where the server stands still, or does not allow all."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the package exports them without saying so
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from eventwagon.drivers.kafka import group
from eventwagon.drivers.kafka.admin import Admin
from eventwagon.drivers.kafka.options import Options
from eventwagon.errors import StorageBroken, Unavailable
from tests.servers.kafka import KafkaServer, login, sasl


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


def test_a_call_that_hangs_goes_on_as_before_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    began, goes_on, polled = threading.Event(), threading.Event(), threading.Event()

    class Hangs:
        def __init__(self, config: dict[str, object]) -> None: ...

        def commit(self, **_: object) -> None:
            began.set()
            goes_on.wait(10.0)

        def poll(self, timeout: float) -> None:
            polled.set()

    monkeypatch.setattr(group, "Consumer", Hangs)

    async def main() -> None:
        admin = Admin(Options("127.0.0.1:1", group="tools"))
        commit = asyncio.create_task(admin.group.commit({("t", 0): 1}))
        assert await asyncio.to_thread(began.wait, 10.0)
        await admin.close()
        goes_on.set()
        assert await asyncio.to_thread(polled.wait, 10.0)
        await asyncio.wait([commit])

    asyncio.run(main())


def test_a_topic_that_is_gone_hides_no_missing_right(tmp_path: Path) -> None:
    """Of a commit about several topics the client tells one error."""
    users = {"admin": "adm1n-s3cret", "bob": "b0b-s3cret"}

    def may_read(kind: ResourceType, name: str) -> AclBinding:
        literal, read, allow = ResourcePatternType.LITERAL, AclOperation.READ, AclPermissionType.ALLOW
        return AclBinding(kind, name, literal, "User:bob", "*", read, allow)

    async def main(server: KafkaServer) -> None:
        admin = Admin(Options(server.bootstrap, group="tools", config=login("admin", users["admin"])))
        bob = Admin(Options(server.bootstrap, group="tools", config=login("bob", users["bob"])))
        for topic in ("mine", "theirs"):
            await admin.create(topic, 1, {})
        topics = [may_read(ResourceType.TOPIC, topic) for topic in ("a-gone", "mine", "z-gone")]
        rights = AdminClient({"bootstrap.servers": server.bootstrap, **login("admin", users["admin"])})
        for granted in rights.create_acls([may_read(ResourceType.GROUP, "tools"), *topics]).values():
            await asyncio.wrap_future(granted)
        mine, theirs = ("mine", 0), ("theirs", 0)

        gone = {("a-gone", 0): 1, ("z-gone", 0): 1}
        async with asyncio.timeout(20):
            while True:  # what was granted may not be known yet
                with suppress(StorageBroken):
                    await bob.group.commit({mine: 1, **gone})
                    break
        for offset, absent in enumerate(gone, 2):
            with pytest.raises(StorageBroken, match="grant READ on topics of group tools"):
                await bob.group.commit({mine: offset, theirs: 1, absent: 1})
            assert await admin.group.committed([mine, theirs]) == {mine: offset, theirs: 0}
        await asyncio.gather(admin.close(), bob.close())

    with KafkaServer(tmp_path, config=sasl(users), client=login("admin", users["admin"])) as server:
        asyncio.run(main(server))
