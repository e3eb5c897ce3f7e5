"""`examples/mailing`: one mail for each recipient, within the budget."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from aiosmtpd.smtp import SMTP
from aiosmtplib import SMTPResponseException
from examples.mailing import app
from examples.mailing.app import Mail, deliver, put_off
from examples.mailing.provider import Provider

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


def context(ago: float, identity: str = "1") -> Context:
    """Of a mail that was published so many seconds ago."""
    return Context.fake(Event(identity, type="mail", source="/tests", time=time.time() - ago, data=b"{}"))


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


def sent_to(to: str, folder: Path, monkeypatch: pytest.MonkeyPatch, identity: str = "1") -> list[tuple[str, str]]:
    """Recipient and Message-ID of each mail that the provider took."""
    mailbox = folder / "mails.jsonl"
    mailbox.touch()

    async def deliver_one() -> None:
        loop = asyncio.get_running_loop()
        async with await loop.create_server(
            lambda: SMTP(Provider(mailbox), enable_SMTPUTF8=True), "127.0.0.1"
        ) as server:
            monkeypatch.setattr(app, "PORT", server.sockets[0].getsockname()[1])
            await deliver(Mail(to, "Your password", "Here is your link."), context(ago=0.0, identity=identity))

    try:
        asyncio.run(deliver_one())
    finally:
        found = [json.loads(line) for line in mailbox.read_text().splitlines()]
    return [(mail["to"], mail["id"]) for mail in found]


@pytest.mark.parametrize(
    "to",
    [
        "victim@example.com, attacker@example.net",
        "victim@example.com,attacker@example.net",
        "all: victim@example.com, attacker@example.net;",
        "victim@example.com <attacker@example.net>",
        "attacker@example.net (victim@example.com)",
        "x@ex ample.com",
        "victim@example.com\r\nBcc: attacker@example.net",
        "victim@example.com\n",
        '"victim@example.com, "@example.net',
        "victim@example.com\0",
        "b@..",
        "victim",
        "",
        "a" * 300 + "@example.com",
    ],
)
def test_a_mail_has_exactly_one_recipient(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a stranger typed in as an address: else a password reset would go to others, too."""
    with pytest.raises(Reject, match="not one plain mail address"):
        sent_to(to, tmp_path, monkeypatch)
    assert (tmp_path / "mails.jsonl").read_text() == ""


def test_a_plain_address_gets_its_mail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = sent_to("o'neill+news@mail.example.com", tmp_path, monkeypatch, identity="1> <2")
    assert found == [("o'neill+news@mail.example.com", "<1%3E%20%3C2@example.com>")]


def test_an_unknown_mailbox_is_a_dead_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Reject, match=r"550 .*no such mailbox"):
        sent_to("unknown@example.com", tmp_path, monkeypatch)
