"""Records of units, written before anything is created for them, so that it is found and removed even if its creator
crashes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ...contracts.orchestrator import WagonSpec
from ...drivers.aws.table import Table


class Unit(msgspec.Struct, frozen=True):
    """One unit of workers, as it was last requested."""

    spec: WagonSpec
    resources: tuple[str, ...] = ()
    """What was created for it, by AWS's names: removed once the unit is no longer requested."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Unit).decode


class Units:
    """The units that an orchestrator of this `kind` keeps in the table, for all trains."""

    def __init__(self, table: Table, prefix: str, kind: str) -> None:
        self._table = table
        self._prefix = f"{prefix}:{kind}"

    async def put(self, unit: Unit) -> None:
        """Record what the unit should be."""
        pk, sk = f"{self._prefix}:{unit.spec.train}", f"{unit.spec.unit:015d}"
        await self._table.put({"pk": {"S": pk}, "sk": {"S": sk}, "unit": {"B": _encode(unit)}})

    async def get(self, train: str, number: int) -> Unit | None:
        item = await self._table.get((f"{self._prefix}:{train}", f"{number:015d}"))
        return None if item is None else _decode(item["unit"]["B"])

    async def of(self, train: str) -> Sequence[Unit]:
        """All units of a train."""
        found: list[Unit] = []
        async for page in self._table.pages(f"{self._prefix}:{train}"):
            found += [_decode(item["unit"]["B"]) for item in page]
        return found

    async def remove(self, train: str, number: int) -> None:
        """Delete the record, once nothing of the unit is left. An absent one is no error."""
        await self._table.remove((f"{self._prefix}:{train}", f"{number:015d}"))
