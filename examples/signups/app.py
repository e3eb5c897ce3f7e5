"""A surge of sign-ups: each becomes exactly one account and one welcome.

EVENTWAGON_URL=redis://localhost eventwagon run examples.signups.app:signups
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from redis.asyncio import Redis

from eventwagon import Context, Train, Volume, Wait, Workers

STORE = os.environ.get("SIGNUPS_STORE", "redis://localhost")
IDENTITY_SERVICE = 0.2
"""Seconds that it takes for one sign-up: what a surge waits for."""


@dataclass
class SignUp:
    email: str
    name: str


# New sign-ups shall wait for 2 s at most: that is 80 of them, for eight workers at 0.2 s each. `Volume` cuts at exactly
# that, `Wait` cuts sooner if the service gets slower. The full wagon drains with its own eight workers, and the next
# one has eight for those who come now. At 24 wagons the train is full: the web server answers 429.
signups = Train(
    "signups",
    limit=Wait(2.0) | Volume(80),
    workers=Workers(each=8),
    spares=1,
    wagons=24,
    at_cap="refuse",
    visibility=10,  # seconds after which a lost worker's events come again, if nobody saw it end
)


@signups.lifespan
async def accounts() -> AsyncIterator[Redis]:
    """Where accounts are kept; `ctx.state` of the handlers. Each process that works opens it once."""
    async with Redis.from_url(STORE, decode_responses=True) as store:
        yield store


@signups.on("signups")
async def create(signup: SignUp, ctx: Context) -> None:
    """Idempotent: the account keeps the id of its sign-up. If the event comes again, because a worker was killed or a
    browser sent it twice, its account is there, and the same welcome is emitted with the same id."""
    store: Redis = ctx.state
    await asyncio.sleep(IDENTITY_SERVICE)  # stands for a call of it
    email = signup.email.lower()
    account = {"name": signup.name, "signup": ctx.event.id, "requested": ctx.event.time, "created": time.time()}
    if not await store.hsetnx("signups:accounts", email, json.dumps(account)):
        account = json.loads(await store.hget("signups:accounts", email) or "{}")
    if account.get("signup") == ctx.event.id:  # else somebody else has this address: no second welcome
        await ctx.emit("welcomes", signup)


@signups.on("welcomes", rate="400/s")  # in all processes and wagons together: what the mail server takes
async def welcome(signup: SignUp, ctx: Context) -> None:
    """An entry that stands for a mail. How real ones are sent: examples/mailing."""
    store: Redis = ctx.state
    await store.hsetnx("signups:welcomes", signup.email.lower(), ctx.event.id)
