"""The record of handled events in Redis 7 or later, or Valkey; one server or a cluster.

Keys, all of a train in one slot: `once` (a sorted set of the keys of handled events, scored by when they are
forgotten), `once:claimed` (a sorted set of claimed keys, scored by when their claims end) and `once:holders` (a hash:
who has claimed each). Times are the server's, in milliseconds.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from ...contracts.once import Standing
from .client import Client, Script
from .link import Argument
from .scripts import KIND, MOST, deletion

_logger = logging.getLogger("eventwagon")

# Whatever is over is forgotten with each write: more than the write adds.
_KINDS = (
    KIND
    + """
local handled, claimed, holders = unpack(KEYS)
local wrong = displaced(KEYS, {'zset', 'zset', 'hash'})
if wrong then return wrong end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function let_go(key)
  redis.call('ZREM', claimed, key)
  redis.call('HDEL', holders, key)
end
-- The keys end with their last member: nobody needs to delete the record of a train that no longer writes to it.
local function ends(key, others)
  local last = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2]
  if not last then return end
  local at = string.format('%.0f', tonumber(last) + 1000)
  redis.call('PEXPIREAT', key, at)
  if others then redis.call('PEXPIREAT', others, at) end
end
local function forget(most)
  local over = redis.call('ZRANGEBYSCORE', handled, '-inf', now, 'LIMIT', 0, most)
  for i = 1, #over, 500 do redis.call('ZREM', handled, unpack(over, i, math.min(i + 499, #over))) end
  for _, key in ipairs(redis.call('ZRANGEBYSCORE', claimed, '-inf', now, 'LIMIT', 0, most)) do let_go(key) end
end
"""
)

# ARGV: the holder, the lease, keys. Its answer has a digit for each key: 0 ours, 1 handled, 2 claimed. It runs when the
# memory is full, too, as the record does: events must be settled for memory to become free.
_CLAIM = Script(
    _KINDS
    + """
local holder, till, found = ARGV[1], now + ARGV[2], {}
forget(2 * #ARGV + 100)
for i = 3, #ARGV do
  local key = ARGV[i]
  local by = redis.call('HGET', holders, key)
  if tonumber(redis.call('ZSCORE', handled, key) or 0) > now then
    found[#found + 1] = 1
  elseif by and by ~= holder and tonumber(redis.call('ZSCORE', claimed, key) or 0) > now then
    found[#found + 1] = 2
  else
    redis.call('ZADD', claimed, till, key)
    redis.call('HSET', holders, key, holder)
    found[#found + 1] = 0
  end
end
ends(claimed, holders)
return found
""",
    when_full=True,
)

# ARGV: the window, keys.
_RECORD = Script(
    _KINDS
    + """
local till = now + ARGV[1]
forget(2 * #ARGV + 100)
for i = 2, #ARGV do
  redis.call('ZADD', handled, till, ARGV[i])
  let_go(ARGV[i])
end
ends(handled)
return 1
""",
    when_full=True,
)

# ARGV: the holder, keys.
_RELEASE = Script(
    _KINDS
    + """
for i = 2, #ARGV do
  if redis.call('HGET', holders, ARGV[i]) == ARGV[1] then let_go(ARGV[i]) end
end
return 1
""",
    when_full=True,
)

_CLEAR = deletion("zset", "zset", "hash")
_STANDINGS = (Standing.OURS, Standing.HANDLED, Standing.CLAIMED)


class RedisOnce:
    """Records in Redis, by the `client` of a broker or a registry, which opens and closes it. They are as durable as
    that broker's events, its option `wait` included."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._server = client.server

    def _keys(self, train: str) -> list[str]:
        base = f"{self._server.prefix}:{{{train}}}:once"
        return [base, f"{base}:claimed", f"{base}:holders"]

    async def claim(self, train: str, keys: Sequence[bytes], *, holder: str, lease: float) -> Sequence[Standing]:
        found: list[Standing] = []
        for some in _parts(keys):
            arguments: list[Argument] = [holder, math.ceil(lease * 1000), *some]
            answers = await self._client.run(f"claiming events of {train}", _CLAIM, self._keys(train), arguments)
            found += [_STANDINGS[answer] for answer in answers]
        return found

    async def record(self, train: str, keys: Sequence[bytes], *, window: float) -> None:
        what = f"recording handled events of {train}"
        for some in _parts(keys):
            await self._client.surely(what, _RECORD, self._keys(train), [math.ceil(window * 1000), *some])

    async def release(self, train: str, keys: Sequence[bytes], *, holder: str) -> None:
        for some in _parts(keys):
            what = f"giving up claims of events of {train}"
            await self._client.run(what, _RELEASE, self._keys(train), [holder, *some])

    async def count(self, train: str) -> int:
        key = self._keys(train)[0]
        return int(await self._client.command(f"counting the handled events of {train}", key, "ZCARD", key))

    async def clear(self, train: str) -> None:
        what = f"deleting the record of handled events of {train}"
        for left in await self._client.run(what, _CLEAR, self._keys(train)):
            key = left.decode(errors="backslashreplace")
            _logger.warning("%s: %s: the key %s is left alone: it is not eventwagon's", self._server.where, what, key)


def _parts(keys: Sequence[bytes]) -> list[Sequence[bytes]]:
    """The keys of each call: the server does nothing else meanwhile."""
    return [keys[start : start + MOST] for start in range(0, len(keys), MOST)]
