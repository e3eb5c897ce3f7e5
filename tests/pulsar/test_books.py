"""What counts as settled and what as lost when a server drops events, without a server."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from eventwagon.drivers.pulsar.books import PROVEN, Books, Expired, Note, TopicTotals
from eventwagon.drivers.pulsar.policies import Level, dropping, of_server

DAY = 86_400.0


class Topic:
    """A topic as the server keeps it: ledgers of ten entries, and two cursors. If it `trims`, ledgers that both have
    passed are no more."""

    def __init__(self, *, trims: bool = False) -> None:
        self.trims = trims
        self.published = 0
        self.acked: set[int] = set()
        """Ordinals settled, by hand or by being dropped, as the server sees it."""
        self.settled: set[int] = set()
        """Settled in truth."""
        self.dropped = 0

    def ack(self, number: int) -> None:
        if number not in self.acked:
            self.settled.add(number)
        self.acked.add(number)

    def drop(self, upto: int) -> None:
        self.acked |= set(range(1, upto + 1))
        self.dropped = max(self.dropped, upto)

    def stats(self) -> dict[str, Any]:
        mark = 0
        while mark + 1 in self.acked:
            mark += 1
        keep = min(mark, self.dropped) // 10 if self.trims else 0
        ledgers = [
            {"ledgerId": 3 + n, "entries": min(10, self.published - 10 * n)}
            for n in range(keep, max(self.published - 1, 10 * keep) // 10 + 1)
        ]
        ranges = ",".join(f"({at(n - 1)}..{at(n)}]" for n in sorted(self.acked) if n > mark)
        cursor = {"readPosition": at(mark + 1), "individuallyDeletedMessages": f"[{ranges}]"}
        return {
            "ledgers": ledgers,
            "lastConfirmedEntry": at(self.published),
            "state": "LedgerOpened",
            "cursors": {
                "eventwagon": {"markDeletePosition": at(mark), **cursor},
                "eventwagon-totals": {"markDeletePosition": at(self.dropped), **cursor},
            },
        }


def at(number: int) -> str:
    return f"{3 + (number - 1) // 10}:{(number - 1) % 10}" if number else "3:-1"


def look(books: Books, topic: Topic, now: float, **more: Any) -> TopicTotals:
    found = books.snapshot(topic.stats(), "eventwagon", "eventwagon-totals")
    assert found is not None
    return books.look(found, now, **{"threatened": False, **more})


STEPS = st.lists(st.tuples(st.sampled_from(["publish", "ack", "drop", "restart"]), st.integers(1, 12)), max_size=40)


@given(STEPS, st.booleans())
def test_who_looks_at_each_step_knows_exactly(steps: list[tuple[str, int]], threatened: bool) -> None:
    """Also across processes, by what the one before has noted."""
    topic, books, now, lost = Topic(trims=True), Books(), 0.0, 0
    stored: Note | None = None
    look(books, topic, now, threatened=threatened)
    for step, number in steps:
        before = topic.acked - topic.settled
        match step:
            case "publish":
                topic.published += number
            case "ack" if number <= topic.published:
                topic.ack(number)
            case "drop" if number <= topic.published:
                topic.drop(number)
            case "restart" if stored is not None:
                books = Books()
                books.learn(Note.of(stored.properties()))
        figures = None
        for _ in range(3):
            now += PROVEN * 3
            figures = look(books, topic, now, threatened=threatened)
            lost += figures.fresh
            if threatened or books.due(now, threatened=threatened):
                stored = books.note
                books.stored(now)
        assert figures is not None
        gone = topic.acked - topic.settled
        assert before <= gone
        assert figures.lost == len(gone) == lost
        assert figures.settled == len(topic.settled)
        assert figures.published == topic.published - len(gone)


@given(STEPS)
def test_nothing_that_was_dropped_ever_counts_as_settled(steps: list[tuple[str, int]]) -> None:
    """Whoever looks, and however seldom; and all adds up."""
    topic, books, now = Topic(), Books(), 0.0
    look(books, topic, now)
    for step, number in steps:
        now += 1.0
        match step:
            case "publish":
                topic.published += number
            case "ack" if number <= topic.published:
                topic.ack(number)
            case "drop" if number <= topic.published:
                topic.drop(number)
            case "restart":
                figures = look(books, topic, now)
                assert figures.lost >= len(topic.acked - topic.settled)
                assert figures.settled <= len(topic.settled)
                assert figures.published + figures.lost == topic.published


def test_the_cursors_are_moved_one_after_the_other() -> None:
    """While a policy threatens, what seems to be settled is believed when nothing has turned out to be dropped."""
    topic, books = Topic(), Books()
    topic.published = 10
    topic.ack(1)
    look(books, topic, 0.0, threatened=True)
    topic.acked |= {2, 3, 4}  # dropped, and the other subscription will follow
    figures = look(books, topic, 1.0, threatened=True)
    assert (figures.published, figures.settled, figures.lost) == (10, 1, 0)
    topic.drop(4)
    figures = look(books, topic, 1.5, threatened=True)
    assert (figures.published, figures.settled, figures.lost, figures.fresh) == (7, 1, 3, 3)
    topic.ack(5)
    look(books, topic, 2.0, threatened=True)
    figures = look(books, topic, 2.0 + PROVEN, threatened=True)
    assert (figures.published, figures.settled, figures.lost, figures.fresh) == (7, 2, 3, 0)


def test_what_this_process_has_settled_is_known() -> None:
    topic, books = Topic(), Books()
    topic.published = 10
    look(books, topic, 0.0)
    topic.ack(2)
    topic.drop(5)
    figures = look(books, topic, 1.0, own={(3, 1), (3, 7), (9, 9)})
    assert (figures.settled, figures.lost) == (1, 4)


def test_who_comes_later_without_a_note() -> None:
    """The server's own count says what was lost, where it goes back far enough; else all counts as lost."""
    topic = Topic()
    topic.published = 20
    for number in range(1, 11):
        topic.ack(number)
    topic.drop(15)
    assert look(Books(), topic, 0.0, expired=Expired(events=5, totals=15))[:3] == (15, 10, 5)
    assert look(Books(), topic, 0.0, expired=Expired(events=0, totals=0))[:3] == (5, 0, 15)
    healthy = Topic()
    healthy.published = 20
    for number in range(1, 16):
        healthy.ack(number)
    healthy.drop(7)
    assert look(Books(), healthy, 0.0, expired=Expired(events=0, totals=7))[:3] == (20, 15, 0)


def test_a_note_that_is_not_ours() -> None:
    for found in ({}, {"dropped": "x"}, {**Note().properties(), "kept": "many"}):
        assert Note.of(found) is None
    full = Note(dropped=(3, 4), kept=2, mark="3:1", ranges="[(3:2..3:3]]", ledgers={3: 10, 4: 2})
    assert Note.of(full.properties()) == full


def test_the_level_that_decides() -> None:
    server = of_server(
        {
            "ttlDurationDefaultInSeconds": "60",
            "backlogQuotaDefaultRetentionPolicy": "consumer_backlog_eviction",
            "backlogQuotaDefaultLimitGB": "-1.0",
            "backlogQuotaDefaultLimitSecond": "-1",
            "brokerDeleteInactiveTopicsEnabled": "true",
            "brokerDeleteInactiveTopicsMode": "delete_when_no_subscriptions",
        }
    )
    (finding,) = dropping({"server": server}, "a/b")  # the quota has no limit, and our topics have subscriptions
    assert finding.what == "server: message TTL of 60 s"
    assert "namespaces set-message-ttl --messageTTL 0 a/b" in finding.todo
    assert dropping({"server": server, "namespace": Level(ttl=0)}, "a/b") == []
    own = dropping({"server": server, "topic": Level(ttl=5)}, "a/b", "persistent://a/b/c")
    assert [f.todo for f in own] == ["pulsar-admin topicPolicies remove-message-ttl persistent://a/b/c"]
    assert dropping({}, "a/b") == []
    quota = {"message_age": {"limitTime": 60, "policy": "consumer_backlog_eviction"}}
    (finding,) = dropping({"namespace": Level(quotas=quota)}, "a/b")
    assert "backlog quota of 60 s" in finding.what
