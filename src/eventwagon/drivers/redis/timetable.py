"""Events for later in Redis 7 or later, or Valkey; one server or a cluster.

Keys, all of a train in one slot: `later` and `later:claimed` (sorted sets of keys of events: the former scored by when
each event is due, the latter by when its claim ends), `later:events` (a hash: each event as MessagePack) and
`later:series` (a hash: the latest tick of each series). Times are the server's, in milliseconds.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

from ...contracts.timetable import Due, Waiting, decode, encode, key_of
from ...event import Event
from .client import Client, Script
from .link import Argument
from .scripts import KIND, deletion

_logger = logging.getLogger("eventwagon")
_MOST, _BYTES = 1000, 1 << 20  # the most events and bytes in one script call: the server does nothing else meanwhile
_PAGE = 200

_KINDS = (
    KIND
    + """
local later, claimed, events, series = unpack(KEYS)
local wrong = displaced(KEYS, {'zset', 'zset', 'hash', 'hash'})
if wrong then return wrong end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function first(key) return redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2] end
local function next_at()
  local one, other = first(later), first(claimed)
  if one and other then return tonumber(one) < tonumber(other) and one or other end
  return one or other or ''
end
local function add(key, due, event)
  redis.call('HSETNX', events, key, event)
  if not redis.call('ZSCORE', claimed, key) then redis.call('ZADD', later, 'NX', due, key) end
end
"""
)

# ARGV: key, time and event, again and again.
_ADD = Script(_KINDS + "for i = 1, #ARGV, 3 do add(ARGV[i], ARGV[i + 1], ARGV[i + 2]) end\nreturn 1")

# ARGV: the most events, the most bytes, the lease.
_CLAIM = Script(
    _KINDS
    + """
local most, bytes, till = tonumber(ARGV[1]), tonumber(ARGV[2]), now + ARGV[3]
local found, full = {}, false
local function take(from)
  if full then return end
  for _, key in ipairs(redis.call('ZRANGEBYSCORE', from, '-inf', now, 'LIMIT', 0, most - #found / 2)) do
    local event = redis.call('HGET', events, key)
    if event then
      bytes = bytes - #event
      if #found > 0 and bytes < 0 then full = true return end
      found[#found + 1], found[#found + 2] = key, event
    else
      redis.call('ZREM', from, key)
    end
  end
end
take(claimed)
take(later)
for i = 1, #found, 2 do
  redis.call('ZREM', later, found[i])
  redis.call('ZADD', claimed, till, found[i])
end
return {now, till, next_at(), found}
""",
    when_full=True,
)

# ARGV: when the claim ends, keys.
_REMOVE = Script(
    _KINDS
    + """
for i = 2, #ARGV do
  if tonumber(redis.call('ZSCORE', claimed, ARGV[i]) or 0) == tonumber(ARGV[1]) then
    redis.call('ZREM', claimed, ARGV[i])
    redis.call('HDEL', events, ARGV[i])
  end
end
return 1
""",
    when_full=True,
)

_CANCEL = Script(
    _KINDS
    + """
local cancelled = 0
for _, key in ipairs(ARGV) do
  local till = redis.call('ZSCORE', claimed, key)
  if not till or tonumber(till) <= now then
    cancelled = cancelled + redis.call('ZREM', later, key)
    redis.call('ZREM', claimed, key)
    redis.call('HDEL', events, key)
  end
end
return cancelled
""",
    when_full=True,
)

_WAITING = Script(_KINDS + "return {redis.call('ZCARD', later) + redis.call('ZCARD', claimed), next_at(), now}")

# ARGV: the series, the tick, and its event's key, time and encoded form, if there is one.
_TICK = Script(
    _KINDS
    + """
local before = tonumber(redis.call('HGET', series, ARGV[1]) or '')
if before and tonumber(ARGV[2]) <= before then return 0 end
redis.call('HSET', series, ARGV[1], ARGV[2])
if before and ARGV[3] then add(ARGV[3], ARGV[4], ARGV[5]) end
return 1
"""
)

_CLEAR = deletion("zset", "zset", "hash", "hash")


class RedisTimetable:
    """Timetables in Redis, by the `client` of a broker or a registry, which opens and closes it. Events are as durable
    as those of the broker, its option `wait` included."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._server = client.server

    def _keys(self, train: str) -> list[str]:
        base = f"{self._server.prefix}:{{{train}}}:later"
        return [base, f"{base}:claimed", f"{base}:events", f"{base}:series"]

    async def now(self, train: str) -> float:
        seconds, micro = await self._client.command("asking for the time", self._keys(train)[0], "TIME")
        return int(seconds) + int(micro) / 1e6

    async def add(self, train: str, events: Sequence[Event]) -> None:
        what = f"keeping events of {train} for later"
        for arguments in _parts(events):
            await self._client.surely(what, _ADD, self._keys(train), arguments)

    async def claim(self, train: str, *, limit: int, most_bytes: int, lease: float) -> Due:
        what, keys = f"looking for events of {train} that are due", self._keys(train)
        arguments = [min(limit, _MOST), most_bytes, math.ceil(lease * 1000)]
        now, till, next_at, found = await self._client.run(what, _CLAIM, keys, arguments)
        events = [_decoded(name, data) for name, data in zip(found[::2], found[1::2], strict=True)]
        keys = [name.decode(errors="surrogateescape") for name in found[::2]]
        return Due(events=events, keys=keys, until=till / 1000, now=now / 1000, next_at=_seconds(next_at))

    async def remove(self, train: str, keys: Sequence[str], *, until: float) -> None:
        what = f"removing published events of {train} from its timetable"
        for start in range(0, len(keys), _MOST):
            some = [name.encode(errors="surrogateescape") for name in keys[start : start + _MOST]]
            await self._client.run(what, _REMOVE, self._keys(train), [round(until * 1000), *some])

    async def cancel(self, train: str, keys: Sequence[str]) -> bool:
        return bool(await self._client.run(f"cancelling an event of {train}", _CANCEL, self._keys(train), keys))

    async def waiting(self, train: str) -> Waiting:
        what = f"looking at the timetable of {train}"
        count, next_at, now = await self._client.run(what, _WAITING, self._keys(train))
        return Waiting(count=count, next_at=_seconds(next_at), now=now / 1000)

    async def entries(self, train: str) -> AsyncIterator[Event]:
        what, (later, claimed, events, _) = f"reading the timetable of {train}", self._keys(train)
        for order in (later, claimed):
            start = 0
            while names := await self._client.command(what, order, "ZRANGE", order, start, start + _PAGE - 1):
                found = await self._client.command(what, events, "HMGET", events, *names)
                for name, data in zip(names, found, strict=True):
                    if data is not None:
                        yield _decoded(name, data)
                start += len(names)

    async def latest(self, train: str, series: str) -> float | None:
        key = self._keys(train)[3]
        found = await self._client.command(f"looking for the last tick of {series}", key, "HGET", key, series)
        return None if found is None else float(found)

    async def latest_of_all(self, train: str) -> Mapping[str, float]:
        key = self._keys(train)[3]
        found = await self._client.command(f"looking for the last ticks of {train}", key, "HGETALL", key)
        ticks = zip(found[::2], found[1::2], strict=True)
        return {
            name.decode(errors="backslashreplace"): number
            for name, tick in ticks
            if (number := _number(tick)) is not None  # another program may have written anything
        }

    async def tick(self, train: str, series: str, at: float, event: Event | None) -> bool:
        kept = () if event is None else _row(event)
        what, arguments = f"recording a tick of {series}", [series, repr(at), *kept]
        return bool(await self._client.surely(what, _TICK, self._keys(train), arguments))

    async def clear(self, train: str) -> int:
        count, what = (await self.waiting(train)).count, f"deleting the timetable of {train}"
        for left in await self._client.run(what, _CLEAR, self._keys(train)):
            key = left.decode(errors="backslashreplace")
            _logger.warning("%s: %s: the key %s is left alone: it is not eventwagon's", self._server.where, what, key)
        return count


def _row(event: Event) -> tuple[Argument, ...]:
    return key_of(event), math.ceil(event.time * 1000), encode(event)


def _parts(events: Sequence[Event]) -> Iterator[list[Argument]]:
    """The arguments of each call."""
    part: list[Argument] = []
    size = 0
    for event in events:
        row = _row(event)
        size += len(row[2]) if isinstance(row[2], bytes) else 0
        if part and (size > _BYTES or len(part) == 3 * _MOST):
            yield part
            part, size = [], len(row[2]) if isinstance(row[2], bytes) else 0
        part += row
    if part:
        yield part


def _decoded(name: bytes, data: bytes) -> Event:
    return decode(data, kept_as=name.decode(errors="replace"))


def _number(text: bytes) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _seconds(milliseconds: bytes) -> float | None:
    return float(milliseconds) / 1000 if milliseconds else None
