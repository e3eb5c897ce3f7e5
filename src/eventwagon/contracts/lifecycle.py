"""A wagon's life as a table: everything that can move it is here, and the docs' diagram is drawn from it."""

from __future__ import annotations

from enum import StrEnum

from ..errors import Defect


class State(StrEnum):
    """Where a wagon is in its life. A removed wagon is no longer in the manifest."""

    PROVISIONING = "provisioning"
    READY = "ready"
    ACTIVE = "active"
    DRAINING = "draining"
    DRAINED = "drained"
    REMOVING = "removing"
    FAILED = "failed"


LIVE = (State.PROVISIONING, State.READY, State.ACTIVE, State.DRAINING)
"""The states in which a wagon has workers."""


class Move(StrEnum):
    """What can happen to a wagon."""

    MADE_READY = "made ready"
    LOST = "workers lost"
    ACTIVATED = "activated"
    CUT_OFF = "cut off"
    DISCARDED = "discarded"
    FED = "replay begun"
    PROVEN_EMPTY = "proven empty"
    FOUND_LATE = "late events found"
    REMOVAL_BEGUN = "removal begun"
    GIVEN_UP = "given up"
    REMOVED = "removed"


TRANSITIONS: dict[tuple[State, Move], State | None] = {
    (State.PROVISIONING, Move.MADE_READY): State.READY,
    (State.PROVISIONING, Move.GIVEN_UP): State.FAILED,
    (State.READY, Move.LOST): State.PROVISIONING,
    (State.READY, Move.ACTIVATED): State.ACTIVE,
    (State.READY, Move.DISCARDED): State.DRAINING,
    (State.READY, Move.FED): State.DRAINING,
    (State.ACTIVE, Move.CUT_OFF): State.DRAINING,
    (State.DRAINING, Move.PROVEN_EMPTY): State.DRAINED,
    (State.DRAINING, Move.GIVEN_UP): State.FAILED,
    (State.DRAINED, Move.FOUND_LATE): State.DRAINING,
    (State.DRAINED, Move.REMOVAL_BEGUN): State.REMOVING,
    (State.REMOVING, Move.REMOVED): None,
    (State.FAILED, Move.REMOVED): None,
}


class IllegalMove(Defect):
    """A wagon was asked to make a move that its state does not know."""


def after(state: State, move: Move) -> State | None:
    """The state after `move`; None once removed. Raises IllegalMove."""
    try:
        return TRANSITIONS[state, move]
    except KeyError:
        raise IllegalMove(f"a wagon that is {state} can't be {move}") from None


def diagram() -> str:
    """The table as a Mermaid state diagram (https://mermaid.js.org), for the docs."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.PROVISIONING}"]
    for (state, move), to in TRANSITIONS.items():
        lines.append(f"    {state} --> {to or '[*]'}: {move}")
    return "\n".join(lines) + "\n"
