"""Credential stuffing while people log in: python examples/logins/run.py --url redis://127.0.0.1:6379/0"""

import asyncio
import sys
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from redis.asyncio import Redis

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.logins.app import (
    PROMISE,
    REPUTATION_SERVICE,
    LoginRefused,
    LoginUnavailable,
    log_in,
    logins,
    session_holds,
)
from examples.processes import Broken, Processes, arguments, percentile, run, table

from eventwagon import Connection

WORKERS = [f"worker {n}" for n in (1, 2, 3)]
BOTS = 20
"""Addresses from which the attack comes. Each tries one account after the other; one password in 20 is right."""
ROUND_TRIP = 0.05
"""Seconds from a bot's attempt to its next one."""
PACE = 10.0
"""How many people log in within a second, during the attack and after it."""
AFTER = 30
"""How many people log in after it."""


class Crowd:
    """Everybody who logs in, and the sessions that they got."""

    def __init__(self, train: Connection, store: Redis) -> None:
        self.train, self.store = train, store
        self.name = uuid4().hex[:8]  # the store may know the addresses of an earlier run
        self.tried = 0
        self.unavailable = 0
        self.stolen: list[str] = []
        self.unjudged: set[str] = set()
        """Logins that are stored, and had no verdict at the last look."""

    async def bot(self, number: int, attempts: int) -> None:
        for n in range(attempts):
            account = f"leaked{number}-{n}@{self.name}"
            self.stolen += await self.attempt(account, f"bot{number}-{self.name}", n % 20 == 0)
            await asyncio.sleep(ROUND_TRIP)

    async def person(self) -> list[str]:
        name = uuid4().hex
        return await self.attempt(f"{name}@{self.name}", f"home-{name}", password_right=True)

    async def attempt(self, account: str, address: str, password_right: bool) -> list[str]:
        """The session, or nothing."""
        self.tried += 1
        try:
            sessions = [await log_in(self.train, self.store, account, address, password_right)]
            self.unjudged.update(sessions)
            return sessions
        except LoginUnavailable:
            self.unavailable += 1
        except LoginRefused as e:
            self.unjudged.add(e.login)
        return []

    async def waiting(self) -> int:
        """How many of these logins have no verdict yet."""
        if logins := list(self.unjudged):
            verdicts = await self.store.mget([f"logins:verdict:{login}" for login in logins])
            self.unjudged.difference_update(
                login for login, verdict in zip(logins, verdicts, strict=True) if verdict is not None
            )
        return len(self.unjudged)

    async def people(self, until: asyncio.Event) -> list[str]:
        """Log in one after the other until the event is set."""
        sessions = list[str]()
        while not until.is_set():
            sessions += await self.person()
            with suppress(TimeoutError):
                await asyncio.wait_for(until.wait(), 1 / PACE)
        return sessions


async def main(url: str, events: int) -> None:
    async with (
        logins.connect(url, listeners=()) as train,
        Redis.from_url(url, decode_responses=True) as store,
        Processes() as processes,
    ):
        for name in WORKERS:
            await processes.start(
                name,
                "-m",
                "eventwagon",
                "run",
                "examples.logins.app:logins",
                environment={"EVENTWAGON_URL": url, "LOGINS_STORE": url},
            )

        async def working() -> bool:
            return await processes.at_work(train) >= len(WORKERS)

        await processes.until("the workers are ready", working)
        first = train.manifest.wagons[0].number
        print(f"{len(WORKERS)} workers are up: {BOTS} bots try {events:,} passwords, and people log in ...", flush=True)
        crowd, over, began = Crowd(train, store), asyncio.Event(), time.monotonic()

        async def attack() -> None:
            async with asyncio.TaskGroup() as bots:
                for number in range(BOTS):
                    bots.create_task(crowd.bot(number, events // BOTS + (number < events % BOTS)))
            over.set()

        async def half() -> bool:
            return crowd.tried >= events // 2

        async with asyncio.TaskGroup() as group:
            during = group.create_task(crowd.people(over))
            group.create_task(attack())
            await processes.until("half of the attack", half)
            await processes.kill(WORKERS[0])
        took = time.monotonic() - began
        waiting = await crowd.waiting()
        after = list[str]()
        for _ in range(AFTER):
            after += await crowd.person()
            await asyncio.sleep(1 / PACE)

        async def judged() -> bool:
            return await crowd.waiting() == 0

        try:
            await processes.until("each login has a verdict", judged)
        finally:
            await train.refresh()
            people = [*during.result(), *after]
            revoked = [session for session in people if not await session_holds(store, session)]
            left = [session for session in crowd.stolen if await session_holds(store, session)]
            one_queue = max(0.0, crowd.tried * REPUTATION_SERVICE / 16 - took)
            rows: list[tuple[str, object]] = [
                (
                    "logins tried",
                    f"{crowd.tried:,}: {events:,} by {BOTS} bots in {took:.1f} s, {len(people)} by people",
                ),
                ("refused since not stored, or possibly not", crowd.unavailable),
                ("without a verdict when the attack ended", waiting),
                ("people's logins judged during it", await on_time(store, during.result())),
                ("people's logins judged after it", await on_time(store, after)),
                ("one queue, 16 workers (calculated)", f"{one_queue:.1f} s for the first after the attack"),
                ("sessions that bots got, still valid", f"{len(crowd.stolen)}, {len(left)}"),
                ("sessions of people, revoked", f"{len(people)}, {len(revoked)}"),
                ("wagons", max(wagon.number for wagon in train.manifest.wagons) - first + 1),
                ("workers killed", 1),
            ]
            print(table("Logins during an attack", rows), flush=True)
        if left or revoked:
            raise Broken(f"{len(left)} stolen sessions are still valid, {len(revoked)} sessions of people were revoked")


async def on_time(store: Redis, sessions: list[str]) -> str:
    """How many were judged within the promise, and how long it took."""
    found = await store.mget([f"logins:verdict:{session}" for session in sessions])
    waits = [float(str(verdict).split()[1]) for verdict in found if verdict is not None]
    kept = sum(wait <= PROMISE for wait in waits)
    return (
        f"{kept} of {len(sessions)} within {PROMISE:g} s; "
        f"p50 {percentile(waits, 50):.2f} s, p99 {percentile(waits, 99):.2f} s"
    )


if __name__ == "__main__":
    given = arguments(__doc__, events=3000, what="logins that the attack tries").parse_args()
    sys.exit(run(main(given.url, given.events)))
