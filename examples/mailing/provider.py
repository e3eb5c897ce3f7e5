"""A mail provider to send to, a real SMTP server: it limits, greylists, refuses, and writes what it took to a file.

python -m examples.mailing.provider --port 2525 --mailbox mails.jsonl
"""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections import deque
from email import message_from_bytes
from email.policy import default
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

LIMIT = 25
"""How many mails it takes within any second."""
GREYLISTED = 1.0
"""Seconds for which a `grey…` address refuses mails after the first attempt."""


class Provider:
    """The hooks of aiosmtpd."""

    def __init__(self, mailbox: Path) -> None:
        self.mailbox = mailbox
        self.latest = deque[float](maxlen=LIMIT)
        self.seen: dict[str, float] = {}

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("unknown"):
            return "550 5.1.1 no such mailbox"
        if address.startswith("grey"):
            first = self.seen.setdefault(address, time.monotonic())
            if time.monotonic() - first < GREYLISTED:
                return "451 4.7.1 greylisted, try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        now = time.time()
        if len(self.latest) == LIMIT and now - self.latest[0] < 1.0:
            self.write({"at": now, "refused": True})
            return "450 4.7.1 too many mails within a second"
        self.latest.append(now)
        content = envelope.content or b""
        message = message_from_bytes(content if isinstance(content, bytes) else content.encode(), policy=default)
        for address in envelope.rcpt_tos:
            self.write({"at": now, "to": address, "subject": str(message["Subject"]), "id": str(message["Message-ID"])})
        return "250 OK"

    def write(self, entry: dict[str, object]) -> None:
        with self.mailbox.open("a") as file:
            file.write(json.dumps(entry) + "\n")


async def main(port: int, mailbox: Path) -> None:
    ended, loop, provider = asyncio.Event(), asyncio.get_running_loop(), Provider(mailbox)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    async with await loop.create_server(lambda: SMTP(provider, enable_SMTPUTF8=True), "127.0.0.1", port):
        print(f"SMTP at 127.0.0.1:{port}", flush=True)
        await ended.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=2525)
    parser.add_argument("--mailbox", type=Path, default=Path("mails.jsonl"))
    given = parser.parse_args()
    try:
        asyncio.run(main(given.port, given.mailbox))
    except (OSError, OverflowError) as e:
        sys.exit(f"port {given.port}: {e}")
