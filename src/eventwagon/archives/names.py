"""The names of the files in an archive."""

from __future__ import annotations

from datetime import UTC, datetime

from ..contracts.archive import ArchivedWagon
from ..event import Channel


def name_of(wagon: ArchivedWagon, channel: str) -> str:
    """The path of a file: `orders/orders_v7-20270131T180000000Z.ship.parquet`. It has the time at which the wagon was
    opened, since a train that was removed and founded again begins with wagon 1."""
    name = f"{wagon.train}/{Channel(wagon.train, wagon.number)}"
    if wagon.opened_at is not None:
        opened = datetime.fromtimestamp(round(wagon.opened_at, 3), UTC)
        name += f"-{opened:%Y%m%dT%H%M%S}{opened.microsecond // 1000:03d}Z"
    if wagon.late:
        name += f"-late-{wagon.late}"
    return f"{name}{channel and '.'}{channel}.parquet"
