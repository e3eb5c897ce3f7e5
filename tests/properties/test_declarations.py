"""What a program declares with objects of classes that raise whatever they are asked: it is refused with UsageError,
or taken as what it is, and nothing else is raised."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import timedelta, tzinfo
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from eventwagon import Age, Budget, Elastic, Lag, Throughput, Train, Volume, Wait, Workers
from eventwagon.errors import UsageError
from eventwagon.options import Options
from eventwagon.settings import Settings


def boom(*_: object, **__: object) -> Any:
    raise ZeroDivisionError("boom")


def raises(base: type, *names: str) -> type:
    """A subclass of which these methods raise."""
    return type(f"Odd{base.__name__}", (base,), dict.fromkeys(names, boom))


SHOWN = ("__eq__", "__hash__", "__repr__", "__str__", "__format__")
ORDER = ("__lt__", "__le__", "__gt__", "__ge__", "__bool__")
ITEMS = ("__iter__", "__len__", "__getitem__", "__contains__", "__bool__")
NUMBER = ("__index__", "__int__", "__float__", "__add__", "__radd__", "__mul__", "__rmul__", "__sub__")
Text = raises(str, *SHOWN, *ITEMS, "isidentifier", "isascii", "encode", "split", "strip", "lower", "partition")
Unhashable = raises(str, "__hash__")
OddZone = raises(tzinfo, "utcoffset", "dst", "tzname")


class NoBudget(Budget):
    """One that has not been made."""

    def __init__(self) -> None: ...

    name = property(boom)


class Asked(type):
    """A class that can't be asked what belongs to it."""

    __subclasscheck__ = __instancecheck__ = __eq__ = boom
    __hash__ = type.__hash__


class OddError(Exception, metaclass=Asked): ...


ODD: dict[str, Any] = {
    "text": Text("orders"),
    "unhashable text": Unhashable("orders"),
    "unequal text": raises(str, "__eq__")("orders"),
    "whole number": raises(int, *SHOWN, *ORDER, *NUMBER)(3),
    "number": raises(float, *SHOWN, *ORDER, "__float__", "__add__", "__int__")(3.0),
    "time": raises(timedelta, *SHOWN, "total_seconds")(seconds=60),
    "longest time": timedelta.max,
    "earliest time": timedelta.min,
    "zone": OddZone(),
    "list": raises(list, *ITEMS)([1]),
    "tuple": raises(tuple, *ITEMS)((1,)),
    "object": raises(object, *SHOWN, "__bool__")(),
    "error class": OddError,
    "error": OddError(),
    "budget": raises(Budget, *SHOWN)("b", concurrency=3),
    "unmade budget": NoBudget(),
    "not a number": float("nan"),
    "huge": 10**400,
    "signalling": Decimal("sNaN"),
    "huge fraction": Fraction(10**400),
    "complex": 1j,
    "half a character": "\ud800",
    "bytes": b"x",
    "True": True,
    "empty": [],
}


def handler(_: int) -> None: ...


def tick() -> int:
    return 1


def of_two(odd: Any) -> None:
    train = Train("t")
    train.on("t", budget=odd)(handler)
    train.on("x", budget=Budget("b", concurrency=3))(handler)


DOORS: dict[str, Callable[[Any], object]] = {
    "Train": lambda odd: Train(odd),
    **{
        f"Train {name}": lambda odd, name=name: Train("t", **{name: odd})  # type: ignore[misc]
        for name in (*Settings.__struct_fields__, "source", "revision", "retries", "queue", "nonsense")
    },
    "on": lambda odd: Train("t").on(odd)(handler),
    **{
        f"on {name}": lambda odd, name=name: Train("t").on("t", **{name: odd})(handler)  # type: ignore[misc]
        for name in (*Options.__struct_fields__, "retries", "queue", "nonsense")
    },
    "handler": lambda odd: Train("t").on("t")(odd),
    "a list of budgets": lambda odd: Train("t").on("t", budget=[odd])(handler),
    "a list of errors": lambda odd: Train("t").on("t", dead_on=[odd])(handler),
    "two budgets": of_two,
    "every": lambda odd: Train("t").every(odd)(tick),
    "every tz": lambda odd: Train("t").every("* * * * *", tz=odd)(tick),
    "every name": lambda odd: Train("t").every(60, name=odd)(tick),
    "every channel": lambda odd: Train("t").every(60, channel=odd)(tick),
    "schedule": lambda odd: Train("t").every(60)(odd),
    "Budget": lambda odd: Budget(odd, concurrency=1),
    "Budget concurrency": lambda odd: Budget("b", concurrency=odd),
    "Budget rate": lambda odd: Budget("b", rate=odd),
    **{
        kind.__name__: lambda odd, kind=kind: kind(odd)  # type: ignore[misc]
        for kind in (Volume, Age, Lag, Throughput, Wait)
    },
    "Elastic": lambda odd: Elastic(odd, 64),
    "Elastic most": lambda odd: Elastic(2, odd),
    "Workers each": lambda odd: Workers(each=odd),
    "Workers total": lambda odd: Workers(total=odd),
    "Workers floor": lambda odd: Workers(total=8, floor=odd),
    "Workers most": lambda odd: Workers(each=8, most=odd),
    "lifespan": lambda odd: Train("t").lifespan(odd),
    "middleware": lambda odd: Train("t").middleware(odd),
    "publish_middleware": lambda odd: Train("t").publish_middleware(odd),
    "connect": lambda odd: Train("t").connect(odd),
    "connect broker": lambda odd: Train("t").connect(broker=odd, registry=odd),
    "connect listeners": lambda odd: Train("t").connect("memory:", listeners=odd),
    "connect orchestrator": lambda odd: Train("t").connect("memory:", orchestrator=odd),
    "connect_blocking": lambda odd: Train("t").connect_blocking(odd),
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_object_is_refused_or_taken(odd: str) -> None:
    refusals: list[str] = []
    for door in DOORS.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                door(ODD[odd])
            except UsageError as e:
                refusals.append(str(e))
    assert all(refusals)


def test_what_is_taken_is_plain() -> None:
    """What a subclass overrides is not asked later."""
    name, text = Text("orders"), Unhashable("mail")
    train = Train(name, revision=Text("v1"), spares=Text("auto"), at_cap=Text("refuse"))
    train.on(name, budget=ODD["budget"])(handler)
    train.on(text)(handler)
    train.every(60, name=Text("often"), channel=text)(tick)
    train.every(Text("* * * * *"))(tick)
    assert (train.name, train.source, train.revision) == ("orders", "/eventwagon/orders", "v1")
    assert (train.settings.spares, train.settings.at_cap) == ("auto", "refuse")
    assert [*train.handlers] == ["", "mail"]
    assert [*train.schedules] == ["often", "tick"]
    assert train.schedules["often"].channel == "mail"
    assert train.handlers[""].options.budget == (Budget("b", concurrency=3),)
    for each in (train.name, train.revision, *train.handlers, *train.schedules, train.settings.at_cap):
        assert type(each) is str


def test_a_train_may_have_the_name_that_no_channel_has() -> None:
    train = Train("dead")
    train.on("dead")(handler)
    assert [*train.handlers] == [""]


def test_an_interval_of_more_than_ten_years_is_refused() -> None:
    for when in (timedelta.max, timedelta(days=4000), 1e9):
        with pytest.raises(UsageError, match="more than ten years"):
            Train("t").every(when)(tick)
