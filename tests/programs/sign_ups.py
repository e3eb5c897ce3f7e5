"""A train for bursts on AWS: what its handlers do is noted in a file of the handling process in the directory
HANDLED."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from eventwagon import Context, Reject, Train, Volume, Workers

train = Train(
    "sign_ups",
    limit=Volume(30),
    workers=Workers(each=2),
    spares=1,
    attempts=4,
    backoff=0.1,
    lease=1.0,
    keep_drained=1.0,
    observe_every=0.5,
    member_ttl=5.0,
    visibility=5.0,
    handler_timeout=10.0,
    grace=5.0,
    provision_timeout=60.0,
)
"""Multiples of 29 are rejected for good, those of 7 fail once, 41 ends its process once; a mail in the wagon's own
second channel is sent for all others."""


@train.on("sign_ups")
async def sign_up(payload: dict[str, int], ctx: Context) -> None:
    number = payload["n"]
    if number % 29 == 0:
        raise Reject(f"{number} is a bad number")
    if number == 41 and ctx.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if number % 7 == 0 and ctx.attempt == 1:
        raise RuntimeError("at first it fails")
    await ctx.emit("mails", payload)


@train.on("mails")
def mail(payload: dict[str, int], ctx: Context) -> None:
    with (Path(os.environ["HANDLED"]) / str(os.getpid())).open("a") as file:
        file.write(f"{ctx.wagon} {payload['n']}\n")
