"""Retry and drop of dead letters at the dashboard: what an order would do, and the order itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ..connection import Connection
from ..display.text import count
from ..policy.letters import DeadFilter, DeadPreview
from ..views.retrying import done_with, left_out, stayed

VERBS = frozenset({"retry", "drop"})


class DeadOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters are meant, and the digest over those that were counted."""

    where: DeadFilter
    digest: str


class DeadAction(msgspec.Struct, frozen=True, kw_only=True):
    """What an order would do. `refused`: why it can't be done now; empty: it can."""

    verb: str
    allowed: bool
    refused: str
    title: str
    effects: Sequence[str]
    warnings: Sequence[str]
    counts: Mapping[str, int]
    digest: str


def action_of(verb: str, train: str, preview: DeadPreview) -> DeadAction:
    """What `verb` would do with the letters of this preview. Pure."""
    concerned = preview.retried if verb == "retry" else preview.count
    effects, warnings = _SAYS[verb](train, preview)
    refused = "" if concerned else "there is none that this could be done with" if preview.count else "there are none"
    return DeadAction(
        verb=verb,
        allowed=not refused,
        refused=refused,
        title=f"{verb.capitalize()} dead letters of {train}",
        effects=effects,
        warnings=warnings,
        counts={"letters": concerned},
        digest=preview.digest,
    )


def _retry(train: str, preview: DeadPreview) -> tuple[list[str], list[str]]:
    into = ", ".join(preview.channels)
    effects = [
        f"{count(preview.retried, 'event')} will be published again, with the same ids, into the active wagon.",
        "Each is taken off the dead letters once it is published.",
    ]
    if into:
        effects.append(f"Those that died in {into} go there.")
    return effects, [
        f"{each[0].upper()}{each[1:]}." for each in left_out(preview, f"`eventwagon dead retry {train}` with ")
    ]


def _drop(train: str, preview: DeadPreview) -> tuple[list[str], list[str]]:
    return [f"{count(preview.count, 'dead letter')} will be deleted."], ["They can't be got back."]


_SAYS = {"retry": _retry, "drop": _drop}


class Incomplete(Exception):
    """The order was carried out in part, or not at all: what was done, and what was not."""


async def carry_out(c: Connection, verb: str, order: DeadOrder, why: str, by: str) -> str:
    """Do it with exactly the letters that were counted. Returns what became of it. Raises Incomplete, and what
    `connection.dead` raises."""
    preview = await c.dead.preview(order.where)
    if preview.digest != order.digest:
        raise Incomplete(
            f"the dead letters with {order.where} have changed since they were counted: now there are "
            f"{preview.count:,}. Nothing was done: look again"
        )
    done = await (c.dead.retry if verb == "retry" else c.dead.drop)(preview, why, by=by)
    if left := stayed(done):
        raise Incomplete(f"{done_with(verb, done)}; {left}")
    return done_with(verb, done)
