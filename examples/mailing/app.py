"""A newsletter and password resets through one mail provider, which takes 20 mails a second.

SMTP_PORT=2525 eventwagon run examples.mailing.app --url redis://localhost
"""

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from email.headerregistry import Address
from email.message import EmailMessage
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

from aiosmtplib import SMTPRecipientsRefused, SMTPResponseException, send

from eventwagon import Budget, Connection, Context, Reject, Snooze, Train, Volume, Wait

HOST, PORT = os.environ.get("SMTP_HOST", "127.0.0.1"), int(os.environ.get("SMTP_PORT", "2525"))
PATIENCE = 2 * 24 * 3600.0
"""Seconds after which a mail that is put off again and again is given up, as mail servers do it."""
PUT_OFF = float(os.environ.get("MAILING_PUT_OFF", "300"))
"""Seconds for which a mail is put off at first, later for a tenth of the time that it has waited."""
ONE_ADDRESS = re.compile(
    r"[\w!#$%&'*+/=?^`{|}~-]+(\.[\w!#$%&'*+/=?^`{|}~-]+)*@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", re.ASCII
)
"""A plain address. A header takes lists, groups and comments, too: what a stranger typed would go to others as well."""

# All processes, both trains and all wagons together keep to the budget. The newsletter takes 15 mails a second of it,
# so resets always have 5. Ask for a little less than the provider allows: mails that begin evenly may arrive bunched.
provider = Budget("mail-provider", rate="20/s")


@dataclass
class Mail:
    to: str
    subject: str
    text: str


# A part of a newsletter is a wagon: pause one (`eventwagon pause newsletter --wagon 3`), and the others go on.
# With `once`, a newsletter that is published twice is sent once.
newsletter = Train("newsletter", limit=Volume(100), spares=1, once=timedelta(days=7), visibility=10)
resets = Train("resets", limit=Wait(2.0), spares=1, once=timedelta(days=1), visibility=10)


async def publish(train: Connection, name: str, to: Iterable[str], subject: str, text: str) -> int:
    """Publish the newsletter of that name; return the number of mails. If it failed on the way, do it again: the ids
    are the same. Raises PublishError."""
    return await train.publish_many(
        (Mail(address, subject, text) for address in to),
        id=lambda mail: str(uuid5(NAMESPACE_URL, f"{name} {mail.to.lower()}")),
    )


@newsletter.on("newsletter", rate="15/s", budget=provider, timeout=30, dead_on=ValueError)
async def send_newsletter(mail: Mail, ctx: Context) -> None:
    await deliver(mail, ctx)


@resets.on("resets", budget=provider, timeout=30, dead_on=ValueError)
async def send_reset(mail: Mail, ctx: Context) -> None:
    await deliver(mail, ctx)


async def deliver(mail: Mail, ctx: Context) -> None:
    """Hand the mail to the provider. If the process dies after the provider took it and before that is recorded, the
    mail is sent twice, with the same Message-ID: by that, mailboxes and you recognize the copy."""
    to = recipient(mail.to)
    message = EmailMessage()  # ValueError: what can't stand in a header, such as a line break in the subject
    message["From"], message["To"], message["Subject"] = "news@example.com", to, mail.subject
    message["Message-ID"] = f"<{quote(ctx.event.id, safe='')}@example.com>"  # the id may be a stranger's
    message.set_content(mail.text)
    try:
        refused, _ = await send(message, recipients=[to.addr_spec], hostname=HOST, port=PORT, timeout=20)
        for answer in refused.values():
            put_off(SMTPResponseException(answer.code, answer.message), ctx)
    except SMTPRecipientsRefused as e:
        put_off(e.recipients[0], ctx)  # a mail has one recipient
    except SMTPResponseException as e:
        put_off(e, ctx)
    # Any other failure, say no connection, is the provider's, not this mail's: it is retried with backoff, and the
    # circuit breaker has one mail at a time try whether the provider is back.


def recipient(text: str) -> Address:
    """Exactly one. Raises Reject."""
    if len(text) > 254 or not ONE_ADDRESS.fullmatch(text):
        raise Reject(f"not one plain mail address: {text[:100]!r}")
    return Address(addr_spec=text)


def put_off(refused: SMTPResponseException, ctx: Context) -> None:
    """5xx: never. 4xx (greylisting, a full mailbox, too many mails): later."""
    reason = f"{refused.code} {refused.message}"
    waited = time.time() - ctx.event.time
    if refused.code >= 500 or waited > PATIENCE:
        raise Reject(reason) from refused
    raise Snooze(min(max(PUT_OFF, waited / 10), 3600.0), reason) from refused
