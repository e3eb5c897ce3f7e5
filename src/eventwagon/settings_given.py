"""The settings of a train as keywords, for type checkers: the fields of `Settings`, all optional. A test compares."""

from __future__ import annotations

from typing import TypedDict

from .breaker import Breaker
from .limits import Limit
from .settings import AtCap, Auto
from .workers import Workers


class FurtherSettings(TypedDict, total=False):
    """Those that `Train` does not name itself."""

    reuse: bool | None
    keep_warm: float
    idle_after: float
    prepare: float
    wagons: int
    cooldown: float
    hold: float
    observe_every: float
    provision_timeout: float
    provision_attempts: int
    attempts: int | None
    backoff: float
    backoff_most: float
    breaker: Breaker | None
    handler_timeout: float
    visibility: float
    publish_timeout: float
    publish_batch: int
    archive: str | None
    max_event_bytes: int
    grace: float
    member_ttl: float
    lease: float
    keep_drained: float
    keep: int


class GivenSettings(FurtherSettings, total=False):
    """All of them."""

    limit: Limit
    workers: Workers
    spares: int | Auto
    at_cap: AtCap
