"""What is said to those who use another framework's word."""

from __future__ import annotations

from typing import Any

import pytest

from eventwagon import Train, UsageError
from eventwagon.options import Options
from eventwagon.other_words import _HINTS
from eventwagon.settings import Settings


class Hostile(str):
    """A text that can't be used as one."""

    def __format__(self, _: str) -> str:
        raise ZeroDivisionError

    __str__ = __repr__ = __hash__ = __eq__ = __format__  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"retries": 3}, "unknown setting retries: write attempts=, which counts the first one too: attempts=4"),
        ({"max_retries": None}, "max_retries: write attempts=, which counts the first one too"),
        ({"max_tries": 5}, "max_tries: write attempts=5"),
        ({"max_workers": 8}, "max_workers: write workers=Workers(each=8) for those of each wagon, Workers(total=8)"),
        ({"prefetch": 10}, "prefetch: leave it out"),
        ({"queue": "mail"}, "queue: a train is its own queue"),
        ({"broker_url": "redis://u:secret@h"}, "train.connect(url)"),
        ({"time_limit": 1000}, "time_limit: write handler_timeout=, in seconds"),
        ({"atempts": 3}, "atempts: did you mean attempts=?"),
        ({"nonsense": 3}, "unknown setting nonsense; there are: archive, at_cap, attempts"),
        ({"retries": 3, "nonsense": 1}, "unknown setting nonsense, retries (retries: write attempts="),
        ({"retries": 2**70}, "retries: write attempts=, which counts the first one too"),
        ({"retries": Hostile("x"), "queue": Hostile("y")}, "attempts="),
        ({"a\nb": 1}, "unknown setting a"),
    ],
)
def test_of_a_train(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as e:
        Train("t", **given)
    assert says in str(e.value)
    assert "secret" not in str(e.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"retries": 3}, "handler of 'x': unknown option retries: write attempts=, which counts the first one too: "),
        ({"max_retries": 0}, "attempts=1"),
        ({"queue": "mail"}, 'queue: the first argument names the channel: @train.on("mail")'),
        ({"max_workers": 8}, "max_workers: write concurrency=8"),
        ({"autoretry_for": (ValueError,)}, "autoretry_for: write retry_on="),
        ({"batch_size": 100}, "batch_size: write batch=100"),
        ({"nonsense": 3}, "unknown option nonsense; there are: attempts, backoff"),
    ],
)
def test_of_a_handler(given: dict[str, Any], says: str) -> None:
    train = Train("t")
    with pytest.raises(UsageError) as e:
        train.on("x", **given)
    assert says in str(e.value)
    assert not train.handlers


def test_the_words_that_are_said_are_there() -> None:
    """No hint is for a word that can't be reached, and each names settings or options that exist."""
    for word, (of_train, of_handler) in _HINTS.items():
        assert word not in Settings.__struct_fields__ or word not in Options.__struct_fields__
        for hint, known in ((of_train, Settings), (of_handler, Options)):
            if hint.startswith("write "):
                assert hint.removeprefix("write ").partition("=")[0] in known.__struct_fields__, (word, hint)
