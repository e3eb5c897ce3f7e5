"""What a handler asks for: how many and how often, how long it may take, what its failures mean. Pure."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from .errors import UsageError
from .other_words import refusal
from .values import in_seconds, is_a, items, plain, real, shown, whole

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_RATE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*/\s*(s|min|h)\s*")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,47}")
_MOST = 1_000_000
_LARGEST_BATCH = 10_000

Errors = tuple[type[Exception], ...]


@dataclass(frozen=True, init=False)
class Budget:
    """A budget that several channels share, of one train or of several in one registry:
    `payments = Budget("payments-db", concurrency=32)`, then `@train.on("ship", budget=payments)`.

    All channels with this budget together handle at most `concurrency` events at a time and begin at most `rate` in a
    second (`"20/s"`, `"300/min"`, `"1000/h"`, or a number), in all processes. Its name identifies it. Raises
    UsageError for a bad value."""

    name: str
    concurrency: int | None = None
    rate: float | None = None
    """In events per second."""

    def __init__(self, name: str, concurrency: int | None = None, rate: str | float | None = None) -> None:
        known = plain(name)
        if known is None or not _NAME.fullmatch(known):
            raise UsageError(
                f"budget name {shown(name)}: use 1 to 48 of a-z, 0-9, '_' and '-', beginning with a letter (say "
                "'payments-db')"
            )
        try:
            if concurrency is None and rate is None:
                raise UsageError("give concurrency= or rate=, or both")
            concurrency = None if concurrency is None else whole("concurrency", concurrency, most=_MOST)
            per = None if rate is None else per_second("rate", rate)
        except UsageError as e:
            raise UsageError(f"Budget({known!r}): {e}") from None
        for field, value in (("name", known), ("concurrency", concurrency), ("rate", per)):
            object.__setattr__(self, field, value)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a handler, as `Train.on` takes them. None: as the train's settings say. All times are in seconds.

    Raises UsageError for a bad value."""

    concurrency: int | None = None
    """How many events of the channel the train handles at a time, in all wagons and processes together."""
    rate: float | None = None
    """How many events of the channel the train begins in a second, in all wagons and processes together. Given as
    `"20/s"`, `"300/min"`, `"1000/h"`, or as a number of events per second."""
    budget: tuple[Budget, ...] = ()
    """Budgets that other channels or trains share."""
    timeout: float | None = None
    """How long the handler may take for one event."""
    attempts: int | None = None
    """How many times an event is handled before it goes to the dead letters."""
    backoff: float | None = None
    """The first pause before a retry; doubled each time."""
    backoff_most: float | None = None
    """The longest pause before a retry."""
    dead_on: Errors = ()
    """Exceptions after which no retry can help: the event goes to the dead letters at once."""
    retry_on: Errors | None = None
    """If given, only these exceptions are retried; after any other the event goes to the dead letters at once."""
    batch: int | None = None
    """The handler takes a list of at most this many events."""
    within: float | None = None
    """How long the first event of a batch waits for others. Default 0.5."""

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            msgspec.structs.force_setattr(self, name, value)

        for name, most in (("concurrency", _MOST), ("attempts", _MOST), ("batch", _LARGEST_BATCH)):
            if (value := getattr(self, name)) is not None:
                put(name, whole(name, value, most=most))
        for name, zero in (("timeout", False), ("backoff", True), ("backoff_most", True), ("within", True)):
            if (value := getattr(self, name)) is not None:
                put(name, in_seconds(f"{name} (seconds)", value, zero=zero, brief=name != "timeout"))
        if self.rate is not None:
            put("rate", per_second("rate", self.rate))
        put("budget", _budgets(self.budget))
        put("dead_on", _errors("dead_on", self.dead_on))
        if self.retry_on is not None:
            put("retry_on", _errors("retry_on", self.retry_on))
        if self.backoff is not None and self.backoff_most is not None:
            check_backoff(self.backoff, self.backoff_most)
        if self.within is not None and self.batch is None:
            raise UsageError("within= is for handlers of batches: give batch= too")

    @property
    def is_bounded(self) -> bool:
        """Whether the handler has a concurrency, a rate or a budget."""
        return self.concurrency is not None or self.rate is not None or bool(self.budget)

    def never_retried(self, error: BaseException) -> str:
        """Why no retry follows this error, in words; empty if one does. `retry_on` is about Exceptions: an error of
        another kind (CancelledError, SystemExit) is retried unless `dead_on` says otherwise. It may raise whatever the
        checks of users' classes raise."""
        kind = type(error)
        if self.dead_on and issubclass(kind, self.dead_on):
            return "dead_on"
        if self.retry_on is not None and issubclass(kind, Exception) and not issubclass(kind, self.retry_on):
            return "not in retry_on"
        return ""


def make_options(where: str, **given: Any) -> Options:
    """Options from keywords; `where` begins each error. Raises UsageError."""
    known = Options.__struct_fields__
    if unknown := {name: value for name, value in given.items() if name not in known}:
        raise UsageError(f"{where}: {refusal('option', unknown, known, of_handler=True)}")
    try:
        return Options(**given)
    except UsageError as e:
        raise UsageError(f"{where}: {e}") from None


def _budgets(value: object) -> tuple[Budget, ...]:
    """The budgets that are meant: one, or a sequence of them."""
    given = items("budget", value) if is_a(value, list, tuple) else (value,)
    if not all(is_a(each, Budget) for each in given):
        raise UsageError(f"budget={shown(value)}: give a Budget, or a list of them: budget=Budget('api', rate='20/s')")
    budgets = tuple(_plain_budget(each) for each in given)
    names = [budget.name for budget in budgets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"budget={shown(value)}: {twice[0]!r} is given twice")
    return budgets


def _plain_budget(given: Any) -> Budget:
    """The budget, if need be without what a user's subclass changes. Raises UsageError."""
    if type(given) is Budget:
        return given
    try:
        name, concurrency, rate = given.name, given.concurrency, given.rate
    except Exception as e:
        raise UsageError(f"budget={shown(given)} has no name=, concurrency= and rate= of a Budget") from e
    return Budget(name, concurrency, rate)


def check_budgets(known: Iterable[Budget], given: Iterable[Budget]) -> None:
    """Raise UsageError if two of these budgets have the same name and are not equal."""
    by_name = {budget.name: budget for budget in known}
    for budget in given:
        if by_name.setdefault(budget.name, budget) != budget:
            raise UsageError(f"budget {budget.name!r} is {by_name[budget.name]!r} at another handler: use one object")


def check_backoff(backoff: float, most: float) -> None:
    """Raise UsageError if the first pause before a retry is longer than the longest one."""
    if most < backoff:
        raise UsageError(f"backoff_most={most:g} is less than backoff={backoff:g}: the longest pause is the first")


def per_second(what: str, value: Any) -> float:
    """A rate in events per second, from a number or text such as `"20/s"`, `"300/min"`, `"1000/h"`. Raises
    UsageError."""
    if not is_a(value, str):
        return real(f"{what} (events per second)", value)
    found = _RATE.fullmatch(value)
    if found is None:
        raise UsageError(f"{what} {shown(value)}: write a number and a unit: '20/s', '300/min' or '1000/h'")
    return real(what, float(found[1]) / _UNITS[found[2]])


def _errors(what: str, value: object) -> Errors:
    """The exception classes that are meant: one, or a sequence of them."""
    given = items(what, value) if is_a(value, list, tuple) else (value,)
    if not all(inspect.isclass(each) and issubclass(each, Exception) for each in given):
        raise UsageError(f"{what}={shown(value)}: give exception classes: {what}=(ValueError, KeyError)")
    return given


NONE = Options()
