"""Named bursts and their work, for users without a trace. Pure."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec

from ..errors import UsageError
from .arrivals import black_friday, shaped


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A burst with its default figures. Times in seconds."""

    about: str
    arrivals: Callable[[int, float, int], list[float]]
    """Takes (events, seconds, seed)."""
    events: int
    seconds: float
    service: str
    workers: int
    slo: float


def _decaying(events: int, seconds: float, seed: int) -> list[float]:
    """A jump at the start, which then decays."""
    steps = [i / 20 for i in range(21)]
    return shaped(
        [(0.0, 0.05), (0.05, 0.05), *((0.06 + 0.94 * x, math.exp(-3.0 * x)) for x in steps)], events, seconds, seed=seed
    )


def _volleys(events: int, seconds: float, seed: int) -> list[float]:
    """Devices that report at the same minute: eight short volleys over a low rate."""
    shape = [(0.0, 0.2)]
    for n in range(8):
        at = (n + 0.5) / 8
        shape += [(at - 0.011, 0.2), (at - 0.01, 6.0), (at + 0.01, 6.0), (at + 0.011, 0.2)]
    return shaped([*shape, (1.0, 0.2)], events, seconds, seed=seed)


def _opened(events: int, seconds: float, seed: int) -> list[float]:
    """A message to everybody: most people react within seconds, the others over time."""
    return shaped([(0.0, 0.0), (0.02, 10.0), (0.1, 4.0), (0.2, 0.8), (1.0, 0.1)], events, seconds, seed=seed)


SCENARIOS: dict[str, Scenario] = {
    "black-friday": Scenario(
        about="15,000 sign-ups in two minutes: quiet, the doors open, a rush, a second wave",
        arrivals=lambda events, seconds, seed: black_friday(events, seconds, seed=seed),
        events=15_000,
        seconds=120.0,
        service="0.1",
        workers=8,
        slo=2.0,
    ),
    "steady": Scenario(
        about="15,000 sign-ups in two minutes at one rate: the fixed workers are too few all the time",
        arrivals=lambda events, seconds, seed: shaped([(0.0, 1.0), (1.0, 1.0)], events, seconds, seed=seed),
        events=15_000,
        seconds=120.0,
        service="0.1",
        workers=8,
        slo=2.0,
    ),
    "logins": Scenario(
        about="6,000 logins in a minute: a jump that dies away",
        arrivals=_decaying,
        events=6_000,
        seconds=60.0,
        service="0.05",
        workers=4,
        slo=1.0,
    ),
    "iot": Scenario(
        about="12,000 readings in two minutes: devices that report at the same moment, eight times",
        arrivals=_volleys,
        events=12_000,
        seconds=120.0,
        service="0.05",
        workers=6,
        slo=3.0,
    ),
    "push": Scenario(
        about="10,000 reactions to a message to everybody, most in the first seconds",
        arrivals=_opened,
        events=10_000,
        seconds=60.0,
        service="0.05",
        workers=8,
        slo=3.0,
    ),
}

_RANDOM = re.compile(r"random-(\d{1,9})")
_EVENTS_MOST = 6_000
"""The most events of a random burst."""


def scenario(name: str) -> Scenario:
    """The burst of that name; `random-7` is the random burst with the seed 7. Raises UsageError."""
    if (match := _RANDOM.fullmatch(name)) is not None:
        return random_burst(int(match[1]))
    if name not in SCENARIOS:
        raise UsageError(
            f"no scenario {name!r}; there are {', '.join(SCENARIOS)}, random-1, random-2 …, or --trace FILE"
        )
    return SCENARIOS[name]


def random_burst(number: int) -> Scenario:
    """A burst whose shape, length, work and promise are drawn at random; the same number gives the same burst. Nothing
    was tuned on these."""
    rng = random.Random(f"burst {number}")
    kind, draw = rng.choice(list(_SHAPES.items()))
    shape = draw(rng)
    seconds, slo = float(rng.randint(40, 120)), rng.choice((1.0, 2.0, 3.0, 5.0))
    mean = rng.choice((0.05, 0.1, 0.2)) if slo < 2 else rng.choice((0.05, 0.1, 0.2, 0.4))
    service = rng.choice((f"{mean}", f"{mean}", f"exponential({mean})", f"lognormal({mean / 1.65:.3g}, 1)"))
    events = min(_EVENTS_MOST, round(rng.uniform(4, 16) * seconds / mean))
    busy = events * mean / seconds
    return Scenario(
        about=f"{events:,} events in {seconds:g} s, {kind}",
        arrivals=lambda events, seconds, seed: shaped(shape, events, seconds, seed=seed),
        events=events,
        seconds=seconds,
        service=service,
        workers=max(2, round(busy * rng.uniform(0.4, 1.0))),
        slo=slo,
    )


_Shape = list[tuple[float, float]]


def _levels(rng: random.Random) -> _Shape:
    """A rate that jumps between levels and stays at each for a while."""
    moments = [0.0, *sorted(rng.random() for _ in range(rng.randint(2, 6))), 1.0]
    shape: _Shape = []
    for a, b in pairwise(moments):
        level = rng.choice((0.05, 0.3, 1.0, 3.0))
        shape += [(a + 1e-6, level), (b, level)]
    return [(0.0, shape[0][1]), *shape]


def _ramps(rng: random.Random) -> _Shape:
    """A rate that rises and falls linearly."""
    moments = [0.0, *sorted(rng.random() for _ in range(rng.randint(2, 6))), 1.0]
    return [(at, rng.uniform(0.05, 2.0)) for at in moments]


def _spikes(rng: random.Random) -> _Shape:
    """A low rate with spikes of random heights and widths."""
    shape: _Shape = [(0.0, 0.2)]
    for at in sorted(rng.uniform(0.05, 0.95) for _ in range(rng.randint(1, 6))):
        half, height = rng.uniform(0.003, 0.04), rng.uniform(1.0, 8.0)
        begin = max(at - half, shape[-1][0] + 1e-6)
        shape += [(begin, 0.2), (begin + half / 4, height), (begin + half, height), (begin + 2 * half, 0.2)]
    return [*((at, rate) for at, rate in shape if at < 1.0), (1.0, 0.2)]


def _wanders(rng: random.Random) -> _Shape:
    """A rate that changes by a random factor at each step."""
    steps, level = rng.randint(10, 40), 1.0
    shape: _Shape = [(0.0, level)]
    for n in range(1, steps + 1):
        level = min(10.0, max(0.05, level * rng.lognormvariate(0, 0.7)))
        shape.append((n / steps, level))
    return shape


_SHAPES: dict[str, Callable[[random.Random], _Shape]] = {
    "at a rate that jumps": _levels,
    "at a rate that rises and falls": _ramps,
    "with spikes": _spikes,
    "at a rate that wanders": _wanders,
}

_CALL = re.compile(r"(exponential|uniform|lognormal)\(\s*([\d.]+)\s*(?:,\s*([\d.]+)\s*)?\)")
_FORMS = "give seconds (0.1), exponential(mean), uniform(least, most) or lognormal(median, sigma)"


def services(text: str, count: int, *, seed: int = 0) -> list[float]:
    """Seconds of work for each of `count` events, drawn as `text` says. Raises UsageError."""
    match = _CALL.fullmatch(text.strip())
    try:
        if match is None:
            seconds = float(text)
            if not seconds >= 0 or not math.isfinite(seconds):
                raise UsageError(f"service {text!r}: {_FORMS}")
            return [seconds] * count
        kind, a, b = match[1], float(match[2]), float(match[3]) if match[3] else None
    except ValueError:
        raise UsageError(f"service {text!r}: {_FORMS}") from None
    rng = random.Random(f"{seed} service")
    if kind == "exponential" and b is None and a > 0:
        return [rng.expovariate(1 / a) for _ in range(count)]
    if kind == "uniform" and b is not None and a <= b:
        return [rng.uniform(a, b) for _ in range(count)]
    if kind == "lognormal" and b is not None and a > 0:
        return [rng.lognormvariate(math.log(a), b) for _ in range(count)]
    raise UsageError(f"service {text!r}: {_FORMS}")


def services_by_size(sizes: Sequence[float] | None, each: float) -> list[float]:
    """Seconds of work for each size of a trace, `each` seconds per unit. Raises UsageError if the trace has no
    sizes."""
    if sizes is None:
        raise UsageError("the work by size needs a trace with a column `size`")
    return [size * each for size in sizes]
