"""A stream of Redis or Valkey, by a consumer group."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, Self
from urllib.parse import quote, urlencode

from ...cloudevents import Pairs
from ...contracts.address import Address
from ...display.text import count
from ...drivers.redis.errors import Lost, NotSent, code, explain
from ...drivers.redis.link import Argument, Link, pack
from ...drivers.redis.server import Server, options_of
from ...errors import EventwagonError, StorageBroken, Unavailable, UsageError
from ...event import check_word
from ..source import Begin, Lag, Record

_logger = logging.getLogger("eventwagon.bridge")
_OWN = ("group", "stream", "field", "idle")
_FORGOTTEN = 6 * 3600.0
"""Seconds without a sign of life after which the consumer of a bridge is removed if it holds nothing. One that lives
after all is made again by its next read."""
_FORGET = """
local removed = 0
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local of = {}
  for at = 1, #consumer, 2 do of[consumer[at]] = consumer[at + 1] end
  if of.pending == 0 and of.idle > tonumber(ARGV[2]) and of.name:find('^eventwagon%-.+%-%d+%-%x%x%x%x$') then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], of.name)
    removed = removed + 1
  end
end
return removed
"""
"""Removes the consumers of bridges that were killed long ago. In one step: with entries that are pending meanwhile a
consumer's removal would lose them."""
_LAST = 2**64 - 1
"""The last number of an entry within its millisecond."""


def open_redis(address: Address, begin: Begin) -> RedisSource:
    """The source of `redis://host:port/STREAM?group=NAME`, and of the other forms of a Redis URL. Raises UsageError."""
    address.only(*_OWN, *options_of(address.scheme))
    options = {name: value for name, value in address.options.items() if name not in _OWN}
    place, stream = f"{address.scheme}://{address.host}", address.path.strip("/")
    if "unix" in address.scheme:
        place, stream = f"{place}{quote(address.path)}", ""
    elif "+sentinel" in address.scheme:
        primary, _, stream = stream.partition("/")
        place = f"{place}/{quote(primary)}"
    stream, group = address.options.get("stream", stream), address.options.get("group", "")
    if not stream or not group:
        raise address.wrong("name the stream and its consumer group: redis://host:6379/STREAM?group=NAME")
    server = Server.at_address(Address.of(f"{place}?{urlencode(options)}", clock=address.clock))
    check_word("id", _place(stream) + "0-0")
    return RedisSource(
        server,
        stream,
        group,
        name=check_word("source", f"{address.scheme}://{address.host.rpartition('@')[2]}/{quote(stream, safe=':/')}"),
        field=address.options.get("field", ""),
        idle=address.seconds("idle", 60.0, least=0.1, most=1e6),
        begin=begin,
        clock=address.clock,
    )


class RedisSource:
    """Reads as a consumer of its own. An entry that it holds is claimed again in good time, so that others do not take
    it over; what others have claimed and not acknowledged for `idle` seconds it takes over."""

    def __init__(
        self,
        server: Server,
        stream: str,
        group: str,
        *,
        name: str,
        field: str,
        idle: float,
        begin: Begin,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self._server, self._stream, self._group = server, stream, group
        self._place = _place(stream)
        self._field, self._idle, self._begin, self._clock = field, idle, begin, clock
        self._me = f"eventwagon-{socket.gethostname()}-{os.getpid()}-{os.urandom(2).hex()}"
        self._link: Link | None = None
        self._claiming: asyncio.Task[None] | None = None
        self._held: dict[bytes, None] = {}
        """The ids that were read and not committed."""
        self._joined = False
        self._again: bytes | None = None
        """A call was lost: the server may have given us entries, after this id, that never arrived."""
        self._cursor, self._claim_at = b"0-0", 0.0

    async def __aenter__(self) -> Self:
        self._link = Link(self._server)
        try:
            groups = await self._groups()
            if self._group not in (groups or ()) and self._begin is None:
                if groups is None:
                    wrong = f"there is no stream {self._stream!r} in database {self._server.db}"
                else:
                    there = f"there are: {', '.join(sorted(groups))}" if groups else "it has none"
                    wrong = f"there is no consumer group {self._group!r}; {there}"
                raise UsageError(f"{self.name}: {wrong}. Give --from earliest, latest or a time to begin a new one")
        except BaseException:
            await self._link.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._claiming is not None:
            self._claiming.cancel()
            await asyncio.wait([self._claiming])
        if self._link is not None:
            try:
                if self._joined and not await self._pending(1):  # with its pending entries they would be forgotten
                    await self._call("leaving", "XGROUP", "DELCONSUMER", self._stream, self._group, self._me)
            except EventwagonError:
                pass  # an idle consumer harms nothing
            await self._link.close()

    async def read(self, limit: int, wait: float) -> Sequence[Record] | None:
        """See Source."""
        await self._join()
        if self._again is not None:
            return await self._missed(limit)
        if (now := asyncio.get_running_loop().time()) >= self._claim_at:
            taken = await self._taken_over(limit)
            if self._cursor == b"0-0":
                self._claim_at = now + self._idle / 2
            if taken:
                return taken
        block = max(1, int(1000 * min(wait, self._server.timeout / 2)))
        words = ("GROUP", self._group, self._me, "COUNT", limit, "BLOCK", block, "STREAMS", self._stream, ">")
        try:
            found = await self._call("reading", "XREADGROUP", *words)
        except Unavailable:
            self._again = b"0-0"
            raise
        return self._records(found[0][1]) if found else []

    async def _join(self) -> None:
        if self._joined:
            return
        match self._begin:
            case None:
                pass
            case "earliest" | "latest" as begin:
                await self._create("0" if begin == "earliest" else "$")
            case time:
                await self._create(f"{max(0, int(time * 1000) - 1)}-{_LAST}")
        self._joined = True
        self._claiming = asyncio.create_task(self._keep_claims())
        await self._forget()

    async def _forget(self) -> None:
        """Remove what killed bridges have left in the group."""
        try:
            idle = int(1000 * _FORGOTTEN)
            removed = await self._call("tidying", "EVAL", _FORGET, 1, self._stream, self._group, idle)
        except EventwagonError:  # a server or a user without EVAL: an idle consumer harms nothing
            return
        if removed:
            _logger.info("bridge from %s: %s of killed bridges removed", self.name, count(removed, "consumer"))

    async def _create(self, begin: str) -> None:
        if self._group not in (await self._groups() or ()):
            await self._call("joining", "XGROUP", "CREATE", self._stream, self._group, begin, "MKSTREAM")

    async def _missed(self, limit: int) -> Sequence[Record]:
        """Entries that are ours by the server's account, and did not arrive."""
        words = ("GROUP", self._group, self._me, "COUNT", limit, "STREAMS", self._stream, self._again or b"0-0")
        found = await self._call("reading", "XREADGROUP", *words)
        entries = found[0][1] if found else []
        self._again = entries[-1][0] if entries else None
        return self._records([each for each in entries if each[0] not in self._held])

    async def _taken_over(self, limit: int) -> Sequence[Record]:
        idle = int(1000 * self._idle)
        found = await self._call(
            "taking over", "XAUTOCLAIM", self._stream, self._group, self._me, idle, self._cursor, "COUNT", limit
        )
        self._cursor = found[0]
        return self._records([each for each in found[1] if each is not None and each[0] not in self._held])

    async def commit(self, records: Sequence[Record]) -> None:
        """See Source."""
        if records:
            ids = [record.token for record in records]
            await self._call("acknowledging", "XACK", self._stream, self._group, *ids)
            for each in ids:
                self._held.pop(each, None)

    async def peek(self, limit: int) -> Sequence[Record]:
        """See Source. What others have claimed is not shown."""
        group = (await self._groups() or {}).get(self._group)
        if group is not None:
            start: Argument = b"(" + group[b"last-delivered-id"]
        elif self._begin == "latest":
            return []
        else:
            start = f"{int(self._begin * 1000)}-0" if isinstance(self._begin, float) else "-"
        return [self._record(*each) for each in await self._range(start, limit)]

    async def lag(self) -> Lag:
        """See Source: that of the whole group."""
        group = (await self._groups() or {}).get(self._group)
        if group is None:
            return Lag()
        behind, pending = group.get(b"lag"), group[b"pending"]
        oldest = [each[0] for each in await self._pending(1, ours=False)] if pending else []
        oldest = oldest or [each[0] for each in await self._range(b"(" + group[b"last-delivered-id"], 1)]
        age = max(0.0, self._clock() - _time(oldest[0].decode())) if oldest else 0.0
        return Lag(records=None if behind is None else behind + pending, seconds=age)

    async def _keep_claims(self) -> None:
        """Claim again what is held, so that nobody takes it over while the train takes no events."""
        while True:
            await asyncio.sleep(self._idle / 4)
            if not self._held:
                continue
            try:
                mine = {each[0] for each in await self._pending(len(self._held))}
                held = [each for each in self._held if each in mine]
                if held:
                    await self._call("claiming", "XCLAIM", self._stream, self._group, self._me, 0, *held, "JUSTID")
            except EventwagonError:
                pass  # `read` and `commit` tell of it

    async def _pending(self, limit: int, *, ours: bool = True) -> list[Any]:
        whose = (self._me,) if ours else ()
        found: list[Any] = await self._call("looking", "XPENDING", self._stream, self._group, "-", "+", limit, *whose)
        return found

    async def _range(self, start: Argument, limit: int) -> list[Any]:
        found: list[Any] = await self._call("looking", "XRANGE", self._stream, start, "+", "COUNT", limit)
        return found

    async def _groups(self) -> dict[str, dict[bytes, Any]] | None:
        """The stream's groups, by name; None if there is no stream."""
        try:
            found = await self._call("looking", "XINFO", "GROUPS", self._stream)
        except _Vanished:
            return None
        groups = [dict(zip(each[::2], each[1::2], strict=True)) for each in found]
        return {each[b"name"].decode("utf-8", "replace"): each for each in groups}

    async def _call(self, what: str, *words: Argument) -> Any:
        """One command's answer. Raises Unavailable, StorageBroken."""
        what = f"{what} (stream {self._stream})"
        if self._link is None:
            raise Unavailable(f"{self.name}: {what}: it is not open")
        wire = "calls" if words[0] == "XREADGROUP" else "stores"  # a call that waits holds up those behind it
        try:
            (answer,) = await self._link.send(self._stream, [pack(*words)], wire)
        except (NotSent, Lost) as e:
            raise explain(e, self._server.where, self._stream, what, cluster=self._server.cluster) from e.__cause__
        if not isinstance(answer, Exception):
            return answer
        text = str(answer)
        if "NOGROUP" in text or "no such key" in text:
            raise _Vanished(
                f"{self.name}: the stream or its group {self._group!r} is gone ({text}): restart the bridge with "
                "--from to begin a new group"
            )
        if "WRONGTYPE" in text:
            raise StorageBroken(f"{self.name}: {self._stream!r} is no stream: name another key, or remove it")
        if code(answer) == "NOPERM":
            raise StorageBroken(
                f"{self.name}: {what}: the user lacks a right ({text}); it needs XREADGROUP, XAUTOCLAIM, XCLAIM, XACK, "
                "XPENDING, XINFO, XGROUP and XRANGE on the stream"
            )
        raise explain(answer, self._server.where, self._stream, what, cluster=self._server.cluster)

    def _records(self, entries: Sequence[Any]) -> list[Record]:
        found = [self._record(name, fields) for name, fields in entries if fields is not None]  # None: deleted since
        self._held.update(dict.fromkeys([record.token for record in found]))
        return found

    def _record(self, name: bytes, fields: list[bytes]) -> Record:
        value, pairs, trouble = self._parts(fields)
        place = name.decode()
        return Record(
            position=self._place + place, value=value, headers=pairs, time=_time(place), token=name, trouble=trouble
        )

    def _parts(self, fields: list[bytes]) -> tuple[bytes, Pairs, str]:
        """The payload of an entry with these names and values in turn, the other fields, and what is wrong with it."""
        if len(fields) == 2 and not self._field:
            return fields[1], (), ""
        pairs = list(zip(fields[::2], fields[1::2], strict=True))
        wanted = (self._field or "data").encode()
        place = next((n for n, (field, _) in enumerate(pairs) if field == wanted), None)
        if place is not None:
            return pairs.pop(place)[1], pairs, ""
        if self._field:
            return b"", pairs, f"it has no field {self._field}"
        try:
            value = json.dumps({field.decode(): text.decode() for field, text in pairs}).encode()
        except UnicodeDecodeError:
            return b"", pairs, "its fields are no text, and none of them is called data: name the payload's with field="
        return value, [pair for pair in pairs if pair[0][:3].lower() in (b"ce_", b"ce-")], ""


class _Vanished(Unavailable):
    """The stream or its group does not exist."""


def _place(stream: str) -> str:
    """What the positions of its entries begin with."""
    return f"redis/{quote(stream, safe=':/')}/"


def _time(place: str) -> float:
    """When the entry was added, by its id."""
    return int(place.partition("-")[0]) / 1000
