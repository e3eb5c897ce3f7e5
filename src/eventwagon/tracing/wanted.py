"""Whether traces, or metrics, are wanted, by the environment variables of OpenTelemetry."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Protocol

from ..runtime.bulkhead import log_safely
from ..runtime.handler import Handler
from ..runtime.middleware import Middleware
from ..settings import Settings

_logger = logging.getLogger("eventwagon")
INSTALL = "pip install 'eventwagon[otel]'"
_told: set[str] = set()
"""What was told already: each once in a process."""


class Traced(Protocol):
    """What is needed of a train: a `Train` is one."""

    name: str
    revision: str
    settings: Settings
    handlers: dict[str, Handler]
    around_handling: list[Middleware]
    around_publishing: list[Middleware]


def is_wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment asks for traces: `OTEL_TRACES_EXPORTER` names an exporter other than `none`, or it is not
    set and an OTLP endpoint is; and `OTEL_SDK_DISABLED` is not `true`."""
    return bool(exporters(environment))


def exporters(environment: Mapping[str, str] = os.environ, *, of: str = "TRACES") -> list[str]:
    """The names of the exporters that the environment asks for; `of` may be `METRICS`."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    given = environment.get(f"OTEL_{of}_EXPORTER", "").strip()
    if not given:
        endpoints = f"OTEL_EXPORTER_OTLP_{of}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
        return ["otlp"] if any(environment.get(each, "").strip() for each in endpoints) else []
    return [name for each in given.split(",") if (name := each.strip().lower()) not in ("", "none")]


def tell(why: str) -> None:
    """Log, once in a process, why something is not traced."""
    if why not in _told:
        _told.add(why)
        log_safely(_logger, logging.WARNING, "the environment asks for traces, which fails: %s", why)


def missing(error: ImportError) -> str:
    """What to say of a package that is not installed."""
    return f"traces need {error.name or 'opentelemetry'}, which is not installed: {INSTALL}"
