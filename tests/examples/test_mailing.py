"""`examples/mailing`: one mail for each recipient, within the budget."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from aiosmtplib import SMTPResponseException
from examples.mailing.app import put_off

from eventwagon import Context, Event, Reject, Snooze
from tests.examples.support import numbers, running
from tests.servers.server import Server


@pytest.mark.slow
def test_a_worker_is_killed_and_the_provider_is_away_for_a_while(redis_server: Server, tmp_path: Path) -> None:
    """The run itself fails if a recipient got no mail, or if more came twice than the killed worker had in flight."""
    with running("mailing", redis_server.url, tmp_path, "--events", "60", "--outage", "1") as example:
        found = example.table()
    assert numbers(found["newsletter, published twice"])[0] == 60
    assert numbers(found["mails within any second"])[0] <= 25  # the budget is 20, and mails may arrive bunched
    assert found["greylisted first, then sent"] == "3 of 3"
    assert found["no such mailbox: dead letters"] == "1 of 1"
    assert numbers(found["wait of a reset"])[1] < 2.0, found  # the median
    assert (found["workers killed"], found["provider away"]) == ("1", "1 s")


def context(ago: float) -> Context:
    """Of a mail that was published so many seconds ago."""
    return Context.fake(Event("1", type="mail", source="/tests", time=time.time() - ago, data=b"{}"))


@pytest.mark.parametrize("code", [450, 451, 421])
def test_what_the_provider_puts_off_comes_again_later(code: int) -> None:
    with pytest.raises(Snooze) as caught:
        put_off(SMTPResponseException(code, "later"), context(ago=0.0))
    assert caught.value.after == 300.0
    with pytest.raises(Reject, match=f"{code} later"):
        put_off(SMTPResponseException(code, "later"), context(ago=3 * 24 * 3600.0))


def test_what_the_provider_refuses_is_never_sent_again() -> None:
    with pytest.raises(Reject, match="550 no such mailbox"):
        put_off(SMTPResponseException(550, "no such mailbox"), context(ago=0.0))
