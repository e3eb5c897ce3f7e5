"""How many workers a queue needs: what the feed-forward strategy is sized by. Pure.

It stands for the product's own sizing function, and has a signature that this can take over in one line.
"""

from __future__ import annotations

import math

HEADROOM = 1.2
"""Workers per worker that the rate keeps busy: room for noise, and for catching up."""


def workers_for(*, rate: float, service: float, backlog: int, promise: float, start_up: float, present: int) -> int:
    """The workers that should be there for `rate` arrivals a second of `service` seconds each.

    Beside the rate, what is outstanding and already too much for one promise is worked off within a promise of the
    moment that further workers are ready: `start_up` seconds in which those `present` go on. Never below 0.
    """
    steady = rate * service * HEADROOM
    left = backlog * service - max(0.0, present - rate * service) * start_up
    return math.ceil(max(0.0, steady, rate * service + max(0.0, left) / promise) - 1e-9)
