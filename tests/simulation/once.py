"""The one record of handled events of a run, as one process reaches it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from eventwagon.contracts.once import Standing
from eventwagon.drivers.memory.once import MemoryOnce

from .gate import Gate


class GatedOnce:
    """The record as one process has it."""

    def __init__(self, gate: Gate, truth: MemoryOnce) -> None:
        self._gate = gate
        self._truth = truth

    async def claim(self, train: str, keys: Sequence[bytes], *, holder: str, lease: float) -> Sequence[Standing]:
        return await self._gate.call("once", partial(self._truth.claim, train, keys, holder=holder, lease=lease))

    async def record(self, train: str, keys: Sequence[bytes], *, window: float) -> None:
        await self._gate.call("record", partial(self._truth.record, train, keys, window=window))

    async def release(self, train: str, keys: Sequence[bytes], *, holder: str) -> None:
        await self._gate.call("once", partial(self._truth.release, train, keys, holder=holder))

    async def count(self, train: str) -> int:
        return await self._truth.count(train)

    async def clear(self, train: str) -> None:
        await self._gate.call("forget", partial(self._truth.clear, train))
