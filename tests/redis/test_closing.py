"""Closing in the very moment in which a connection breaks or is being made. (A task group forgets that it was cancelled
when one of its tasks fails at the same time, before Python 3.13; redis-py does so while it connects.)"""

from __future__ import annotations

import asyncio
from typing import Any

from redis import exceptions

from eventwagon.drivers.redis.errors import Lost, NotSent
from eventwagon.drivers.redis.link import pack
from eventwagon.drivers.redis.notifier import Notifier
from eventwagon.drivers.redis.server import Server as Named
from eventwagon.drivers.redis.wire import Wire
from tests.servers.server import Server

_MADE: list[Any] = []


class Kept(Named, frozen=True, kw_only=True):
    """Its connections are at hand, so that a test can break them."""

    def connection(self) -> Any:
        _MADE.append(super().connection())
        return _MADE[-1]


def test_a_wire_that_is_made_anew_as_it_is_closed(redis_server: Server) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            for turns in range(8):
                wire = Wire(Named.from_url(redis_server.url))
                answers = await wire.call(pack("PING"))
                assert answers == [b"PONG"]
                wire.renew(answers.connection)
                for _ in range(turns):
                    await asyncio.sleep(0)
                await wire.close()

    asyncio.run(main())


def test_a_notifier_that_breaks_as_it_is_closed(redis_server: Server) -> None:
    async def main() -> None:
        server = Kept.from_url(redis_server.url)

        async def broken(*words: Any, **given: Any) -> None:
            raise exceptions.ConnectionError("broken by the test")

        async with asyncio.timeout(20):
            for turns in range(8):
                notifier = Notifier(lambda: server)
                with notifier.listening("a") as ring:
                    await ring().wait()
                    _MADE[-1].send_command = broken
                    with notifier.listening("b"):
                        for _ in range(turns):
                            await asyncio.sleep(0)
                        await notifier.close()

    asyncio.run(main())


def test_what_is_closed_while_it_connects(redis_server: Server) -> None:
    """At any turn of the loop from the first to long after it has connected."""

    async def main() -> None:
        server = Named.from_url(redis_server.url)
        async with asyncio.timeout(40):
            for turns in range(60):
                wire, notifier = Wire(server), Notifier(lambda: server)
                with notifier.listening("a"):
                    call = asyncio.create_task(wire.call(pack("PING")))
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    await asyncio.gather(wire.close(), notifier.close())
                    await asyncio.wait([call])
                    assert call.exception() is None or isinstance(call.exception(), NotSent | Lost)

    asyncio.run(main())
