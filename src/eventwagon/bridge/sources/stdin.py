"""JSON Lines from stdin, or from a file or pipe that the shell puts there."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Self

import msgspec

from ...contracts.address import Address
from ...display.text import said
from ...input_blocks import blocks
from ..source import Begin, Lag, Record

_json = msgspec.json.Decoder()
_BOM = b"\xef\xbb\xbf"
_LINE_MOST = 64 << 20
"""Bytes of a line. A longer one is cut into records of this size, which are no JSON."""


def open_stdin(address: Address, begin: Begin) -> StdinSource:
    """The source of `-`. Raises UsageError."""
    address.only()
    if begin is not None:
        raise address.wrong("stdin is read from where it stands: leave --from out")
    return StdinSource()


class StdinSource:
    """Each line that is not blank is one record. It can be read once: nothing comes again, so `commit` has nothing to
    do, and its records' positions, which become their events' ids, are those of this run."""

    name = "stdin"

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._run = os.urandom(6).hex()
        self._stack = AsyncExitStack()
        self._lines: deque[tuple[int, bytes]] = deque()
        self._number = 0
        self._rest = b""
        self._ended = False
        self._block: asyncio.Future[bytes] | None = None
        """The next block, which is being read."""

    async def __aenter__(self) -> Self:
        self._next = await self._stack.enter_async_context(blocks(self._descriptor))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def read(self, limit: int, wait: float) -> Sequence[Record] | None:
        """See Source."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        while not self._lines and not self._ended:
            if self._block is None:
                self._block = self._next()
            done, _ = await asyncio.wait([self._block], timeout=max(0.0, until - loop.time()))
            if not done:
                return []
            block, self._block = self._block.result(), None
            self._take(block)
        if not self._lines:
            return None
        now = time.time()
        taken = [self._lines.popleft() for _ in range(min(limit, len(self._lines)))]
        return [
            Record(position=f"stdin/{self._run}/{number}", value=line, time=now, trouble=_trouble(line))
            for number, line in taken
        ]

    def _take(self, block: bytes) -> None:
        if not block:
            self._ended = True
            whole, self._rest = [self._rest], b""
        else:
            *whole, self._rest = (self._rest + block).split(b"\n")
            if len(self._rest) > _LINE_MOST:
                whole, self._rest = [*whole, self._rest], b""
        for line in whole:
            self._number += 1
            text = (line.removeprefix(_BOM) if self._number == 1 else line).strip()
            if text:
                self._lines.append((self._number, text))

    async def commit(self, records: Sequence[Record]) -> None:
        """Nothing to do."""

    async def peek(self, limit: int) -> Sequence[Record]:
        """See Source: they are gone from stdin."""
        found = list[Record]()
        while len(found) < limit and (some := await self.read(limit - len(found), math.inf)) is not None:
            found += some
        return found

    async def lag(self) -> Lag:
        """Not known."""
        return Lag()


def _trouble(line: bytes) -> str:
    try:
        _json.decode(line)
    except msgspec.DecodeError as e:
        return f"it is no JSON: {str(e).removeprefix('JSON is malformed: ')}"
    except UnicodeDecodeError as e:
        return f"it is no UTF-8: {said(e)}"
    except RecursionError:
        return "it is nested too deeply"
    return ""
