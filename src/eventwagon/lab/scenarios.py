"""Named bursts, and the work in them: what a user without a trace begins with. Pure."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence

import msgspec

from ..errors import UsageError
from .arrivals import black_friday, shaped


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A burst with its usual figures. Times in seconds."""

    about: str
    arrivals: Callable[[int, float, int], list[float]]
    """Of (events, seconds, seed)."""
    events: int
    seconds: float
    service: str
    workers: int
    slo: float


def _decaying(events: int, seconds: float, seed: int) -> list[float]:
    """A jump at the start that dies away."""
    steps = [i / 20 for i in range(21)]
    return shaped(
        [(0.0, 0.05), (0.05, 0.05), *((0.06 + 0.94 * x, math.exp(-3.0 * x)) for x in steps)], events, seconds, seed=seed
    )


def _volleys(events: int, seconds: float, seed: int) -> list[float]:
    """Devices that report at the same minute: eight short volleys over a quiet ground."""
    shape = [(0.0, 0.2)]
    for n in range(8):
        at = (n + 0.5) / 8
        shape += [(at - 0.011, 0.2), (at - 0.01, 6.0), (at + 0.01, 6.0), (at + 0.011, 0.2)]
    return shaped([*shape, (1.0, 0.2)], events, seconds, seed=seed)


def _opened(events: int, seconds: float, seed: int) -> list[float]:
    """A message to everybody: most look within seconds, the others by and by."""
    return shaped([(0.0, 0.0), (0.02, 10.0), (0.1, 4.0), (0.2, 0.8), (1.0, 0.1)], events, seconds, seed=seed)


SCENARIOS: dict[str, Scenario] = {
    "black-friday": Scenario(
        about="15,000 sign-ups in two minutes: quiet, the doors open, a rush, a second wave",
        arrivals=lambda events, seconds, seed: black_friday(events, seconds, seed=seed),
        events=15_000, seconds=120.0, service="0.1", workers=8, slo=2.0,
    ),
    "steady": Scenario(
        about="15,000 sign-ups in two minutes at one rate: the fixed workers are too few all the time",
        arrivals=lambda events, seconds, seed: shaped([(0.0, 1.0), (1.0, 1.0)], events, seconds, seed=seed),
        events=15_000, seconds=120.0, service="0.1", workers=8, slo=2.0,
    ),
    "logins": Scenario(
        about="6,000 logins in a minute: a jump that dies away",
        arrivals=_decaying, events=6_000, seconds=60.0, service="0.05", workers=4, slo=1.0,
    ),
    "iot": Scenario(
        about="12,000 readings in two minutes: devices that report at the same moment, eight times",
        arrivals=_volleys, events=12_000, seconds=120.0, service="0.05", workers=6, slo=3.0,
    ),
    "push": Scenario(
        about="10,000 reactions to a message to everybody, most in the first seconds",
        arrivals=_opened, events=10_000, seconds=60.0, service="0.05", workers=8, slo=3.0,
    ),
}  # fmt: skip

_CALL = re.compile(r"(exponential|uniform|lognormal)\(\s*([\d.]+)\s*(?:,\s*([\d.]+)\s*)?\)")
_FORMS = "give seconds (0.1), exponential(mean), uniform(least, most) or lognormal(median, sigma)"


def services(text: str, count: int, *, seed: int = 0) -> list[float]:
    """Seconds of work for each of `count` events, as `text` says. Raises UsageError."""
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
    """Seconds of work from a trace's sizes, `each` second a unit. Raises UsageError where the trace has none."""
    if sizes is None:
        raise UsageError("the work by size needs a trace with a column `size`")
    return [size * each for size in sizes]
