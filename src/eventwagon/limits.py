"""When is a wagon full? Each limit turns a reading into a pressure: 0 empty, 1 full, with the reason in words. Pure."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import msgspec

from .contracts.reading import Reading
from .display.text import plain, said
from .errors import UsageError
from .values import arguments, in_seconds, real, shown, whole

T = TypeVar("T")


class Pressure(msgspec.Struct, frozen=True, gc=False):
    """How full a wagon is: 0 is empty, 1 or more is full. `why` gives the reason in a sentence."""

    value: float
    why: str


@runtime_checkable
class Limit(Protocol):
    """A limit: any object with `measure`, including instances of a user's own class. Give such a class a stable `repr`,
    by which programs that declare the same train are compared.

    A limit may state two more things as attributes or properties; None, or no such attribute, means that it does not.

    `bound`: the number of events published to the wagon at which it is full, whatever its other figures. From then on
    `measure` must return 1 or more. If the broker can, it holds the wagon to exactly that number (see `capacity`).
    `slo`: how many seconds a new event may wait, like the promise of `Wait`. Shared workers schedule by it (see `slo`).
    """

    def measure(self, reading: Reading) -> Pressure:
        """How full the wagon of this reading is. Pure: no clock, no I/O, no memory. If a figure is unknown, return the
        value 0 and say so in `why`."""
        ...


class _Combinable:
    def __bool__(self) -> bool:
        """Raises UsageError: `a or b` would drop b."""
        raise UsageError(
            f"{self!r} is neither true nor false: join limits with | (the fuller one) and & (the emptier one)"
        )

    def __or__(self, other: Limit) -> Any_:
        return Any_(_limit(self), _limit(other))

    def __and__(self, other: Limit) -> All:
        return All(_limit(self), _limit(other))

    def __ror__(self, other: Limit) -> Any_:
        return Any_(_limit(other), _limit(self))

    def __rand__(self, other: Limit) -> All:
        return All(_limit(other), _limit(self))


def _limit(value: object) -> Limit:
    if not isinstance(value, Limit):
        raise UsageError(f"{shown(value)} is not a limit: it has no measure(reading)")
    return value


def _count_events(limit: Volume | Lag) -> None:
    msgspec.structs.force_setattr(limit, "events", whole(f"{type(limit).__name__}: events", limit.events))


def _positive(limit: Throughput | Wait, *fields: str) -> None:
    for field in fields:
        number = real(f"{type(limit).__name__}: {field}", getattr(limit, field))
        msgspec.structs.force_setattr(limit, field, number)


def _count(n: float) -> str:
    return f"{n:,.0f}" if n >= 100 or n == int(n) else f"{n:,.1f}"


def _written(n: float) -> str:
    """The shortest text that reads back as the same number: programs are compared by their declarations."""
    short = f"{n:g}"
    return short if float(short) == n else repr(n)


class Volume(msgspec.Struct, _Combinable, frozen=True):
    """Full when `events` events have been published to the wagon. Exact if the broker can bound a channel."""

    events: int

    def __post_init__(self) -> None:
        _count_events(self)

    def __repr__(self) -> str:
        return f"Volume({self.events})"

    @property
    def bound(self) -> int:
        """The wagon is full at this many events, whatever its other figures."""
        return self.events

    def measure(self, reading: Reading) -> Pressure:
        if reading.published is None:
            return Pressure(0.0, "volume unknown")
        taken, most = _count(reading.published), _count(self.events)
        why = (
            f"{taken} of {most} events taken"
            if reading.published <= self.events
            else f"{taken} events taken, over {most}"
        )
        return Pressure(reading.published / self.events, why)


class Age(msgspec.Struct, _Combinable, frozen=True):
    """Full when the wagon has been active for `seconds`. Always 0 for a wagon without events: there is nothing to cut
    off."""

    seconds: float

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "seconds", in_seconds("Age: seconds", self.seconds))

    def __repr__(self) -> str:
        return f"Age({_written(self.seconds)})"

    def measure(self, reading: Reading) -> Pressure:
        if reading.published == 0:
            return Pressure(0.0, f"active for {reading.age:.1f} s, and received no event")
        return Pressure(reading.age / self.seconds, f"active for {reading.age:.1f} of {self.seconds:g} s")


class Lag(msgspec.Struct, _Combinable, frozen=True):
    """Full when `events` events are published and not yet settled, whether waiting or in flight."""

    events: int

    def __post_init__(self) -> None:
        _count_events(self)

    def __repr__(self) -> str:
        return f"Lag({self.events})"

    def measure(self, reading: Reading) -> Pressure:
        if reading.outstanding is None:
            return Pressure(0.0, "lag unknown")
        return Pressure(
            reading.outstanding / self.events, f"{_count(reading.outstanding)} of {_count(self.events)} events behind"
        )


class Throughput(msgspec.Struct, _Combinable, frozen=True):
    """Full when the publish rate has been `per_second` events or more, sustained for `seconds` (at most 45).

    With hysteresis: a dip does not matter as long as the rate stays at or above `low` × `per_second`; below that, the
    period starts again. The rate is measured over windows of a quarter of `seconds`.
    """

    per_second: float
    seconds: float = 5.0
    low: float = 0.8

    def __post_init__(self) -> None:
        _positive(self, "per_second", "seconds", "low")
        if self.low > 1:
            raise UsageError(f"Throughput: low must be at most 1, not {self.low!r}")
        if self.seconds > 45:
            raise UsageError(
                f"Throughput: seconds must be at most 45 (an observer remembers a minute), not {self.seconds!r}"
            )

    def __repr__(self) -> str:
        return f"Throughput({_written(self.per_second)}, seconds={_written(self.seconds)}, low={_written(self.low)})"

    def measure(self, reading: Reading) -> Pressure:
        held, rate = self._held(reading)
        if rate is None:
            return Pressure(0.0, "throughput not yet known")
        why = f"{_count(rate)} of {_count(self.per_second)} events/s, sustained for {held:.1f} of {self.seconds:g} s"
        return Pressure(min(rate / (self.per_second * self.low), held / self.seconds), why)

    def _held(self, reading: Reading) -> tuple[float, float | None]:
        """How long the rate has held, and the latest rate."""
        window = self.seconds / 4
        since: float | None = None
        rate: float | None = None
        samples = reading.samples
        start = 0
        for i, sample in enumerate(samples):
            while start + 1 < i and samples[start + 1].at <= sample.at - window:
                start += 1
            span = sample.at - samples[start].at
            if span < window * 0.5 or span <= 0:
                continue
            rate = (sample.published - samples[start].published) / span
            if rate >= self.per_second:
                since = samples[start].at if since is None else since
            elif rate < self.per_second * self.low:
                since = None
        return (0.0 if since is None else samples[-1].at - since), rate


_LONGEST = 1e12
"""The longest wait that is reported, in seconds."""
_ALMOST = 0.99
"""A pressure at which the next wagon is wanted, but the switch is not."""


class Wait(msgspec.Struct, _Combinable, frozen=True):
    """Full when a new event would wait too long: outstanding events (including those in flight) ÷ the measured settle
    rate.

    `slo` is the wait that you promise for new events, in seconds. The wagon is cut off at `cut` × `slo`, so that a
    whole wagon can still be on time. This mark grows up to fourfold as the number of live wagons approaches the cap
    (× 4^(live ÷ cap)): in a long overload wagons get longer instead of running out. While no settle rate is known (a
    cold start, or no backlog so far), the age of the next event replaces the prediction. `slo` also tells shared
    workers which events can still be on time.

    If the workers follow the traffic (`Elastic`), workers that are starting count too, so that a wagon whose rate rises
    is not cut off if they start in time; and it is cut off only once the next one has enough workers to take over.
    """

    slo: float
    cut: float = 0.5

    def __post_init__(self) -> None:
        _positive(self, "cut")
        msgspec.structs.force_setattr(self, "slo", in_seconds("Wait: slo", self.slo, brief=True))

    def __repr__(self) -> str:
        slo = _written(self.slo)
        return f"Wait({slo})" if self.cut == 0.5 else f"Wait({slo}, cut={_written(self.cut)})"

    def measure(self, reading: Reading) -> Pressure:
        aged = reading.oldest_age or 0.0
        if reading.wait is not None:  # the mark does not grow: no wagon is cut off unless another is ready
            mark, what = self._mark(0.0)
            wait = min(reading.wait, _LONGEST)
            why = f"a new event would wait {wait:.2f} s with the workers that are there or coming; {what}"
            if reading.relief or wait < mark:
                return Pressure(wait / mark, why)
            return Pressure(_ALMOST, f"{why}; the next wagon has too few workers to take over")
        mark, what = self._mark(reading.crowding)
        if reading.outstanding is None:
            return Pressure(aged / mark, f"lag unknown; the next event has waited {aged:.2f} s; {what}")
        before = _count(reading.outstanding)
        if not reading.settle_rate:
            why = f"no settle rate known yet; the next of {before} events has waited {aged:.2f} s; {what}"
            return Pressure(aged / mark, why)
        wait = min(reading.outstanding / reading.settle_rate, _LONGEST)  # a rate near 0 means an endless wait
        return Pressure(
            wait / mark,
            f"a new event would wait {wait:.2f} s ({before} events before it, "
            f"{_count(reading.settle_rate)} settled per second); {what}",
        )

    def _mark(self, crowding: float) -> tuple[float, str]:
        """The wait at which the wagon is cut off, and its calculation in words."""
        grown = 4.0**crowding
        mark = self.slo * self.cut * grown
        why = f" × {grown:.3g} at {crowding:.0%} of the cap" if crowding else ""
        return mark, f"the mark is {mark:.3g} s ({self.slo:g} s × {self.cut:g}{why})"


class Any_(msgspec.Struct, _Combinable, frozen=True):  # noqa: N801 - `a | b`; Any is typing's
    """`a | b`: as full as the fuller one."""

    a: Limit
    b: Limit

    def __repr__(self) -> str:
        return f"{written(self.a)} | {written(self.b)}"

    @property
    def bound(self) -> int | None:
        """The smaller bound: it is reached first."""
        return min((b for b in (capacity(self.a), capacity(self.b)) if b is not None), default=None)

    @property
    def slo(self) -> float | None:
        """The stricter promise."""
        return _stricter(self.a, self.b)

    def measure(self, reading: Reading) -> Pressure:
        return self.joined(self.a.measure(reading), self.b.measure(reading))

    def joined(self, a: Pressure, b: Pressure) -> Pressure:
        """The pressure of both, by that of each."""
        return a if a.value >= b.value else b


class All(msgspec.Struct, _Combinable, frozen=True):
    """`a & b`: as full as the emptier one."""

    a: Limit
    b: Limit

    def __repr__(self) -> str:
        return " & ".join(f"({part!r})" if isinstance(part, Any_) else written(part) for part in (self.a, self.b))

    @property
    def bound(self) -> int | None:
        """The larger bound; None unless both have one."""
        a, b = capacity(self.a), capacity(self.b)
        return None if a is None or b is None else max(a, b)

    @property
    def slo(self) -> float | None:
        """The stricter promise."""
        return _stricter(self.a, self.b)

    def measure(self, reading: Reading) -> Pressure:
        return self.joined(self.a.measure(reading), self.b.measure(reading))

    def joined(self, a: Pressure, b: Pressure) -> Pressure:
        """The pressure of both, by that of each."""
        return a if a.value <= b.value else b


def written(limit: Limit) -> str:
    """The limit as written in the declaration: its `repr`, or the class name if the class defines no `repr`."""
    kind = type(limit)
    return repr(limit) if kind.__repr__ is not object.__repr__ else f"{kind.__module__}.{kind.__qualname__}()"


def check_written(limit: Limit) -> None:
    """Raise UsageError unless the limit's text is the same each time: programs are compared by it."""
    if isinstance(limit, Any_ | All):
        check_written(limit.a)
        check_written(limit.b)
    try:
        first, again = written(limit), written(limit)
        first.encode()
    except Exception as e:
        raise UsageError(f"limit of class {type(limit).__name__}: its repr fails: {said(e)}") from e
    if first != again or len(first) > _WORDS_MOST:
        why = f"is longer than {_WORDS_MOST:,} characters" if first == again else "changes from one call to the next"
        raise UsageError(
            f"limit of class {type(limit).__name__}: its repr {why}; programs of a train are compared by it"
        )


class Fault(NamedTuple):
    """A faulty measurement: the limit, as written, and what is wrong."""

    limit: str
    why: str


def measured(limit: Limit, reading: Reading) -> tuple[Pressure, tuple[Fault, ...]]:
    """The limit's pressure, and the faults of the measurement. A user's own limit may do anything: if it returns no
    finite number, its pressure is 0, and limits joined to it still count. Raises nothing but KeyboardInterrupt."""
    if isinstance(limit, Any_ | All):
        (a, ours), (b, theirs) = measured(limit.a, reading), measured(limit.b, reading)
        return limit.joined(a, b), (*ours, *theirs)
    pressure, why = _measured(limit, reading)
    return pressure, (Fault(_named(limit), why),) if why else ()


def _named(limit: Limit) -> str:
    try:
        return plain(written(limit), _WHY_MOST)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - the repr worked when the limit was declared
        return type(limit).__name__


def _measured(limit: Limit, reading: Reading) -> tuple[Pressure, str]:
    try:
        pressure: Any = limit.measure(reading)
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # noqa: BLE001 - a user's own limit may fail in any way; the train must go on
        return _FAILED, said(e)
    if not isinstance(pressure, Pressure):
        return _FAILED, f"it measured {shown(pressure)}, which is no Pressure"
    value: Any = pressure.value
    why: Any = pressure.why
    if type(value) is float and type(why) is str and why.isascii() and len(why) <= _WHY_MOST and -_MOST < value < _MOST:
        return pressure, ""
    try:
        value = math.nan if isinstance(value, bool | str | bytes) else float(value)
    except Exception:  # noqa: BLE001 - a user's object may raise anything
        return _FAILED, f"it measured {shown(value)}, which is no number"
    if not -_MOST < value < _MOST:
        return _FAILED, f"it measured {shown(pressure.value)}"
    if not isinstance(why, str):
        return Pressure(value, "its reason is no text"), f"its reason is {shown(why)}, which is no text"
    plain = why[:_WHY_MOST].encode(errors="backslashreplace").decode()
    return Pressure(value, plain), "" if plain == why[:_WHY_MOST] else "its reason holds half a surrogate pair"


_FAILED = Pressure(0.0, "the limit failed")
_MOST = 1e300
_WHY_MOST = 500
_WORDS_MOST = 1_000


def capacity(limit: Limit) -> int | None:
    """The bound that the limit states: a channel with an exact bound accepts this many events. None if it states none
    or fails to. Raises nothing but KeyboardInterrupt."""
    return _stated(limit, "bound", lambda found: whole("bound", found))


def slo(limit: Limit) -> float | None:
    """The promise for new events that the limit states, in seconds; the strictest if there are several. None if it
    states none or fails to. Raises nothing but KeyboardInterrupt."""
    return _stated(limit, "slo", lambda found: real("slo", found))


def check_stated(limit: Limit) -> None:
    """Raise UsageError unless `bound` and `slo` of the limit and its parts are valid: a number of events, a number of
    seconds, or None."""
    if isinstance(limit, Any_ | All):
        check_stated(limit.a)
        check_stated(limit.b)
    for name, read in (("bound", whole), ("slo", real)):
        try:
            if (found := getattr(limit, name, None)) is not None:
                read(name, found)
        except UsageError as e:
            raise UsageError(f"limit of class {type(limit).__name__}: {e}, or None") from None
        except KeyboardInterrupt:
            raise
        except BaseException as e:
            raise UsageError(f"limit of class {type(limit).__name__}: its {name} fails: {said(e)}") from e


def _stated(limit: Limit, name: str, read: Callable[[Any], T]) -> T | None:
    """The attribute, or None if it fails. It was checked when the settings were made; a user's property that fails
    later must not stop the train."""
    try:
        found = getattr(limit, name, None)
        return None if found is None else read(found)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - as above
        return None


def _stricter(a: Limit, b: Limit) -> float | None:
    return min((s for s in (slo(a), slo(b)) if s is not None), default=None)


_LIMITS = {limit.__name__: limit for limit in (Volume, Age, Lag, Throughput, Wait)}


def parse_limit(text: str) -> Limit:
    """Parse a limit written as in Python, such as `"Wait(2.0) | Volume(10_000)"`. Raises UsageError.

    Only limits, numbers, `|` and `&` are accepted; nothing is evaluated.
    """

    def read(node: ast.expr) -> Limit:
        match node:
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return Any_(read(left), read(right))
            case ast.BinOp(left=left, op=ast.BitAnd(), right=right):
                return All(read(left), read(right))
            case ast.Call(func=ast.Name(id=name)) as call if name in _LIMITS:
                try:
                    positional, named = arguments(call)
                    return _LIMITS[name](*positional, **named)
                except (TypeError, ValueError) as e:
                    raise UsageError(f"limit {text!r}: {e}") from None
            case _:
                raise UsageError(
                    f"limit {text!r}: can't read {ast.unparse(node)!r}; write {', '.join(_LIMITS)}, joined by | and &"
                )

    try:
        return read(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError:
        raise UsageError(f"limit {text!r} is not written as Python would, say 'Wait(2.0) | Volume(10_000)'") from None
