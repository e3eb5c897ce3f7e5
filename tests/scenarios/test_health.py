"""What a worker answers to a readiness probe."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from eventwagon import Train, Workers
from eventwagon.cli.health import Health
from eventwagon.errors import Unavailable, UsageError
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
        async with Health(port) as health:
            assert await ask(port, "/live") == (200, "alive")
            assert await ask(port) == (503, "it is starting")
            async with train().connect(f"sqlite:///{tmp_path}", listeners=()) as c:
                async with c.running(), health.watching(c, observes=True, works=True):
                    async with asyncio.timeout(20):
                        while (await ask(port))[0] != 200:
                            await asyncio.sleep(0.05)
                    assert await ask(port, "/ready?verbose") == (200, "ready")
                    assert await ask(port, method="HEAD") == (200, "")
                    assert await ask(port, "/") == (404, "there are /live and /ready")
                    assert (await ask(port, method="POST"))[0] == 404
                    await c.refresh()
                    assert len(await c.broker.channels("numbers")) == 2, "the probe left nothing"
                assert await ask(port) == (503, "it is leaving")
                assert await ask(port, "/live") == (200, "alive")

    asyncio.run(main())


def test_a_worker_without_a_wagon_is_not_ready(tmp_path: Path) -> None:
    port = free_port()

    async def main() -> None:
        async with (
            train().connect(f"sqlite:///{tmp_path}", listeners=()) as c,
            Health(port) as health,
            health.watching(c, observes=False, works=True),
        ):
            await said(port, "it is attached to no wagon")

    asyncio.run(main())


async def said(port: int, words: str) -> None:
    async with asyncio.timeout(20):
        while words not in (await ask(port))[1]:
            await asyncio.sleep(0.02)


def test_a_broker_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise UsageError("no event came through")

    monkeypatch.setattr("eventwagon.cli.health.probe", refuse)

    port = free_port()

    async def main() -> None:
        async with (
            train().connect(f"sqlite:///{tmp_path}", listeners=()) as c,
            c.running(),
            Health(port) as health,
            health.watching(c, observes=True, works=True),
        ):
            await said(port, "no event came through")

    asyncio.run(main())


def test_an_observer_is_ready_while_it_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no wagon of its own to be attached to. Where its looks fail it says so, with the reason, and lives."""
    port = free_port()

    async def main() -> None:
        async with (
            train().connect(f"sqlite:///{tmp_path}", listeners=()) as c,
            c.running(work=False),
            Health(port) as health,
            health.watching(c, observes=True, works=False),
        ):
            await said(port, "ready")

            async def fail(*_: object) -> None:
                raise Unavailable("the registry is away")

            monkeypatch.setattr(c.registry, "members", fail)
            monkeypatch.setattr("eventwagon.runtime.observer._LATE", 0.0)
            await said(port, " s ago: the registry is away")
            assert (await ask(port))[0] == 503
            assert await ask(port, "/live") == (200, "alive")
            monkeypatch.undo()
            await said(port, "ready")

    asyncio.run(main())


def test_live_says_nothing_while_the_event_loop_stands_still() -> None:
    """As with a handler that blocks it: that is what a kubelet ends the container for."""
    port = free_port()
    asked, may_go_on = threading.Event(), threading.Event()

    def ask_in_vain() -> bool:
        asked.wait(20)
        with socket.create_connection(("127.0.0.1", port)) as own:
            own.sendall(b"GET /live HTTP/1.1\r\n\r\n")
            own.settimeout(0.5)
            try:
                return own.recv(1) == b""
            except TimeoutError:
                return True
            finally:
                may_go_on.set()

    async def main() -> None:
        async with Health(port):
            asking = asyncio.create_task(asyncio.to_thread(ask_in_vain))
            await asyncio.sleep(0)
            asked.set()
            may_go_on.wait(20)
            assert await asking
            assert await ask(port, "/live") == (200, "alive")

    asyncio.run(main())


def test_who_says_nothing_is_no_trouble() -> None:
    port = free_port()

    async def main() -> None:
        async with Health(port):
            _, silent = await asyncio.open_connection("127.0.0.1", port)
            assert (await ask(port))[0] == 503
            silent.close()
            await silent.wait_closed()
            with pytest.raises(UsageError, match=f"--health-port {port}: "):
                async with Health(port):
                    pass

    asyncio.run(main())


def test_a_crowd_that_asks_nothing_takes_no_more_than_its_share() -> None:
    port = free_port()

    async def main() -> None:
        async with Health(port), AsyncExitStack() as silent:
            readers = []
            for _ in range(150):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                silent.callback(writer.close)
                readers.append(reader)
            async with asyncio.timeout(20):
                assert [await reader.read() for reader in readers[100:]] == [b""] * 50
                while True:  # the others' patience ends
                    with suppress(IndexError, ConnectionError):
                        if await ask(port, "/live") == (200, "alive"):
                            return
                    await asyncio.sleep(0.1)

    asyncio.run(main())


def test_it_listens_at_the_address_that_is_given() -> None:
    port = free_port()

    async def main() -> None:
        async with Health(port, "127.0.0.2"):
            with pytest.raises(OSError, match="Connect call failed"):
                await ask(port)
        async with Health(port, "127.0.0.1"):
            assert await ask(port, "/live") == (200, "alive")
        for host in ("203.0.113.1", "no such host", "a..b", "x" * 300):
            with pytest.raises(UsageError, match=f"--health-host {host} --health-port {port}: "):
                async with Health(port, host):
                    pass

    asyncio.run(main())
