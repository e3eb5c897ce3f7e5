"""The values that a command gets, in its environment and in the braces of its arguments. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from ....contracts.orchestrator import WagonSpec
from ....errors import UsageError

PLACEHOLDERS = ("train", "wagon", "unit", "revision", "copy", "port", "ingress", "dead_letters", "grace")
ENVIRONMENT = (
    "EVENTWAGON_URL",
    "EVENTWAGON_TRAIN",
    "EVENTWAGON_WAGON",
    "EVENTWAGON_UNIT",
    "EVENTWAGON_REVISION",
    "EVENTWAGON_WORKERS",
    "EVENTWAGON_COPY",
    "EVENTWAGON_PORT",
    "EVENTWAGON_INGRESS",
    "EVENTWAGON_DEAD_LETTERS",
    "EVENTWAGON_CHANNELS",
    "EVENTWAGON_GRACE",
    "EVENTWAGON_RUN",
)
"""The environment variables of a command."""

_BRACES = re.compile(r"\{(" + "|".join(PLACEHOLDERS) + r")\}")


def placeholders(spec: WagonSpec, names: Mapping[str, str], *, copy: int, port: int, grace: float) -> dict[str, str]:
    """The values of the placeholders. `names`: the broker's names of the channels, if they differ."""
    ingress, dead = str(spec.channels[0]), str(spec.dead_letters)
    return {
        "train": spec.train,
        "wagon": str(spec.number),
        "unit": str(spec.unit),
        "revision": spec.revision,
        "copy": str(copy),
        "port": str(port),
        "ingress": names.get(ingress, ingress),
        "dead_letters": names.get(dead, dead),
        "grace": f"{grace:.0f}",
    }


def environment(spec: WagonSpec, names: Mapping[str, str], values: Mapping[str, str], url: str) -> dict[str, str]:
    """The same values as environment variables, and those that don't fit into an argument. `values` is the result of
    `placeholders`."""
    channels = {c.name: names.get(str(c), str(c)) for c in spec.channels}
    return {
        "EVENTWAGON_URL": url,
        "EVENTWAGON_WORKERS": str(spec.workers),
        "EVENTWAGON_CHANNELS": msgspec.json.encode(channels).decode(),
        **{f"EVENTWAGON_{name.upper()}": value for name, value in values.items()},
    }


def render(text: str, values: Mapping[str, str]) -> str:
    """`text` with its placeholders filled in. Other braces stay as they are."""
    return _BRACES.sub(lambda m: values[m[1]], text)


def checked(argv: Sequence[str], what: str) -> tuple[str, ...]:
    """Return the command unchanged if it is valid. Raises UsageError."""
    if isinstance(argv, str) or not argv or not argv[0]:
        raise UsageError(f"{what}={argv!r}: give a list, the program first: ['node', 'consumer.js', '{{wagon}}']")
    return tuple(argv)
