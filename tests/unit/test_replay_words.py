"""A replay or an undo in one line."""

from __future__ import annotations

from eventwagon.contracts.replay import PastEvents, Replay
from eventwagon.contracts.undo import Slice, Undo
from eventwagon.views.replays import replay_in_words


def test_an_undo_that_has_stopped_says_what_to_do() -> None:
    undo = Undo(wagon=1, kept=(), whole=3, slice=Slice(channel="mail", count=3), stopped="1 dead letter")
    replay = Replay(number=6, of=PastEvents(wagon=1), count=3, why="prices", at=0.0, undo=undo)
    words = replay_in_words(replay, "shop", waits=False)
    assert words.endswith(": eventwagon undo shop --resume 6, or --cancel 6")
