"""Logins with a risk check: the login answers at once, the check follows within two seconds and revokes what is risky.

EVENTWAGON_URL=redis://localhost eventwagon run examples.logins.app:logins
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import uuid4

from redis.asyncio import Redis
from redis.exceptions import RedisError

from eventwagon import Connection, Context, PublishError, Train, Wait, Workers

STORE = os.environ.get("LOGINS_STORE", "redis://localhost")
PROMISE = 2.0
"""Seconds within which a login is judged."""
REPUTATION_SERVICE = 0.1
"""Seconds that it takes for one address."""
WINDOW = 60.0
"""Seconds that count."""
ACCOUNTS_PER_ADDRESS, FAILURES_PER_ACCOUNT = 5, 5
"""More accounts tried from one address, or more wrong passwords for one account, are risky."""
KEPT = 3600
"""Seconds for which all of this is kept: longer than a login can wait for its check."""


@dataclass
class Login:
    session: str  # also the event's id
    account: str
    address: str
    password_right: bool
    at: float  # seconds since 1970


# A crowd is cut off into wagons that are checked by workers of their own, so a login that comes now is on time.
logins = Train("logins", limit=Wait(PROMISE), workers=Workers(each=16), spares=1)


@logins.lifespan
async def store() -> AsyncIterator[Redis]:
    async with Redis.from_url(STORE, decode_responses=True) as client:
        yield client


class LoginRefused(Exception):
    """Nobody is logged in: account or password is wrong. `login`: the event's id, for the log."""

    def __init__(self, why: str, login: str) -> None:
        super().__init__(why)
        self.login = login


class LoginUnavailable(LoginRefused):
    """Nobody is logged in: the login could not be stored for its check, or possibly not."""


async def log_in(train: Connection, store: Redis, account: str, address: str, password_right: bool) -> str:
    """What the login endpoint does: returns the new session. It waits for storing the event only, not for the check.
    Raises LoginRefused; without a stored event there is no session, since nobody would check it."""
    login = Login(str(uuid4()), account, address, password_right, time.time())
    # Counted here and not by the handler: wagons are checked beside each other, so events come in another order.
    counted = {
        f"logins:tried:{address}": account,
        f"logins:sessions:{address}" if password_right else f"logins:wrong:{account}": login.session,
    }
    try:
        async with store.pipeline(transaction=True) as pipe:
            for key, member in counted.items():
                pipe.zadd(key, {member: login.at})
                pipe.zremrangebyscore(key, 0, login.at - KEPT)
                pipe.expire(key, KEPT)
            await pipe.execute()
        await train.publish(login, id=login.session, timeout=2)
        if password_right:
            await store.set(f"logins:session:{login.session}", account, ex=KEPT)
            return login.session
    except (PublishError, RedisError) as e:
        raise LoginUnavailable("logins can't be checked at the moment: try again", login.session) from e
    raise LoginRefused("wrong account or password", login.session)


async def session_holds(store: Redis, session: str) -> bool:
    """What each later request asks. Once revoked is revoked, even if the session is stored after that."""
    account, revoked = await store.mget(f"logins:session:{session}", f"logins:revoked:{session}")
    return account is not None and revoked is None


@logins.on("logins", timeout=5)
async def check(login: Login, ctx: Context) -> None:
    """Idempotent: the first verdict on a login stays, and to revoke twice is to revoke."""
    store: Redis = ctx.state
    await asyncio.sleep(REPUTATION_SERVICE)  # stands for a call of it
    since = login.at - WINDOW
    async with store.pipeline(transaction=False) as pipe:
        pipe.zcount(f"logins:tried:{login.address}", since, "+inf")
        pipe.zcount(f"logins:wrong:{login.account}", since, "+inf")
        pipe.zrangebyscore(f"logins:sessions:{login.address}", since, "+inf")
        accounts, failures, sessions = await pipe.execute()
    from_risky_address, guessed = accounts > ACCOUNTS_PER_ADDRESS, failures > FAILURES_PER_ACCOUNT
    revoked = {login.session} if from_risky_address or guessed else set[str]()
    if from_risky_address:  # also those that were judged before the address was known to be risky
        revoked |= set(sessions)
    verdict = f"{'risky' if revoked else 'fine'} {time.time() - login.at:.3f} {ctx.wagon}"
    async with store.pipeline(transaction=True) as pipe:
        for session in revoked:
            pipe.set(f"logins:revoked:{session}", 1, ex=2 * KEPT)  # longer than the session
        pipe.set(f"logins:verdict:{login.session}", verdict, nx=True, ex=KEPT)
        await pipe.execute()
