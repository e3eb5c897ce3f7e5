"""Telemetry of devices: all readings, the latest of each device, and one alarm for each reading that is too hot.

eventwagon run examples.iot.app:telemetry --url redis://localhost
"""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from time import time
from typing import cast

import msgspec
from redis.asyncio import Redis

from eventwagon import Context, Reject, Train, Volume, Wait, Workers

STATE = os.environ.get("TELEMETRY_STATE", "redis://127.0.0.1:6379/0")
TOO_HOT = 80.0  # degrees Celsius

# A message of MQTT may come twice. Each script is one step that changes nothing the second time. KEEP returns 0 if the
# device has used the number before, for another reading.
KEEP = """
local name = ARGV[1] .. '/' .. ARGV[2]
if redis.call('HSETNX', KEYS[1], name, ARGV[3]) == 0 then
    return cjson.decode(redis.call('HGET', KEYS[1], name)).at == cjson.decode(ARGV[3]).at and 1 or 0
end
local latest = redis.call('HGET', KEYS[2], ARGV[1])
if not latest or cjson.decode(latest).seq < tonumber(ARGV[2]) then redis.call('HSET', KEYS[2], ARGV[1], ARGV[3]) end
return 1
"""
RAISE = """
if redis.call('SADD', KEYS[1], ARGV[1]) == 1 then redis.call('RPUSH', KEYS[2], ARGV[1]) end
"""


@dataclass
class Reading:
    device: str
    seq: int  # counts the device's readings; never begins again
    celsius: float
    at: float  # when it was measured, in seconds since the epoch


# New readings wait 2 s at most. What devices have kept during an outage and send all at once fills wagon after wagon;
# each drains with workers of its own, and new readings do not wait behind them.
telemetry = Train("telemetry", limit=Wait(2.0) | Volume(1_000), workers=Workers(each=32, most=128), spares=2)


@telemetry.lifespan
async def state() -> AsyncIterator["Redis"]:
    async with Redis.from_url(STATE) as redis:
        yield redis


@telemetry.on("telemetry", timeout=10)
async def keep(reading: Reading, ctx: Context) -> None:
    if (
        ctx.event.subject != f"devices/{reading.device}/readings"
    ):  # the topic, which the MQTT server keeps to its device
        raise Reject(f"a reading of device {reading.device!r} came by {ctx.event.subject!r}")
    redis = cast("Redis", ctx.state)
    await asyncio.sleep(0.1)  # stands for a time series database
    kept = msgspec.json.encode({**asdict(reading), "kept": time()})
    where = ("telemetry:readings", "telemetry:latest")
    if not await redis.eval(KEEP, 2, *where, reading.device, reading.seq, kept):
        raise Reject(f"device {reading.device!r} has used the number {reading.seq} before, for another reading")
    if reading.celsius > TOO_HOT:
        await ctx.emit(raise_alarm, reading)


@telemetry.on("alarms", timeout=10)
async def raise_alarm(reading: Reading, ctx: Context) -> None:
    redis = cast("Redis", ctx.state)
    await redis.eval(RAISE, 2, "telemetry:alarms:known", "telemetry:alarms", f"{reading.device}/{reading.seq}")
