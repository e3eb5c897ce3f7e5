"""The surge, with all its processes: python examples/signups/run.py --url redis://127.0.0.1:6379/0"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
from redis.asyncio import Redis

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.processes import PATIENCE, Broken, Processes, arguments, free_port, percentile, run, table
from examples.signups.app import IDENTITY_SERVICE, signups

LATER, PACE = 50, 20.0
"""How many sign up after the surge, and how many of them in a second."""
CLIENTS = 40
WORKERS = [f"worker {n}" for n in (1, 2, 3)]


@dataclass
class Surge:
    """Clients that sign up over HTTP, each of them until it has its 202."""

    web: httpx.AsyncClient
    accepted: list[str] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)

    async def sign_up(self, email: str, deadline: float) -> None:
        """As a browser does it: the same key for each attempt. Raises Broken after the deadline."""
        while time.monotonic() < deadline:
            try:
                answer = await self.web.post(
                    "/signups", json={"email": email, "name": "A. Customer"}, headers={"Idempotency-Key": email}
                )
            except httpx.TransportError:
                self.answers[0] += 1
                await asyncio.sleep(0.5)
                continue
            self.answers[answer.status_code] += 1
            if answer.status_code == 202:
                self.accepted.append(email)
                return
            if answer.status_code not in (429, 503):
                raise Broken(f"{email} got {answer.status_code}: {answer.text}")
            await asyncio.sleep(float(answer.headers["Retry-After"]))
        raise Broken(f"{email} got no 202 within {PATIENCE:g} s")

    async def all_at_once(self, emails: list[str]) -> None:
        waiting, deadline = iter(emails), time.monotonic() + PATIENCE

        async def client() -> None:
            for email in waiting:
                await self.sign_up(email, deadline)

        async with asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS):
                clients.create_task(client())


async def main(url: str, events: int) -> None:
    async with (
        signups.connect(url, listeners=()) as train,
        Redis.from_url(url, decode_responses=True) as store,
        Processes() as processes,
    ):
        environment = {"EVENTWAGON_URL": url, "SIGNUPS_STORE": url}
        for name in WORKERS:
            await processes.start(
                name, "-m", "eventwagon", "run", "examples.signups.app:signups", environment=environment
            )
        port = free_port()
        uvicorn = ["-m", "uvicorn", "examples.signups.web:app", "--port", str(port), "--no-access-log"]
        await processes.start("web", *uvicorn, environment=environment)

        this_run = uuid4().hex[:8]  # the store may hold accounts of earlier runs
        crowd = [f"crowd{n}@{this_run}.example.com" for n in range(events)]
        later = [f"later{n}@{this_run}.example.com" for n in range(LATER)]

        async def found(where: str, emails: list[str]) -> dict[str, str]:
            """What the store has of them."""
            entries = zip(emails, await store.hmget(where, emails), strict=True)
            return {email: str(text) for email, text in entries if text is not None}

        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10, limits=limits) as web:

            async def ready() -> bool:
                return await processes.at_work(train) >= len(WORKERS) and await answers(web, "/ready")

            await processes.until("the workers and the web server are ready", ready)
            first = train.manifest.wagons[0].number
            print(f"{len(WORKERS)} workers and a web server are up: {events:,} sign up ...", flush=True)
            surge, began = Surge(web), time.monotonic()
            async with asyncio.TaskGroup() as group:
                group.create_task(surge.all_at_once(crowd))
                group.create_task(kill_in_the_middle(processes, surge, events))
            took = time.monotonic() - began
            waiting = len(crowd) - len(await found("signups:accounts", crowd))
            for email in later:
                await surge.sign_up(email, time.monotonic() + PATIENCE)
                await asyncio.sleep(1 / PACE)

        async def all_welcomed() -> bool:
            return len(await found("signups:welcomes", surge.accepted)) == len(surge.accepted)

        try:
            await processes.until("each sign-up has an account and a welcome", all_welcomed)
        finally:
            await train.refresh()
            accounts = await found("signups:accounts", crowd + later)
            welcomes = await found("signups:welcomes", crowd + later)
            waits = {
                email: account["created"] - account["requested"]
                for email, account in ((email, json.loads(text)) for email, text in accounts.items())
            }
            one_queue = max(0.0, events * IDENTITY_SERVICE / 8 - took)
            rows: list[tuple[str, object]] = [
                ("sign-ups in the surge", f"{events:,} in {took:.1f} s over {CLIENTS} connections"),
                ("answers", ", ".join(f"{n:,} × {code or 'none'}" for code, n in sorted(surge.answers.items()))),
                ("without an account when it ended", waiting),
                ("wait for the account, in the surge", figures(waits[email] for email in crowd if email in waits)),
                (f"wait for the account, {LATER} after it", figures(waits[email] for email in later if email in waits)),
                ("one queue, 8 workers (calculated)", f"{one_queue:.1f} s for the first after the surge"),
                ("wagons", max(wagon.number for wagon in train.manifest.wagons) - first + 1),
                ("workers killed", 1),
                ("accounts, welcomes", f"{len(accounts):,}; {len(welcomes):,} for {len(surge.accepted):,} × 202"),
            ]
            print(table("A surge of sign-ups", rows), flush=True)
        if not set(surge.accepted) == accounts.keys() == welcomes.keys():
            raise Broken(f"{len(surge.accepted)} sign-ups accepted, {len(accounts)} accounts, {len(welcomes)} welcomes")


async def kill_in_the_middle(processes: Processes, surge: Surge, events: int) -> None:
    async def half() -> bool:
        return len(surge.accepted) >= events // 2

    await processes.until("half of the surge was accepted", half)
    await processes.kill(WORKERS[0])


def figures(seconds: Iterable[float]) -> str:
    ordered = sorted(seconds)
    return ", ".join(f"p{percent} {percentile(ordered, percent):.2f} s" for percent in (50, 90, 99))


async def answers(web: httpx.AsyncClient, path: str) -> bool:
    try:
        return (await web.get(path)).status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    given = arguments(__doc__, events=1000, what="how many sign up in the surge").parse_args()
    sys.exit(run(main(given.url, given.events)))
