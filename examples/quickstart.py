"""A train in one process: a few sign-ups are published and handled. Run it: python examples/quickstart.py"""

import asyncio
import tempfile
from dataclasses import dataclass

from eventwagon import Context, Train, Volume, Wait


@dataclass
class SignUp:
    email: str


signups = Train("user_registrations", limit=Wait(2.0) | Volume(10), spares=1)
EMAILS = [f"user{n}@example.com" for n in range(25)]
welcomed: set[str] = set()
everybody = asyncio.Event()


@signups.on("user_registrations")
async def register(signup: SignUp, ctx: Context) -> None:
    await ctx.emit("welcome_email", signup)


@signups.on("welcome_email")
async def welcome(signup: SignUp, ctx: Context) -> None:
    await asyncio.sleep(0.05)  # stands for a mail server
    welcomed.add(signup.email)
    print(f"wagon {ctx.wagon}: welcome, {signup.email}")
    if len(welcomed) == len(EMAILS):
        everybody.set()


async def main() -> None:
    """Publish 25 sign-ups into wagons of ten, and wait until all were welcomed."""
    with tempfile.TemporaryDirectory() as directory:
        async with signups.connect(f"sqlite:///{directory}") as train, train.running():
            await train.publish_many(SignUp(email) for email in EMAILS)
            async with asyncio.timeout(30):
                await everybody.wait()
                await train.wait_drained(2)
            live = ", ".join(f"wagon {wagon.number} ({wagon.state})" for wagon in train.manifest.wagons)
            print(f"{len(welcomed)} welcomed; wagons that live now: {live}")


if __name__ == "__main__":
    asyncio.run(main())
