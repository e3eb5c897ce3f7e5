"""Handlers called like any function, with a context that a test has made."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from eventwagon import Context, Event, EventTooLarge, Train
from eventwagon.errors import UsageError


@dataclass
class Order:
    id: int


orders = Train("orders", max_event_bytes=2000)


@orders.on("orders")
async def ship(order: Order, ctx: Context) -> None:
    await ctx.emit("mail", {"to": ctx.state["admin"], "attempt": ctx.attempt}, subject="s", extensions={"tenant": "a"})
    ctx.emit("bill", order)


@orders.on("mail")
def mail(letter: dict[str, Any], ctx: Context) -> None:
    ctx.emit("bill", Order(1))


@orders.on("bill")
def bill(order: Order) -> None: ...


@pytest.mark.parametrize("train", [None, orders])
def test_a_handler_is_called_like_any_function(train: Train | None) -> None:
    ctx = Context.fake(state={"admin": "ada"}, attempt=2, train=train)
    asyncio.run(ship(Order(7), ctx))
    assert ctx.emitted == [("mail", {"to": "ada", "attempt": 2}), ("bill", Order(7))]
    assert [(event.subject, event.extensions) for event in ctx.events] == [("s", {"tenant": "a"}), (None, {})]
    assert (ctx.wagon, ctx.channel) == (1, "")
    inner = Context.fake(channel="mail", wagon=3, train=train)
    mail({}, inner)
    assert (inner.emitted, inner.channel, inner.wagon, inner.state) == ([("bill", Order(1))], "mail", 3, None)


def test_a_handler_stands_for_its_channel() -> None:
    ctx = Context.fake(train=orders)
    ctx.emit(bill, Order(1))
    ctx.emit(bill, Order(2), after=60)
    assert ctx.emitted == [("bill", Order(1)), ("bill", Order(2))]
    by_name = Context.fake(ctx.event, train=orders)
    by_name.emit("bill", Order(1))
    assert by_name.events[0].id == ctx.events[0].id

    class Office:
        def file(self, order: Order) -> None: ...

    office, train = Office(), Train("t")
    train.on("file")(office.file)
    ctx = Context.fake(train=train, channel="file")
    ctx.emit(office.file, Order(3))
    assert ctx.emitted == [("file", Order(3))]
    for no_channel in (ship, Office().file, print):
        with pytest.raises(UsageError, match=r"emit to .*: no handler is declared for it in train 'orders'"):
            Context.fake(train=orders).emit(no_channel, Order(1))


def test_the_event_may_be_given() -> None:
    event = Event("7", "order", "/shop", 0.0, b'{"id": 7}', subject="ada", extensions={"tenant": "a"})
    ctx = Context.fake(event)
    ctx.emit("mail", 1)
    assert (ctx.event, ctx.events[0].subject, ctx.events[0].extensions) == (event, "ada", {"tenant": "a"})
    again = Context.fake(event)
    again.emit("mail", 1)
    assert again.events[0].id == ctx.events[0].id, "as in production"
    assert Context.fake().event.id != Context.fake().event.id


def test_with_a_train_what_is_emitted_is_checked() -> None:
    ctx = Context.fake(train=orders)
    with pytest.raises(UsageError, match="no handler is declared for it in train 'orders'; there are: bill, mail"):
        ctx.emit("mails", 1)
    with pytest.raises(UsageError, match="emit to 'bill'"):
        ctx.emit("bill", "no order")
    with pytest.raises(EventTooLarge):
        ctx.emit("mail", {"text": "x" * 3000})
    assert (ctx.emitted, ctx.events) == ([], [])


def test_what_makes_no_sense_is_refused() -> None:
    for wrong in (
        {"attempt": 0},
        {"attempt": True},
        {"wagon": 0},
        {"channel": "Mail"},
        {"channel": "dead"},
        {"channel": 7},
    ):
        with pytest.raises(UsageError):
            Context.fake(**wrong)
    with pytest.raises(UsageError, match="train 'orders' has no handler for 'mails'"):
        Context.fake(channel="mails", train=orders)
    with pytest.raises(UsageError, match="an event's id can't be empty"):
        Context.fake(Event("", "t", "/s", 0.0, b""))
    ctx = Context.fake()
    for channel in ("", "dead", "Mail", 7, None):
        with pytest.raises(UsageError):
            ctx.emit(channel, 1)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        ctx.emit("mail", object())
