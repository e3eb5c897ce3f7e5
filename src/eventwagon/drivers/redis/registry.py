"""The train's manifest, members and journal in Redis 7 or later, or Valkey; one server or a cluster.

Keys, all of a train in one slot: `manifest` (a hash: the manifest's version under `revision`, the document, and a mark
of the write), `members` (a hash by name) with `alive` (scored by each member's expiry, by the server's clock, in
milliseconds), `news` (the names, scored by when what the member says has last changed, in microseconds), `peers` (a
hash: the part of each member that seldom changes, by name, and under an empty name when it last did), and `journal` (a
stream). One set beside them has the names of all trains.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from secrets import token_hex
from typing import NamedTuple

import msgspec

from ...contracts import facts, manifest
from ...contracts.broker import Finding
from ...contracts.facts import Entry
from ...contracts.manifest import Manifest
from ...contracts.registry import Changes, Member, Peer, Snapshot, decode_members, encode_member, out_of_date
from ...errors import UsageError
from ...event import Channel, check_train_name
from .client import Client, Script
from .errors import Lost, NotSent
from .inspection import inspect
from .members import Strangers, split, told
from .once import RedisOnce
from .scripts import ADDED, KIND, LAST_ID, deletion
from .server import Server
from .timetable import RedisTimetable

_logger = logging.getLogger("eventwagon")
_PAGE = 500  # journal entries in one call
_TRIES = 3

# The manifest's version is in the field `revision`. If that is no number of ours, the key holds something else.
_VERSION = """
local function numbered(version)
  if string.match(version or '0', '^%d+$') and #(version or '0') <= 15 then return tonumber(version or 0) end
  error({err = 'WRONGTYPE the field revision of the manifest is no version'})
end
"""

# An exhausted journal would let no decision be stored, ever: its entries are written again under new ids.
_APPEND = (
    ADDED
    + """
local function append(journal, keep, first)
  local _, _, exhausted = added(journal)
  if exhausted and #ARGV >= first then
    local kept = redis.call('XREVRANGE', journal, '+', '-', 'COUNT', keep)
    redis.call('DEL', journal)
    for i = #kept, 1, -1 do redis.call('XADD', journal, '*', unpack(kept[i][2])) end
  end
  for i = first, #ARGV do redis.call('XADD', journal, '*', 'entry', ARGV[i]) end
  if #ARGV >= first then redis.call('XTRIM', journal, 'MAXLEN', keep) end
end
"""
)

# ARGV: the version expected, the document, this attempt's mark, entries to keep, the version to go beyond, new
# entries. By the mark an attempt whose answer was lost sees that it had succeeded.
_REPLACE = Script(
    _VERSION
    + _APPEND
    + KIND
    + """
local document, journal = unpack(KEYS)
local wrong = displaced(KEYS, {'hash', 'stream'})
if wrong then return wrong end
local facts = redis.call('HMGET', document, 'revision', 'mark')
local version = numbered(facts[1])
local expected = tonumber(ARGV[1])
local new = math.max(expected, tonumber(ARGV[5])) + 1
if version == new and facts[2] == ARGV[3] then return {1, version} end
if version ~= expected then return {0, version} end
redis.call('HSET', document, 'revision', string.format('%.0f', new), 'document', ARGV[2], 'mark', ARGV[3])
append(journal, ARGV[4], 6)
redis.pcall('PUBLISH', document .. ':bell', '')
return {1, new}
""",
    when_full=True,
)

_OTHER = Script(
    _VERSION
    + """
local facts = redis.call('HMGET', KEYS[1], 'revision', 'document')
local version = numbered(facts[1])
if version == tonumber(ARGV[1]) then return false end
return {version, facts[2]}
"""
)

_JOIN = Script(
    _APPEND
    + KIND
    + """
local wrong = displaced(KEYS, {'stream'})
if wrong then return wrong end
append(KEYS[1], ARGV[1], 2)
return 1
""",
    when_full=True,
)

_DELETE = deletion("hash", "zset", "zset", "hash", "stream", "hash")

_LIST = Script("return redis.call('SADD', KEYS[1], ARGV[1])", when_full=True)

# ARGV: the name, what it says, milliseconds, and the part of it that seldom changes.
_CHECK_IN = Script(
    KIND
    + """
local members, alive, news_of, peers = unpack(KEYS)
local wrong = displaced(KEYS, {'hash', 'zset', 'zset', 'hash'})
if wrong then return wrong end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local name, said, ttl, peer = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local late = redis.call('ZRANGEBYSCORE', alive, '-inf', now, 'LIMIT', 0, 1000)
if ttl <= 0 then late[#late + 1] = name end
local news = false
if #late > 0 then
  redis.call('ZREM', alive, unpack(late))
  redis.call('HDEL', members, unpack(late))
  redis.call('ZREM', news_of, unpack(late))
  news = redis.call('HDEL', peers, unpack(late)) > 0
end
if ttl > 0 then
  redis.call('ZADD', alive, now + ttl, name)
  if redis.call('HGET', members, name) ~= said or not redis.call('ZSCORE', news_of, name) then
    redis.call('HSET', members, name, said)
    local newest = tonumber(redis.call('ZRANGE', news_of, -1, -1, 'WITHSCORES')[2] or 0)
    redis.call('ZADD', news_of, string.format('%.0f', math.max(newest + 1, time[1] * 1000000 + time[2])), name)
  end
  if redis.call('HGET', peers, name) ~= peer then
    redis.call('HSET', peers, name, peer)
    news = true
  end
end
if news then redis.call('HSET', peers, '', time[1] .. '.' .. time[2]) end
return 1
""",
    when_full=True,
)

# ARGV: when they last changed, as far as the caller knows. Its answer: when they did, and all of them if that is news;
# nothing if the hash does not have all: some of them were evicted, or belong to an older release.
_PEERS = Script(
    KIND
    + """
local alive, peers = unpack(KEYS)
local wrong = displaced(KEYS, {'zset', 'hash'})
if wrong then return wrong end
local changed = redis.call('HGET', peers, '')
if not changed or redis.call('HLEN', peers) - 1 ~= redis.call('ZCARD', alive) then return {} end
if changed == ARGV[1] then return {changed} end
return {changed, redis.call('HGETALL', peers)}
"""
)

# ARGV: when the peers last changed, how many members were alive, and the score of the newest news, as far as the caller
# knows. Its answer: the three as of now; whether the caller knows all older news; and the newer ones, each after its
# name. If the caller does not know them: all members. Nothing instead of the first if the keys do not agree: some were
# evicted, or some processes are of an older release, which writes no news.
_MEMBERS = Script(
    KIND
    + """
local members, alive, news_of, peers = unpack(KEYS)
local wrong = displaced(KEYS, {'hash', 'zset', 'zset', 'hash'})
if wrong then return wrong end
local time = redis.call('TIME')
local now = '(' .. string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local count, all = redis.call('ZCOUNT', alive, now, '+inf'), redis.call('ZCARD', alive)
local newest = redis.call('ZRANGE', news_of, -1, -1, 'WITHSCORES')[2] or '0'
local changed = redis.call('HGET', peers, '') or ''
if redis.call('HLEN', peers) - 1 ~= all or redis.call('ZCARD', news_of) ~= all then changed = '' end
local is_known = changed ~= '' and changed == ARGV[1] and count == tonumber(ARGV[2])
  and tonumber(newest) >= tonumber(ARGV[3])
local found = {}
local function add(name)
  local said = redis.call('HGET', members, name)
  if said then
    found[#found + 1] = name
    found[#found + 1] = said
  end
end
if is_known then
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', news_of, '(' .. ARGV[3], '+inf')) do add(name) end
  return {changed, count, newest, 1, found}
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', alive, now, '+inf')) do
  add(name)
  if not redis.call('ZSCORE', news_of, name) then changed = '' end
end
return {changed, count, newest, 0, found}
"""
)


_peer = msgspec.json.Decoder(Peer)


class _Peers(NamedTuple):
    changed: bytes
    """When they last changed, in the server's words."""
    found: Sequence[Peer]


class _Members(NamedTuple):
    """What this process knows of them; `changed`, `alive` and `newest` in the server's words."""

    changed: bytes = b""
    alive: int = 0
    newest: bytes = b"0"
    by_name: Mapping[bytes, Sequence[Member]] = {}
    """One that can't be read has none."""
    found: Sequence[Member] = ()


_CHECK_INS = ("members", "alive", "news", "peers")
"""The keys that have what members say."""


class RedisRegistry:
    """Trains in Redis. `server` says where and how, or use `from_url`. `clock` gives seconds since the epoch, as for
    all drivers; members' times use the server's clock.

    What is stored is as durable as the server's configuration makes it (`appendonly`, `appendfsync`), and a failover
    may lose what was not replicated yet; see docs/brokers/redis.md. Belongs to the event loop that entered it.
    """

    def __init__(self, server: Server | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self.server = server or Server()
        self._client = Client(self.server, "registry")
        self.timetable = RedisTimetable(self._client)
        self.once = RedisOnce(self._client)
        self._strangers = Strangers(self.server.where)
        self._peers: dict[str, _Peers] = {}
        """By train: the peers at the last look at them."""
        self._members: dict[str, _Members] = {}
        """By train: the members at the last look at them."""

    @classmethod
    def from_url(cls, url: str, *, clock: Callable[[], float] = time.time) -> RedisRegistry:
        """A URL as for `RedisBroker.from_url`. Raises UsageError."""
        return cls(Server.from_url(url), clock=clock)

    async def __aenter__(self) -> RedisRegistry:
        """Connect. Raises Unavailable, StorageBroken (wrong password, too old a server)."""
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.__aexit__()

    def _key(self, train: str, what: str) -> str:
        return f"{self.server.prefix}:{{{train}}}:{what}"

    @property
    def _trains(self) -> str:
        return f"{self.server.prefix}:trains"

    async def read(self, train: str) -> Snapshot:
        return await self._other(train, -1) or Snapshot(Manifest(train=train), 0)

    async def _other(self, train: str, seen: int) -> Snapshot | None:
        """The manifest, if its version differs from `seen`."""
        answer = await self._client.run(
            f"reading the manifest of {train}", _OTHER, [self._key(train, "manifest")], [seen]
        )
        if answer is None:
            return None
        version, document = answer
        if not version:
            return Snapshot(Manifest(train=train), version)
        key = self._key(train, "manifest")
        kept = f"Redis at {self.server.where}, key {key} (redis-cli HGET '{key}' document shows it)"
        return Snapshot(manifest.decode(document or b"", train=train, kept=kept), version)

    async def replace(
        self,
        train: str,
        manifest: Manifest,
        *,
        expect: int,
        entries: Sequence[Entry] = (),
        keep: int = 10_000,
        beyond: int = 0,
    ) -> Snapshot:
        what = f"replacing the manifest of {train}"
        if (
            expect == 0
        ):  # listed first: a name without a manifest is no train, but a train without a name would not be found
            await self._client.command(what, self._trains, "SADD", self._trains, train)
        keys = [self._key(train, "manifest"), self._key(train, "journal")]
        arguments: list[str | bytes | int] = [
            expect,
            _encode(manifest),
            token_hex(8),
            keep,
            beyond,
            *[facts.encode_entry(e) for e in entries],
        ]
        stored, version = await self._surely(what, _REPLACE, keys, arguments)
        if not stored:
            raise out_of_date(train, version, expect)
        return Snapshot(manifest, version)

    async def _surely(
        self, what: str, script: Script, keys: list[str], arguments: list[str | bytes | int]
    ) -> tuple[int, int]:
        """Repeat the call if its answer was lost: the mark among the arguments keeps it from being done twice."""
        for attempt in range(_TRIES):
            try:
                (answer,) = await self._client.send(script, keys, arguments)
            except (NotSent, Lost) as e:
                if attempt == _TRIES - 1:
                    raise self._client.explain(e, what) from e.__cause__
                await asyncio.sleep(0.05 * (attempt + 1))
                continue
            if isinstance(answer, Exception):
                raise self._client.explain(answer, what)
            return answer[0], answer[1]
        raise AssertionError

    @asynccontextmanager
    async def watch(self, train: str) -> AsyncIterator[AsyncIterator[Snapshot]]:
        with self._client.notifier.listening(self._key(train, "manifest:bell")) as next_notice:
            yield Changes(partial(self._wait, train, next_notice))

    async def _wait(self, train: str, next_notice: Callable[[], asyncio.Event], seen: int) -> Snapshot:
        """The first manifest whose version differs from `seen`."""
        while True:
            notice = next_notice()  # before the read, so that no change is missed in between
            if (snapshot := await self._other(train, seen)) is not None:
                return snapshot
            try:
                async with asyncio.timeout(self._client.notifier.poll):
                    await notice.wait()
            except TimeoutError:
                continue

    async def check_in(self, train: str, member: Member, *, ttl: float) -> None:
        keys = [self._key(train, part) for part in _CHECK_INS]
        peer = msgspec.json.encode(Peer.of(member))
        said: list[str | bytes | int] = [member.name, encode_member(member), int(ttl * 1000 + 0.999), peer]
        await self._client.run(f"checking in to {train}", _CHECK_IN, keys, said)
        if ttl > 0:
            await self._list_again(train)

    async def _list_again(self, train: str) -> None:
        """Put the train's name on the list of all trains, which may have been evicted, or deleted by hand. A train that
        is deleted at the same moment is not on it in the end."""
        what, names, key = f"listing {train} again", self._trains, self._key(train, "manifest")
        if await self._client.command(what, names, "SISMEMBER", names, train):
            return
        if not await self._client.command(what, key, "EXISTS", key):
            return
        await self._client.run(what, _LIST, [names], [train])
        if not await self._client.command(what, key, "EXISTS", key):
            await self._client.command(what, names, "SREM", names, train)

    async def members(self, train: str) -> Sequence[Member]:
        """The server answers with what is new."""
        known = self._members.get(train, _Members())
        keys = [self._key(train, part) for part in _CHECK_INS]
        arguments: list[str | bytes | int] = [known.changed, known.alive, known.newest]
        answer = await self._client.run(f"asking who is alive of {train}", _MEMBERS, keys, arguments)
        changed, alive, newest, is_known, fields = answer
        said = {name: decode_members([member]) for name, member in zip(fields[::2], fields[1::2], strict=True)}
        by_name = {**known.by_name, **said} if is_known and said else known.by_name if is_known else said
        found = known.found
        if by_name is not known.by_name:
            found = tuple(sorted((m for each in by_name.values() for m in each), key=lambda member: member.name))
        self._members[train] = _Members(changed, alive, newest, by_name, found)
        return found

    async def peers(self, train: str) -> Sequence[Peer]:
        """See ListsPeers. The server answers with a few bytes while they are as they were."""
        known = self._peers.get(train, _Peers(b"", ()))
        keys = [self._key(train, "alive"), self._key(train, "peers")]
        answer = await self._client.run(f"asking who is there of {train}", _PEERS, keys, [known.changed])
        if not answer:
            self._peers.pop(train, None)
            return [Peer.of(member) for member in await self.members(train)]
        if len(answer) > 1:
            fields = answer[1]
            found = [said for name, said in zip(fields[::2], fields[1::2], strict=True) if name]
            known = self._peers[train] = _Peers(answer[0], tuple(map(_peer.decode, found)))
        return known.found

    async def append(self, train: str, entries: Sequence[Entry], *, keep: int = 10_000) -> None:
        lines = [facts.encode_entry(entry) for entry in entries]
        await self._client.run(f"writing the journal of {train}", _JOIN, [self._key(train, "journal")], [keep, *lines])

    async def entries(self, train: str, *, last: int | None = None) -> AsyncIterator[Entry]:
        first, end = await self._span(train, last)
        while first is not None:
            found = await self._range(train, "XRANGE", first, end)
            for _, fields in found:
                yield facts.decode_entry(fields[1])
            is_more = len(found) == _PAGE and found[-1][0] != LAST_ID.encode()
            first = b"(" + found[-1][0] if is_more else None

    async def _span(self, train: str, last: int | None) -> tuple[bytes | None, bytes]:
        """Where the requested entries begin (None: there are none) and end; later ones are not included."""
        first, newest = b"-", await self._range(train, "XREVRANGE", b"+", b"-", count=1)
        if not newest or last == 0:
            return None, b"-"
        before, left = b"+", last or 0
        while left > 0:
            found = await self._range(train, "XREVRANGE", before, b"-", count=min(left, _PAGE))
            if not found:
                break
            first, left = found[-1][0], left - len(found)
            before = b"(" + first
        return first, newest[0][0]

    async def _range(
        self, train: str, command: str, start: bytes, stop: bytes, *, count: int = _PAGE
    ) -> list[tuple[bytes, list[bytes]]]:
        key = self._key(train, "journal")
        what = f"reading the journal of {train}"
        found: list[tuple[bytes, list[bytes]]] = await self._client.command(
            what, key, command, key, start, stop, "COUNT", count
        )
        return found

    async def delete(self, train: str) -> None:
        self._members.pop(train, None)
        what, keys = (
            f"deleting {train}",
            [self._key(train, part) for part in (*_CHECK_INS, "journal", "manifest")],
        )
        for left in await self._client.run(what, _DELETE, keys):
            key = left.decode(errors="backslashreplace")
            _logger.warning("%s: %s: the key %s is left alone: it is not eventwagon's", self.server.where, what, key)
        await self._client.command(what, self._trains, "SREM", self._trains, train)

    async def trains(self) -> Sequence[str]:
        found, strangers = await self._known()
        self._strangers.tell(self._trains, strangers)
        return found

    async def _known(self) -> tuple[list[str], list[bytes]]:
        """The names of all trains, and members of their set that can't be the name of one."""
        what = "listing the trains"
        members = await self._client.command(what, self._trains, "SMEMBERS", self._trains)
        names, strangers = split(members, lambda name: name)
        names.sort()
        keys = [self._key(name, "manifest") for name in names]
        there = await asyncio.gather(*(self._client.command(what, key, "EXISTS", key) for key in keys))
        found = [name for name, exists in zip(names, there, strict=True) if exists]
        strangers += [name.encode() for name in names if name not in found and not _is_train(name)]
        return found, strangers

    async def inspect(self, channels: Sequence[Channel]) -> Sequence[Finding]:
        """See Inspectable."""
        return [*await inspect(self._client), *told(self._trains, (await self._known())[1])]


def _encode(document: Manifest) -> bytes:
    return manifest.encode(document)


def _is_train(name: str) -> bool:
    try:
        check_train_name(name)
    except UsageError:
        return False
    return True
