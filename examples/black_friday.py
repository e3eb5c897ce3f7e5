"""Black Friday: a crowd signs up, and whoever comes now must not wait for those before.

Run it:      eventwagon run examples.black_friday:signups
Publish:     echo '{"email": "ada@example.com"}' | eventwagon publish examples.black_friday:signups
Look at it:  eventwagon status user_registrations --watch
"""

import asyncio
from dataclasses import dataclass

from eventwagon import Context, Train, Volume, Wait


@dataclass
class SignUp:
    email: str


@dataclass
class WelcomeEmail:
    email: str


@dataclass
class CrmUpdate:
    email: str
    state: str


signups = Train(
    "user_registrations",
    limit=Wait(2.0) | Volume(10_000),  # new events wait 2 s at most, and no wagon takes more than 10,000
    spares=1,
)


@signups.on("user_registrations")
async def register(signup: SignUp, ctx: Context) -> None:
    await asyncio.sleep(0.03)  # the database
    await ctx.emit("welcome_email", WelcomeEmail(signup.email))


@signups.on("welcome_email")
async def welcome(mail: WelcomeEmail, ctx: Context) -> None:
    await asyncio.sleep(0.02)  # the mail server
    await ctx.emit("crm_update", CrmUpdate(mail.email, "welcomed"))


@signups.on("crm_update")
async def update_crm(update: CrmUpdate) -> None:
    await asyncio.sleep(0.01)  # the CRM's API


async def main() -> None:
    """A program that publishes: the same train, from inside."""
    async with signups.connect("sqlite:///.eventwagon") as train:
        await train.publish(SignUp("ada@example.com"), subject="ada@example.com")
        await train.publish_many(SignUp(f"customer{n}@example.com") for n in range(1000))


if __name__ == "__main__":
    asyncio.run(main())
