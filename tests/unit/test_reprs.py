"""What trains and connections say of themselves, and handlers that are typed in again."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import pytest

from eventwagon import Train, Volume, Workers
from eventwagon.errors import UsageError


def test_they_say_what_they_are() -> None:
    train = Train("t", limit=Volume(5), workers=Workers(each=2))
    assert repr(train) == "<Train t: limit Volume(5), Workers(each=2), handlers: none>"

    @train.on("t")
    def handle(number: int) -> None: ...

    @train.on("mail")
    def mail(number: int) -> None: ...

    assert repr(train) == "<Train t: limit Volume(5), Workers(each=2), handlers: t, mail>"

    async def main() -> None:
        connection = train.connect("memory://")
        assert repr(connection) == "<Connection of t to MemoryBroker: new>"
        async with connection:
            assert repr(connection) == "<Connection of t to MemoryBroker: open>"
            async with connection.running():
                assert repr(connection) == "<Connection of t to MemoryBroker: open, running>"
        assert repr(connection) == "<Connection of t to MemoryBroker: closed>"

    asyncio.run(main())


def cell(module: str, answer: int) -> Callable[[int], int]:
    def handle(number: int) -> int:
        return answer

    handle.__module__ = module
    return handle


def test_a_cell_that_runs_again_replaces_its_handler_and_lifespan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    train = Train("t")
    train.on("t")(cell("__main__", 1))
    train.on("t")(cell("__main__", 2))
    assert train.handlers[""].call(0) == 2

    opened = cell("__main__", 1)
    train.lifespan(lambda: None)  # of another name
    with pytest.raises(UsageError, match="already"):
        train.lifespan(opened)


def test_a_script_has_one_handler_for_a_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "script.py", raising=False)
    train = Train("t")
    train.on("t")(cell("__main__", 1))
    with pytest.raises(UsageError, match="has a handler for 't' already"):
        train.on("t")(cell("__main__", 2))


def test_elsewhere_a_channel_has_one_handler() -> None:
    train = Train("t")
    train.on("t")(cell("app", 1))
    with pytest.raises(UsageError, match="has a handler for 't' already"):
        train.on("t")(cell("app", 2))
    with pytest.raises(UsageError, match="has a handler for 't' already"):
        train.on("t")(cell("__main__", 2))
