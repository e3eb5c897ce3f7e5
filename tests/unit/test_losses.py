"""What went from the broker without being settled is counted once, whoever looks."""

from __future__ import annotations

from itertools import count

from eventwagon.contracts.broker import Depth
from eventwagon.contracts.facts import sentence
from eventwagon.contracts.manifest import Manifest, Wagon
from eventwagon.event import Channel
from eventwagon.policy.edits import letters_lost
from eventwagon.policy.losses import Losses, of_letters

INGRESS, INNER = Channel("t", 1), Channel("t", 1, "mail")
UNKNOWN = Depth()


def depth(published: int, settled: int, lost: int = 0) -> Depth:
    return Depth(published=published, settled=settled, waiting=published - settled, in_flight=0, lost=lost)


CLOCK = count(0.0, 6.0)


def look(losses: Losses, told: int = 0, **depths: Depth) -> int:
    """Six seconds after the one before. The channels by name; one of which nothing is known is not there."""
    channels = {"ingress": INGRESS, "inner": INNER}
    losses.look({channels[name]: d for name, d in depths.items()}, (), {1: told}, now=next(CLOCK))
    return losses.of(1)


def test_what_the_driver_counts_is_counted_once() -> None:
    losses = Losses(totals=True)
    assert look(losses, ingress=depth(4, 0, lost=6)) == 6
    assert look(losses, told=6, ingress=depth(4, 0, lost=6)) == 6
    assert look(losses, told=6, ingress=depth(2, 0, lost=8)) == 8
    assert "retention" in losses.why(1)
    another = Losses(totals=True)
    assert look(another, told=8, ingress=depth(2, 0, lost=8)) == 8


def test_a_channel_that_stays_away_has_vanished_and_its_events_with_it() -> None:
    losses = Losses(totals=True)
    look(losses, ingress=depth(10, 3), inner=depth(2, 2))
    assert look(losses, ingress=UNKNOWN, inner=depth(2, 2)) == 0
    assert not losses.missing
    assert look(losses, ingress=UNKNOWN, inner=UNKNOWN) == 0
    assert losses.missing == {INGRESS}
    assert not losses.vanished
    look(losses, ingress=UNKNOWN, inner=UNKNOWN)
    for _ in range(3):
        assert look(losses, ingress=UNKNOWN, inner=UNKNOWN) == 7
    assert losses.vanished == {INGRESS: 7, INNER: 0}
    assert losses.why(1) == (
        "t_v1 has vanished from the broker: deleted, evicted, or not in the copy that the broker was restored from"
    )


def test_a_channel_whose_events_can_only_be_read_is_so_in_two_passes_and_for_good_later() -> None:
    losses, stuck = Losses(totals=True), Depth(undeliverable=True)
    look(losses, ingress=stuck, inner=depth(2, 2))
    assert not losses.undeliverable
    look(losses, ingress=stuck, inner=depth(2, 2))
    assert losses.undeliverable == {INGRESS: False}
    look(losses, ingress=stuck, inner=depth(2, 2))
    assert losses.undeliverable == {INGRESS: True}
    assert not losses.missing
    look(losses, ingress=depth(2, 0), inner=depth(2, 2))
    assert not losses.undeliverable


def test_an_unknown_channel_that_is_there_is_not_gone() -> None:
    losses = Losses(totals=True)
    for _ in range(3):
        losses.look({INGRESS: UNKNOWN}, (INGRESS,), {1: 0}, now=next(CLOCK))
    assert not losses.missing


def test_a_channel_that_comes_back_has_lost_nothing() -> None:
    losses = Losses(totals=True)
    look(losses, ingress=depth(10, 3))
    look(losses, ingress=UNKNOWN)
    assert look(losses, ingress=UNKNOWN) == 0
    assert look(losses, ingress=depth(10, 3)) == 0
    for lost in (0, 0, 7):
        assert look(losses, ingress=UNKNOWN) == lost
    assert look(losses, ingress=depth(10, 3)) == 0
    assert not losses.vanished


def test_how_many_went_with_a_channel_that_was_never_seen_is_not_known() -> None:
    losses = Losses(totals=True)
    for _ in range(3):
        assert look(losses, ingress=UNKNOWN) == 0
    assert losses.vanished == {INGRESS: None}
    assert "vanished" in losses.why(1)


def test_totals_that_fall_are_a_loss_where_they_never_fall_by_themselves() -> None:
    losses, other = Losses(totals=True), Losses(totals=False)
    for each, lost in ((losses, 3), (other, 0)):
        look(each, ingress=depth(10, 3))
        assert look(each, ingress=depth(7, 3)) == lost
        assert look(each, told=lost, ingress=depth(9, 3)) == lost
    assert "older copy" in losses.why(1)


def test_what_was_settled_comes_again_and_is_not_lost() -> None:
    losses = Losses(totals=True)
    look(losses, ingress=depth(100, 100))
    assert look(losses, ingress=depth(90, 80)) == 0


def test_several_observers_count_a_loss_once() -> None:
    """The second one looks when the first has told it; a third came after that."""
    first, second, third = (Losses(totals=True) for _ in range(3))
    for each in (first, second):
        look(each, ingress=depth(10, 3))
    assert look(first, ingress=depth(7, 3)) == 3
    assert look(second, told=3, ingress=depth(7, 3)) == 3
    assert look(third, told=3, ingress=depth(7, 3)) == 3
    for each in (first, second, third):
        for lost in (3, 3, 3 + 4):
            assert look(each, told=3, ingress=UNKNOWN) == lost


def test_of_a_wagon_that_the_manifest_forgot() -> None:
    losses = Losses(totals=True)
    look(losses, ingress=depth(10, 3), inner=depth(5, 5))
    assert losses.without((1,), ()) == {}
    assert losses.without((), (INGRESS,)) == {}
    assert losses.without((), ()) == {1: 7}


def test_dead_letters_that_go_are_told_once() -> None:
    """Nobody settles them: what looks settled was removed, where a broker counts exactly."""
    assert of_letters(depth(5, 2), exact=True) == Depth(published=3, settled=0, waiting=3, in_flight=0, lost=2)
    assert of_letters(depth(5, 2), exact=False).lost == 0
    assert of_letters(UNKNOWN, exact=True) == UNKNOWN
    m = Manifest(train="t", wagons=(Wagon(number=1, opened_at=0.0),), next_number=2)
    why = {0: "evicted", 1: "by hand", 2: "-"}
    told = letters_lost(m, {0: 3, 1: 2, 2: 9}, why)
    assert (told.manifest.letters_lost, told.manifest.wagons[0].letters_lost) == (3, 2)
    assert list(map(sentence, told.facts)) == [
        "3 dead letters of removed wagons disappeared from the broker: evicted",
        "2 dead letters of t_v1 disappeared from the broker: by hand",
    ]
    again = letters_lost(told.manifest, {0: 3, 1: 2}, why)
    assert again.manifest is told.manifest
    (more,) = letters_lost(told.manifest, {0: 3, 1: 5}, why).facts
    assert sentence(more) == "3 dead letters of t_v1 disappeared from the broker (5 in all): by hand"


def test_dead_letters_at_the_removal_of_their_wagon() -> None:
    """What was seen and not found is lost. What another process had moved before, or has reported, is not."""
    dead = Channel("t", 1, "dead")

    def seen(told: int = 0) -> Losses:
        losses = Losses(totals=True)
        losses.look({dead: depth(5, 0)}, (dead,), {0: 0, 1: told}, now=0.0)
        losses.look({}, (), {0: 0}, now=5.0, ending={1})
        return losses

    losses = seen()
    assert [losses.end(dead, depth(5, 0), 5, 0), losses.end(dead, UNKNOWN, 5, 0)] == [0, 0]
    losses = seen()
    assert [losses.end(dead, UNKNOWN, 0, 0), losses.end(dead, UNKNOWN, 0, 5)] == [5, 5]
    assert "vanished" in losses.why(1)
    assert seen().end(dead, UNKNOWN, 3, 2) == 2
    assert seen(told=1).end(dead, depth(5, 0), 5, 1) == 1
    assert seen().end(dead, of_letters(depth(5, 2), exact=True), 3, 0) == 2
    assert seen().end(dead, depth(5, 0, lost=1), None, 0) == 1
    assert Losses(totals=True).end(dead, UNKNOWN, 0, 4) == 4
    gone = seen()
    gone.look({}, (), {0: 0}, now=10.0)
    assert gone.end(dead, UNKNOWN, 0, 0) == 0
