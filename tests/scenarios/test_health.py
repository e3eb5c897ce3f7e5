"""What a worker answers to a readiness probe."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from eventwagon import Train, Workers
from eventwagon.cli.health import Health
from eventwagon.errors import UsageError
from tests.servers.ports import free_port


async def ask(port: int, path: str = "/ready", method: str = "GET") -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: me\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body.strip()


def train() -> Train:
    numbers = Train("numbers", workers=Workers(each=1))

    @numbers.on("numbers")
    async def handle(number: int) -> None:
        pass

    return numbers


def test_ready_when_attached_and_events_come_through(tmp_path: Path) -> None:
    port = free_port()

    async def main() -> None:
        async with train().connect(f"sqlite:///{tmp_path}", listeners=()) as c, Health(c, port) as health:
            assert await ask(port) == (503, "it is attached to no wagon")
            async with c.running():
                async with asyncio.timeout(20):
                    while (await ask(port))[0] != 200:
                        await asyncio.sleep(0.05)
                assert await ask(port, "/ready?verbose") == (200, "ready")
                assert await ask(port, method="HEAD") == (200, "")
                assert (await ask(port, "/"))[0] == 404
                assert (await ask(port, method="POST"))[0] == 404
                await c.refresh()
                assert len(await c.broker.channels("numbers")) == 2, "the probe left nothing"
                health.leave()
                assert await ask(port) == (503, "it is leaving")

    asyncio.run(main())


def test_a_broker_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise UsageError("no event came through")

    monkeypatch.setattr("eventwagon.cli.health.probe", refuse)

    port = free_port()

    async def main() -> None:
        async with train().connect(f"sqlite:///{tmp_path}", listeners=()) as c, c.running(), Health(c, port):
            async with asyncio.timeout(20):
                while "no event came through" not in (await ask(port))[1]:
                    await asyncio.sleep(0.05)

    asyncio.run(main())


def test_who_says_nothing_is_no_trouble(tmp_path: Path) -> None:
    port = free_port()

    async def main() -> None:
        async with train().connect(f"sqlite:///{tmp_path}", listeners=()) as c, Health(c, port):
            _, silent = await asyncio.open_connection("127.0.0.1", port)
            assert (await ask(port))[0] == 503
            silent.close()
            await silent.wait_closed()
            with pytest.raises(UsageError, match=f"--health-port {port}"):
                async with Health(c, port):
                    pass

    asyncio.run(main())
