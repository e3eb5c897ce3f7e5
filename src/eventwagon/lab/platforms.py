"""Presets: where workers run, and how fast more of them start. Pure."""

from __future__ import annotations

import msgspec


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """How a platform adds workers. A Pod stands for whatever it starts at once: a task, a function."""

    about: str
    start: float
    """Seconds from requesting a Pod until its workers work."""
    per_pod: int
    """Workers per Pod."""
    most: int
    """The most workers at a time."""


PLATFORMS: dict[str, Platform] = {
    "kubernetes": Platform(
        about="Pods on nodes that have room and the image: 2 s, measured on the tests' cluster",
        start=2.0,
        per_pod=4,
        most=64,
    ),
    "kubernetes-cold": Platform(
        about="a node has to come first: 60 s, an assumption",
        start=60.0,
        per_pod=4,
        most=64,
    ),
    "lambda": Platform(
        about="functions, one event at a time: a cold start of 0.5 s, an assumption, and AWS' default of 1,000 at "
        "a time",
        start=0.5,
        per_pod=1,
        most=1000,
    ),
    "ecs": Platform(
        about="tasks on Fargate, with an image to fetch: 30 s, an assumption",
        start=30.0,
        per_pod=4,
        most=64,
    ),
}
