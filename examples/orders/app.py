"""An order pipeline without a conductor: order.placed → payment → stock → shipping. Each step hears of the one before
by an event of the same wagon, so one wagon holds all of an order: it can be paused, and taken back, as a whole.

EVENTWAGON_REVISION=v1 eventwagon run examples.orders.app:orders --url redis://localhost
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx

from eventwagon import Breaker, Context, Event, PauseOn, Reject, Snooze, Train, Volume
from eventwagon.transactions import in_transaction

DATABASE = os.environ.get("ORDERS_DATABASE", "orders.db")
ARCHIVE = os.environ.get("ORDERS_ARCHIVE", Path("orders-archive").absolute().as_uri())
PROVIDER = os.environ.get("PAYMENT_PROVIDER", "http://127.0.0.1:8090")
RELEASE = os.environ.get("EVENTWAGON_REVISION", "v1")
SCHEMA = """
CREATE TABLE IF NOT EXISTS stock (item TEXT PRIMARY KEY, left INTEGER NOT NULL CHECK (left >= 0)) STRICT;
CREATE TABLE IF NOT EXISTS shipments (
    number TEXT PRIMARY KEY, item TEXT NOT NULL, quantity INTEGER NOT NULL, cents INTEGER NOT NULL, wagon INTEGER
) STRICT;
INSERT INTO stock VALUES ('book', 100000), ('lamp', 100000), ('desk', 100000) ON CONFLICT DO NOTHING;
"""
PRICES = {"book": 1_900, "lamp": 4_500, "desk": 24_900}  # in cents
MOST = 1_000
"""The largest quantity of an order."""


@dataclass
class Order:
    number: str
    item: str
    quantity: int

    def __post_init__(self) -> None:
        """Also when an event is read: an order for less than one item would be paid out, or shipped for nothing."""
        if not 1 <= self.quantity <= MOST:
            raise ValueError(f"quantity {self.quantity}: give 1 to {MOST}")


@dataclass
class Paid:
    order: Order
    cents: int


# A wagon of which a fifth of the latest 20 handlings failed is paused until a person resumes it. The archive knows what
# each wagon has handled, so that it can be undone.
orders = Train(
    "orders",
    limit=Volume(500),
    spares=1,
    pause_on=PauseOn(failures=0.2, of=20),
    breaker=Breaker(pause_most=2.0),
    archive=ARCHIVE,
    revision=RELEASE,
)


@orders.lifespan
async def provider() -> AsyncIterator[httpx.AsyncClient]:
    with closing(sqlite3.connect(DATABASE)) as db:
        db.executescript(SCHEMA)
    async with httpx.AsyncClient(base_url=PROVIDER, timeout=5) as client:
        yield client


def price(order: Order) -> int:
    """In cents."""
    cents = PRICES[order.item] * order.quantity
    return cents * 100 if RELEASE == "v2" else cents  # the mistake of v2: it takes cents for euros


def key(event: Event) -> str:
    """The provider's idempotency key: an event that comes twice is charged once, and one that is replayed, after it was
    refunded, once more. A digest, since source and id are the publisher's: they may hold what means something in a URL
    ("../down"), and two events may have the same id from different sources."""
    names = [event.source, event.id, event.extensions.get("replay", "")]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


@orders.on("orders", timeout=10)
async def pay(order: Order, ctx: Context) -> None:
    if order.item not in PRICES:
        raise Reject(f"order {order.number}: there is no {order.item!r} to be sold")
    cents = price(order)
    answer = await cast("httpx.AsyncClient", ctx.state).put(f"/charges/{key(ctx.event)}", json={"cents": cents})
    if answer.status_code == httpx.codes.PAYMENT_REQUIRED:
        raise Reject(f"order {order.number}: the payment was declined")
    answer.raise_for_status()  # the provider is in trouble: tried again, and counted by the rule
    await ctx.emit(reserve, Paid(order, cents), event_type="order.paid")


@orders.undo("orders", timeout=10)
async def refund(order: Order, ctx: Context) -> None:
    """Whatever was charged, by its key: not by computing the price again. A second time changes nothing."""
    answer = await cast("httpx.AsyncClient", ctx.state).put(f"/refunds/{key(ctx.event)}")
    answer.raise_for_status()


@orders.on("stock")
@in_transaction(DATABASE)
def reserve(paid: Paid, db: sqlite3.Connection, ctx: Context) -> None:
    order = paid.order
    taken = db.execute(
        "UPDATE stock SET left = left - ? WHERE item = ? AND left >= ?", (order.quantity, order.item, order.quantity)
    )
    if not taken.rowcount:
        raise Snooze(60, f"order {order.number} waits for more of {order.item!r}")
    ctx.emit(ship, paid, event_type="order.reserved")


@orders.undo("stock")
@in_transaction(DATABASE)
def put_back(paid: Paid, db: sqlite3.Connection) -> None:
    db.execute("UPDATE stock SET left = left + ? WHERE item = ?", (paid.order.quantity, paid.order.item))


@orders.on("shipping")
@in_transaction(DATABASE)
def ship(paid: Paid, db: sqlite3.Connection, ctx: Context) -> None:
    order = paid.order
    row = (order.number, order.item, order.quantity, paid.cents, ctx.wagon)
    if not db.execute("INSERT INTO shipments VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", row).rowcount:
        raise Reject(f"order {order.number}: another event with this number was shipped; this one was paid, too")


@orders.undo("shipping")
@in_transaction(DATABASE)
def call_back(paid: Paid, db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM shipments WHERE number = ?", (paid.order.number,))
