"""The newsletter, with all its processes: python examples/mailing/run.py --url redis://127.0.0.1:6379/0"""

import asyncio
import json
import sys
import time
from collections import Counter, deque
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.mailing.app import Mail, newsletter, publish, resets
from examples.processes import Broken, Processes, arguments, free_port, nobody_else, percentile, run, table

from eventwagon import DeadFilter

WORKERS = [f"worker {n}" for n in (1, 2, 3)]
PACE = 2.0
"""Password resets within a second."""
AT_ONCE = 8
"""Mails that the killed worker may have had in flight: that many may be sent twice."""


async def main(url: str, events: int, outage: float) -> None:
    async with AsyncExitStack() as stack:
        news = await stack.enter_async_context(newsletter.connect(url, listeners=()))
        urgent = await stack.enter_async_context(resets.connect(url, listeners=()))
        await nobody_else(news, urgent)  # they would hand mails to another provider
        processes = await stack.enter_async_context(Processes())
        mailbox, port = processes.folder / "mails.jsonl", free_port()
        provider = ["-m", "examples.mailing.provider", "--port", str(port), "--mailbox", str(mailbox)]
        await processes.start("provider", *provider)
        for name in WORKERS:
            environment = {"EVENTWAGON_URL": url, "SMTP_PORT": str(port), "MAILING_PUT_OFF": "2"}
            await processes.start(name, "-m", "eventwagon", "run", "examples.mailing.app", environment=environment)

        async def ready() -> bool:
            at_work = await processes.at_work(news, urgent)
            return at_work >= 2 * len(WORKERS) and "SMTP" in processes.log("provider")

        await processes.until("the workers and the provider are ready", ready)
        no_such = DeadFilter(channel="", error="no such mailbox")
        earlier = (await news.dead.preview(no_such)).count  # of an earlier run

        async def dead() -> int:
            return (await news.dead.preview(no_such)).count - earlier

        print(f"{len(WORKERS)} workers and an SMTP server are up: {events} get the newsletter ...", flush=True)
        this_run = f"{uuid4().hex[:8]}.example.com"
        grey, unknown = max(1, events // 20), max(1, events // 50)
        addresses = [f"reader{n}@{this_run}" for n in range(events - grey - unknown)]
        addresses += [f"grey{n}@{this_run}" for n in range(grey)]
        addresses += [f"unknown{n}@{this_run}" for n in range(unknown)]
        addresses.sort(key=lambda address: address[::-1])  # mixed
        began = time.time()
        for _ in range(2):  # somebody starts it twice
            await publish(news, this_run, addresses, "News", "There is news.")
        asked: dict[str, float] = {}
        over = asyncio.Event()

        async def forgetful() -> None:
            while not over.is_set():
                address = f"forgot{len(asked)}@{this_run}"
                asked[address] = time.time()
                await urgent.publish(Mail(address, "Your password", "Here is your link."))
                with suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), 1 / PACE)

        async def trouble() -> None:
            await processes.until("a third was sent", lambda: sent(len(addresses) // 3))
            await processes.kill(WORKERS[0])
            if outage:
                await processes.kill("provider")
                await asyncio.sleep(outage)  # how long it is away
                await processes.start("provider", *provider)
            await processes.until("each mail was sent", lambda: sent(len(addresses) - unknown), 60 + events / 10)
            over.set()

        async def sent(count: int) -> bool:
            return len({mail["to"] for mail in mails(mailbox) if mail["subject"] == "News"}) >= count

        async def settled() -> bool:
            return len({mail["to"] for mail in mails(mailbox)} & asked.keys()) == len(asked) and await refused()

        async def refused() -> bool:
            return await dead() >= unknown

        async with asyncio.TaskGroup() as group:
            group.create_task(forgetful())
            group.create_task(trouble())
        await processes.until("each reset was sent, and what the provider refused is in the dead letters", settled)

        taken = mails(mailbox)
        waits = [mail["at"] - asked[mail["to"]] for mail in taken if mail["to"] in asked]
        twice = sum(count - 1 for count in Counter(mail["id"] for mail in taken).values())
        recipients = Counter(mail["to"] for mail in taken)
        took = max(mail["at"] for mail in taken if mail["subject"] == "News") - began
        rows: list[tuple[str, object]] = [
            ("newsletter, published twice", f"{len(addresses)} recipients, sent in {took:.1f} s"),
            ("mails within any second", f"{busiest([mail['at'] for mail in taken])} at most; the budget is 20"),
            ("refused for being too many", len(lines(mailbox)) - len(taken)),
            ("greylisted first, then sent", f"{sum(a.startswith('grey') for a in recipients)} of {grey}"),
            ("no such mailbox: dead letters", f"{await dead()} of {unknown}"),
            ("password resets meanwhile", len(asked)),
            ("wait of a reset", f"p50 {percentile(waits, 50):.2f} s, p99 {percentile(waits, 99):.2f} s"),
            ("workers killed", 1),
            ("provider away", f"{outage:g} s"),
            ("mails sent twice (same Message-ID)", twice),
        ]
        print(table("A newsletter and password resets", rows), flush=True)
        expected = {*asked, *(a for a in addresses if not a.startswith("unknown"))}
        if recipients.keys() != expected:
            raise Broken(f"{len(expected - recipients.keys())} recipients got no mail")
        if twice > AT_ONCE:
            raise Broken(f"{twice} mails were sent twice: more than the killed worker had in flight")


def lines(mailbox: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in mailbox.read_text().splitlines()] if mailbox.exists() else []


def mails(mailbox: Path) -> list[dict[str, Any]]:
    """What the provider took."""
    return [line for line in lines(mailbox) if "to" in line]


def busiest(times: list[float]) -> int:
    """The most within any second."""
    window, most = deque[float](), 0
    for at in sorted(times):
        window.append(at)
        while at - window[0] >= 1.0:
            window.popleft()
        most = max(most, len(window))
    return most


if __name__ == "__main__":
    parser = arguments(__doc__, events=200, what="recipients of the newsletter")
    parser.add_argument("--outage", type=float, default=0.0, metavar="SECONDS", help="the provider is away for so long")
    given = parser.parse_args()
    sys.exit(run(main(given.url, given.events, given.outage)))
