"""The measured figures, as they are kept beside the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from .looks import Look
from .measure import Point
from .replayed import Replayed
from .simulate import Simulated

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "scale.json"
BROKERS = ("Redis", "Kafka")
Plan: TypeAlias = Sequence[tuple[int, int, Sequence[tuple[int] | tuple[int, float]]]]
"""How many processes, how many of them observe, and the steps: live wagons, and events a second."""
_FIT = ((1,), (1, 40.0), (4,), (16,), (16, 40.0))
_FEW = ((1,), (16,), (16, 40.0))
_BETWEEN = ((4,), (4, 40.0))
FITTED: Plan = ((1, 1, _FIT), (4, 4, _FIT), (16, 16, _FIT), (16, 1, _FEW))
"""The model is fitted to these."""
CHECKED: Mapping[str, Plan] = {
    "Redis": ((8, 8, _BETWEEN), (24, 24, ((1,), (1, 40.0)))),
    "Kafka": ((2, 2, _BETWEEN), (8, 8, _BETWEEN)),
}
"""The model is compared with these, by broker. More processes on Kafka take more than two cores."""


class Found(msgspec.Struct):
    """What was measured on one broker."""

    points: list[Point] = []
    """The model is fitted to these."""
    checks: list[Point] = []
    """It is compared with these."""


class Figures(msgspec.Struct):
    """All of it."""

    brokers: dict[str, Found] = {}
    looks: list[Look] = []
    replayed: list[Replayed] = []
    simulated: list[Simulated] = []

    def write(self) -> None:
        """Keep them."""
        FIGURES.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


def kept() -> Figures:
    """As they were written last."""
    return msgspec.json.decode(FIGURES.read_bytes(), type=Figures)
