"""What was asked for, written down before it is made: so that whatever happens to its maker it is found and removed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ...contracts.orchestrator import WagonSpec
from ...drivers.aws.table import Table


class Unit(msgspec.Struct, frozen=True):
    """One unit of workers, as it was last asked for."""

    spec: WagonSpec
    resources: tuple[str, ...] = ()
    """What was made for it, in AWS's names: to be removed when it is no longer asked for."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Unit).decode


class Units:
    """The units of all trains that one orchestrator keeps in the table. `kind` is of the orchestrator."""

    def __init__(self, table: Table, prefix: str, kind: str) -> None:
        self._table = table
        self._prefix = f"{prefix}:{kind}"

    async def put(self, unit: Unit) -> None:
        """Write down what it should be."""
        pk, sk = f"{self._prefix}:{unit.spec.train}", f"{unit.spec.unit:015d}"
        await self._table.put({"pk": {"S": pk}, "sk": {"S": sk}, "unit": {"B": _encode(unit)}})

    async def get(self, train: str, number: int) -> Unit | None:
        item = await self._table.get((f"{self._prefix}:{train}", f"{number:015d}"))
        return None if item is None else _decode(item["unit"]["B"])

    async def of(self, train: str) -> Sequence[Unit]:
        """All of a train."""
        found: list[Unit] = []
        async for page in self._table.pages(f"{self._prefix}:{train}"):
            found += [_decode(item["unit"]["B"]) for item in page]
        return found

    async def remove(self, train: str, number: int) -> None:
        """Nothing of it is left. Absent is success."""
        await self._table.remove((f"{self._prefix}:{train}", f"{number:015d}"))
