"""The operations on a channel on the server, each in one step. All keys of a call are in one slot.

A channel has four keys. The stream has the events that are not settled: settling deletes an entry, so that published =
entries-added and settled = entries-added - length, whoever wrote. The hash `meta` says that the channel exists, and
whether it is sealed.

Claimed entries are pending in the stream's consumer group, under a consumer whose name is the visibility time in
milliseconds and, after a colon, the owner: a claim has expired when it is idle for longer. Entries that were given back
are in `back`, scored by when they are available again. A suspect that is available now is scored by its attempts, far
below zero, so that the one with the most comes first.

`taken` has "ticket:attempt" for each entry that was received more than once, with a `?` behind it for a suspect, and a
`!` for one that is alone in its process. The ticket is that of the receive that claimed it and distinguishes a stale
claim from the new one (it is "0:1" for the first claim, "-" while nobody has the entry). Times are the server's, in
milliseconds.
"""

from __future__ import annotations

from .client import Script

GROUP = "eventwagon"
MOST = 1000
"""The most events in one call: the server does nothing else meanwhile."""
SEARCH_EVERY = 10_000
"""Milliseconds between two searches of a channel for entries that nobody can receive."""
STRAYS_TOLD = 60_000
"""Milliseconds, at least, for which a channel's depth names those that were found: each observer sees it."""
LAST_ID = "18446744073709551615-18446744073709551615"
"""A stream that has had an entry with this id is exhausted: it takes no other ever, also once that entry is deleted."""

# A key that holds another kind of value is not ours, and is left alone.
KIND = """
local function kind(key) return redis.call('TYPE', key).ok end
local function displaced(keys, kinds)
  for i, key in ipairs(keys) do
    local is = kind(key)
    if is ~= kinds[i] and is ~= 'none' then
      return {err = 'WRONGTYPE ' .. key .. ' holds a ' .. is .. ', not a ' .. kinds[i]}
    end
  end
end
"""

# The number in a field of a channel's hash; nil if the field is not there, or somebody else wrote it. Hints are then
# begun anew; only without its bound a channel can't go on.
_NUMBER = """
local function number(value)
  return value and string.match(value, '^%d+$') and tonumber(value) or nil
end
"""

# A channel stands as long as its stream does: its events can be read. What else is gone is mended by ATTACH, or waits
# until somebody deletes the key that is in its place. (A stream alone is a stranger's, who added to a deleted channel.)
_STANDS = (
    KIND
    + """
local function stands(stream, meta)
  if kind(stream) ~= 'stream' then return false end
  if kind(meta) ~= 'none' then return true end
  for _, facts in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    for i = 1, #facts, 2 do
      if facts[i] == 'name' and facts[i + 1] == 'eventwagon' then return true end
    end
  end
  return false
end
"""
)

_KINDS = _STANDS + "local channel = {'stream', 'hash', 'zset', 'hash'}\n"

_TIME = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# Claims that expired, up to `most`, and the shortest visibility time of all claims (nil: there are none). A consumer
# that is not ours has half a minute.
_LATE = """
local group = 'eventwagon'
local function visible(consumer)
  return tonumber(consumer) or tonumber(string.match(consumer, '^(%d+):')) or 30000
end
local function late(stream, most)
  local ids, shortest = {}, nil
  for _, row in ipairs(redis.call('XPENDING', stream, group)[4] or {}) do
    local time = visible(row[1])
    shortest = math.min(shortest or time, time)
    if #ids < most then
      local found = redis.call('XPENDING', stream, group, 'IDLE', time, '-', '+', most - #ids, row[1])
      for _, claim in ipairs(found) do ids[#ids + 1] = claim[1] end
    end
  end
  return ids, shortest
end
"""

# Ticket, attempt and suspicion of an event; and that its claim has expired.
_SUSPECT = """
local function known(id)
  local ticket, attempt, suspicion = string.match(redis.call('HGET', taken, id) or '0:1', '^(.-):(%d+)(.*)$')
  if not ticket or #attempt > 9 then return '-', '1', '' end  -- not ours
  return ticket, attempt, suspicion
end
local function suspect(id, attempt)
  redis.call('ZADD', back, -1e15 - attempt, id)
  redis.call('HSET', taken, id, '-:' .. attempt .. '?')
end
local function run_out(id)
  local _, attempt, suspicion = known(id)
  redis.call('XACK', stream, group, id)
  suspect(id, attempt + (suspicion == '!' and 1 or 0))
end
"""

# Whether that claim is still valid: its attempt and suspicion, or nil.
_HELD = (
    _SUSPECT
    + """
local function held(id, mark)
  local ticket, attempt, suspicion = known(id)
  if ticket .. ':' .. attempt ~= mark then return nil end
  local claim = redis.call('XPENDING', stream, group, id, id, 1)[1]
  if claim and claim[3] < visible(claim[2]) then return attempt, suspicion end
end
"""
)

# A consumer that found nothing and waits has set the field `bell`: one notification for all of them, none if nobody
# waits. If it is refused (a right is missing), they wait a second longer; that must not fail what was stored.
_RING = """
local function ring(meta)
  if redis.call('HDEL', meta, 'bell') == 1 then redis.pcall('PUBLISH', KEYS[1] .. ':bell', '') end
end
"""

_LAST = f"local last_id = '{LAST_ID}'\n"

ADDED = (
    _LAST
    + """
local function added(stream)
  local facts = redis.pcall('XINFO', 'STREAM', stream)
  if facts.err then return nil end
  local total, length, last
  for i = 1, #facts, 2 do
    if facts[i] == 'entries-added' then total = facts[i + 1] end
    if facts[i] == 'length' then length = facts[i + 1] end
    if facts[i] == 'last-generated-id' then last = facts[i + 1] end
  end
  return total, length, last == last_id, last
end
"""
)

_OLDER = """
local function older(a, b)
  local am, as = string.match(a, '(%d+)-(%d+)')
  local bm, bs = string.match(b, '(%d+)-(%d+)')
  am, as, bm, bs = tonumber(am), tonumber(as), tonumber(bm), tonumber(bs)
  return am < bm or (am == bm and as < bs)
end
"""

# Entries after `cursor`, up to `last` (nil: all), in growing pages, so that large events are noticed in time. The
# server refuses to look for any after the last id.
_PAGES = (
    _LAST
    + """
local function pages(stream, cursor, limit, bytes, into, last)
  local size, page = 0, 8
  while #into < limit and size < bytes and cursor ~= last_id do
    page = math.min(256, page * 2)
    local count = math.min(page, limit - #into)
    local found = redis.call('XRANGE', stream, '(' .. cursor, last or '+', 'COUNT', count)
    for _, entry in ipairs(found) do
      into[#into + 1] = entry
      local fields = entry[2]
      for i = 2, #fields, 2 do size = size + #fields[i] end
    end
    if #found > 0 then cursor = found[#found][1] end
    if #found < count then break end
  end
  return cursor
end
"""
)

# ARGV: the capacity; not empty if the stream alone may be created again.
CREATE = Script(
    _KINDS
    + """
local stream, meta, back, taken = unpack(KEYS)
local wrong = displaced(KEYS, channel)
if wrong then return wrong end
if redis.call('EXISTS', meta) == 0 then
  redis.call('DEL', back, taken)
  redis.pcall('XGROUP', 'DESTROY', stream, 'eventwagon')
  redis.call('XGROUP', 'CREATE', stream, 'eventwagon', '0', 'MKSTREAM')
  redis.call('HSET', meta, 'made', '1', 'ticket', '0', 'largest', '1')
elseif redis.call('EXISTS', stream) == 0 and ARGV[2] == '' then
  return 'broken'
elseif not redis.pcall('XGROUP', 'CREATE', stream, 'eventwagon', '0', 'MKSTREAM').err then
  redis.call('DEL', back, taken)  -- the group was destroyed, and all comes again; or the stream is gone
end
if ARGV[1] ~= '' then redis.call('HSET', meta, 'capacity', ARGV[1]) end
return 'made'
""",
    when_full=True,
)

UNBOUND = Script("return redis.call('HDEL', KEYS[1], 'capacity')", when_full=True)

# ARGV: the most bytes of one, the fields of all events except their data, packed; then the data of each.
_PUBLISH = (
    _STANDS
    + _NUMBER
    + ADDED
    + _RING
    + """
local stream, meta = KEYS[1], KEYS[2]
local facts = redis.pcall('HMGET', meta, 'made', 'sealed', 'capacity', 'bell', 'largest')
if facts.err or not facts[1] then
  if not stands(stream, meta) then return {'gone', 0} end
  if ingress then return {'unknown', 0} end  -- whether it was sealed
  facts = {}
end
if facts[2] then return {'sealed', 0} end
local capacity = number(facts[3])
if ingress and facts[3] and not capacity then return {'unbounded', 0} end
local events = cmsgpack.unpack(ARGV[2])
local room = #events
if capacity then
  local total = added(stream)
  if not total then return {'broken', 0} end
  room = math.max(0, math.min(room, capacity - total))
end
local status = room < #events and 'full' or 'stored'
for i = 1, room do
  local fields = events[i]
  local n = #fields
  fields[n + 1] = 'data'
  fields[n + 2] = ARGV[i + 2]
  local id = redis.pcall('XADD', stream, 'NOMKSTREAM', '*', unpack(fields))
  if not id then return {'broken', 0} end
  if type(id) == 'table' then  -- an error
    local _, _, exhausted = added(stream)
    if not exhausted then return id end
    room, status = i - 1, 'exhausted'
    break
  end
end
if tonumber(ARGV[1]) > (number(facts[5]) or 0) and facts[1] then redis.call('HSET', meta, 'largest', ARGV[1]) end
if facts[4] and room > 0 then ring(meta) end
return {status, room, facts[3]}
"""
)

PUBLISH = Script("local ingress = true\n" + _PUBLISH)
EMIT = Script("local ingress = false\n" + _PUBLISH, when_full=True)
"""Into a channel other than the ingress, past `maxmemory` if it must be: otherwise the events that emitted could not be
settled, and dead letters could not be moved."""

LIST = Script("return redis.call('SADD', KEYS[1], ARGV[1])", when_full=True)

SEAL = Script(
    """
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'sealed', '1') end
return 1
""",
    when_full=True,
)


def deletion(*kinds: str) -> Script:
    """Deletes keys of these kinds. Its answer: those that it left standing, since they hold something else."""
    return Script(
        f"local kinds = {{{', '.join(map(repr, kinds))}}}\n"
        + KIND
        + """
local ours, others = {}, {}
for i, key in ipairs(KEYS) do
  local is = kind(key)
  if is == kinds[i] then
    ours[#ours + 1] = key
  elseif is ~= 'none' then
    others[#others + 1] = key .. ' (a ' .. is .. ')'
  end
end
if #ours > 0 then
  redis.call('UNLINK', unpack(ours))
  redis.pcall('PUBLISH', KEYS[1] .. ':bell', '')
end
return others
""",
        when_full=True,
    )


DELETE = deletion("stream", "hash", "zset", "hash")

# Entries that nobody can receive: delivered to the group, neither claimed nor to come back, and not settled. Other
# programs cause them: XGROUP SETID or DELCONSUMER, XREADGROUP NOACK, XACK without XDEL. Whoever has one may be handling
# it, and is given the visibility time; then it comes back. The entries are searched only if the totals say that there
# are some, or say nothing (the server does not always know how many are new): a thousand in a call, from where the last
# call ended. Returns when to search next.
_STRAYS = (
    _OLDER
    + _PAGES
    + ADDED
    + f"local every, told, most = {SEARCH_EVERY}, {STRAYS_TOLD}, {MOST}\n"
    + """
local function group_of(stream)
  for _, facts in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local found = {}
    for i = 1, #facts, 2 do found[facts[i]] = facts[i + 1] end
    if found.name == group then return found['last-delivered-id'], found.pending, found.lag end
  end
end
local function search(now, visibility, bytes)
  local _, length, _, last = added(stream)
  local cursor, pending, lag = group_of(stream)
  if not length or not cursor then return now + every end
  if older(last, cursor) then  -- new entries would never be delivered
    redis.call('XGROUP', 'SETID', stream, group, last)
    cursor = last
  end
  local unread = 0
  if cursor ~= last_id and #redis.call('XRANGE', stream, '(' .. cursor, '+', 'COUNT', 1) > 0 then unread = lag end
  if unread and length - unread <= pending + redis.call('ZCARD', back) then
    redis.call('HDEL', meta, 'searched')
    return now + every
  end
  local from, entries, count = redis.call('HGET', meta, 'searched') or '0-0', {}, 0
  if redis.pcall('XRANGE', stream, '(' .. from, '+', 'COUNT', 1).err then from = '0-0' end
  from = pages(stream, from, most, bytes, entries, cursor)
  for n, entry in ipairs(entries) do
    local id = entry[1]
    if #redis.call('XPENDING', stream, group, id, id, 1) == 0 and not redis.call('ZSCORE', back, id) then
      local _, attempt, suspicion = known(id)
      if suspicion == '!' then attempt = attempt + 1 end
      redis.call('HSET', taken, id, '-:' .. attempt .. (suspicion == '' and '' or '?'))
      redis.call('ZADD', back, now + visibility + n / 1000, id)  -- in their order
      count = count + 1
    end
  end
  if count > 0 then
    local before = redis.call('HMGET', meta, 'strays', 'strays_until')
    if now < (number(before[2]) or 0) then count = count + (number(before[1]) or 0) end
    redis.call('HSET', meta, 'strays', count, 'strays_until', now + math.max(told, visibility))
  end
  if #entries == 0 then
    redis.call('HDEL', meta, 'searched')
    return now + every
  end
  redis.call('HSET', meta, 'searched', from)
  return now
end
"""
)

# Runs right after XREADGROUP has claimed new events: those that come back, as many as there is room for, or one suspect
# (then no new ones were requested), and what to know for the next time. ARGV: room, consumer, whether to be notified,
# most bytes, visibility (ms), 1 for a suspect. Searching for expired claims walks over all claims, so it is done every
# twentieth of the visibility time: `due` is the next time.
AGAIN = Script(
    _TIME
    + _LATE
    + _NUMBER
    + """
local stream, meta, back, taken = unpack(KEYS)
"""
    + _SUSPECT
    + _STRAYS
    + """
local room, visibility, bytes = tonumber(ARGV[1]), tonumber(ARGV[5]), tonumber(ARGV[4])
local facts = redis.call('HMGET', meta, 'made', 'ticket', 'bell', 'largest', 'due', 'search')
if not facts[1] then return {'gone'} end
local ticket = number(facts[2]) or now  -- more than any before
ticket = (ticket > 1e13 and now or ticket) + 1
local old, attempts = {}, {}

local function take(id, attempt, suspicion)
  redis.call('ZREM', back, id)
  local found = redis.pcall('XCLAIM', stream, group, ARGV[2], 0, id, 'RETRYCOUNT', attempt, 'FORCE')
  if found.err and not string.find(found.err, 'XCLAIM option', 1, true) then error(found) end  -- that is no id
  local entry = found[1]
  if not entry then
    redis.call('HDEL', taken, id)
    return
  end
  redis.call('HSET', taken, id, ticket .. ':' .. attempt .. suspicion)
  old[#old + 1] = entry
  attempts[#attempts + 1] = tonumber(attempt)
  local fields = entry[2]
  for i = 2, #fields, 2 do bytes = bytes - #fields[i] end
end

local due = number(facts[5]) or 0
if now >= due then
  local ids, shortest = late(stream, 1000)
  for _, id in ipairs(ids) do run_out(id) end
  due = now
  if #ids < 1000 then due = now + (shortest and math.max(5, math.floor(shortest / 20)) or visibility) end
end
due = math.min(due, now + visibility)
if due ~= number(facts[5]) then redis.call('HSET', meta, 'due', due) end
local again = number(facts[6]) or 0
if now >= again or again > now + every then
  again = search(now, visibility, bytes)
  redis.call('HSET', meta, 'search', again)
end

if room > 0 then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', back, 0, now, 'LIMIT', 0, room)) do
    local _, attempt, suspicion = known(id)
    if suspicion == '?' then
      suspect(id, attempt)
    elseif bytes > 0 then
      take(id, attempt, '')
    end
  end
end
while ARGV[6] == '1' and #old == 0 do
  local id = redis.call('ZRANGEBYSCORE', back, '-inf', '(0', 'LIMIT', 0, 1)[1]
  if not id then break end
  local _, attempt = known(id)
  take(id, attempt, '?')
end

if #old > 0 then redis.call('HSET', meta, 'ticket', ticket) end
local wait, more = math.min(due, again) - now, false
local suspects = redis.call('ZCOUNT', back, '-inf', '(0')
local next = redis.call('ZRANGEBYSCORE', back, 0, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
if next then
  wait = math.min(wait, next - now)
  more = next - now <= 0
end
if ARGV[3] == '1' and #old == 0 and not facts[3] then redis.call('HSET', meta, 'bell', '1') end
return {'some', ticket, old, attempts, more and 1 or 0, math.max(1, wait), number(facts[4]) or 1, suspects}
""",
    when_full=True,
)

SETTLE = Script(
    """
local stream, meta, back, taken = unpack(KEYS)
if redis.call('EXISTS', meta) == 0 then return 'gone' end
redis.call('XDEL', stream, unpack(ARGV))
redis.call('XACK', stream, 'eventwagon', unpack(ARGV))
if redis.call('EXISTS', taken) == 1 then
  redis.pcall('ZREM', back, unpack(ARGV))  -- one that is not ours must not fail what is settled
  redis.pcall('HDEL', taken, unpack(ARGV))
end
return 'done'
""",
    when_full=True,
)

# ARGV: delay (ms), 1 if the attempt counts, 1 if they are no suspects any longer, then ids and the marks of their
# claims in turn.
RELEASE = Script(
    _TIME
    + _LATE
    + _RING
    + """
local stream, meta, back, taken = unpack(KEYS)
"""
    + _HELD
    + """
if redis.call('EXISTS', meta) == 0 then return 'gone' end
local given = false
for i = 4, #ARGV, 2 do
  local id = ARGV[i]
  local attempt, suspicion = held(id, ARGV[i + 1])
  if attempt then
    redis.call('XACK', stream, group, id)
    if suspicion ~= '' and ARGV[2] == '0' and ARGV[3] == '0' then
      suspect(id, attempt)
      if ARGV[1] ~= '0' then redis.call('ZADD', back, now + tonumber(ARGV[1]), id) end
    else
      redis.call('ZADD', back, now + tonumber(ARGV[1]), id)
      redis.call('HSET', taken, id, '-:' .. attempt + tonumber(ARGV[2]))
    end
    given = true
  end
end
if given then ring(meta) end
return 'done'
""",
    when_full=True,
)

# ARGV: the id and the mark of its claim.
ALONE = Script(
    _LATE
    + """
local stream, meta, back, taken = unpack(KEYS)
"""
    + _HELD
    + """
if redis.call('EXISTS', meta) == 0 then return 'gone' end
if not held(ARGV[1], ARGV[2]) then return 0 end
redis.call('HSET', taken, ARGV[1], ARGV[2] .. '!')
return 1
""",
    when_full=True,
)

# ARGV: the owner. How many of its claims this has ended: a thousand at the most, so there may be more.
RECLAIM = Script(
    _LATE
    + _RING
    + """
local stream, meta, back, taken = unpack(KEYS)
"""
    + _SUSPECT
    + """
if redis.call('EXISTS', meta, stream) < 2 then return 0 end
local count = 0
for _, row in ipairs(redis.call('XPENDING', stream, group)[4] or {}) do
  if string.match(row[1], '^%d+:(.*)$') == ARGV[1] and count < 1000 then
    for _, claim in ipairs(redis.call('XPENDING', stream, group, '-', '+', 1000 - count, row[1])) do
      run_out(claim[1])
      count = count + 1
    end
  end
end
if count > 0 then ring(meta) end
return count
""",
    when_full=True,
)

# ARGV: consumer, then ids and the marks of their claims in turn.
EXTEND = Script(
    _LATE
    + """
local stream, meta, back, taken = unpack(KEYS)
"""
    + _HELD
    + """
if redis.call('EXISTS', meta) == 0 then return 'gone' end
local ids = {}
for i = 2, #ARGV, 2 do
  if held(ARGV[i], ARGV[i + 1]) then ids[#ids + 1] = ARGV[i] end
end
if #ids > 0 then
  ids[#ids + 1] = 'JUSTID'
  redis.call('XCLAIM', stream, group, ARGV[1], 0, unpack(ids))
end
return 'done'
""",
    when_full=True,
)

# KEYS: four for each channel. If many came back (ARGV: how many are many), the oldest is not searched for.
DEPTH = Script(
    _KINDS
    + _NUMBER
    + _TIME
    + _LATE
    + _OLDER
    + ADDED
    + """
local many = tonumber(ARGV[1])

local function about(entry)
  if not entry then return false end
  local fields = entry[2]
  for i = 1, #fields, 2 do
    if fields[i] == 'time' then return {entry[1], fields[i + 1]} end
  end
  return {entry[1], ''}
end

local function reader(stream)
  for _, facts in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local found = {}
    for i = 1, #facts, 2 do found[facts[i]] = facts[i + 1] end
    if found.name == group then return found['last-delivered-id'], found.pending end
  end
end

-- The figures; if a part of the channel is broken only the totals, and what is wrong; if its stream is gone, why.
local function one(stream, meta, back, taken)
  local wrong = displaced({stream, meta, back, taken}, channel)
  if not stands(stream, meta) then return wrong and wrong.err or '' end
  local total, length, exhausted = added(stream)
  if not total then return '' end
  if wrong then return {total, length, wrong.err} end
  local facts = redis.call('HMGET', meta, 'made', 'due', 'strays', 'strays_until', 'capacity')
  if not facts[1] then return {total, length, meta .. ' is gone'} end
  local cursor, flying = reader(stream)
  if not cursor then return {total, length, 'the consumer group of ' .. stream .. ' is gone'} end
  local again = {}
  if flying > 0 and now >= (number(facts[2]) or 0) then again = late(stream, flying) end
  flying = flying - #again
  local oldest = cursor ~= last_id and about(redis.call('XRANGE', stream, '(' .. cursor, '+', 'COUNT', 1)[1])
  local newest = oldest and about(redis.call('XREVRANGE', stream, '+', '(' .. cursor, 'COUNT', 1)[1])
  local known = 1
  local returned = redis.call('ZCARD', back)
  if #again + returned > many then
    known = 0
  elseif #again + returned > 0 then
    local least, most
    for _, ids in ipairs({again, redis.call('ZRANGE', back, 0, -1)}) do
      for _, id in ipairs(ids) do
        if string.match(id, '^%d+%-%d+$') then
          if not least or older(id, least) then least = id end
          if not most or older(most, id) then most = id end
        end
      end
    end
    oldest = least and about(redis.pcall('XRANGE', stream, least, least)[1]) or oldest
    if most and not newest then newest = about(redis.pcall('XRANGE', stream, most, most)[1]) end
  end
  local strays = now < (number(facts[4]) or 0) and number(facts[3]) or 0
  local unbounded = facts[5] and not number(facts[5])
  return {total, length, flying, known, oldest, newest, exhausted and 1 or 0, strays, unbounded and 1 or 0}
end

local answers = {}
for i = 1, #KEYS, 4 do answers[#answers + 1] = one(unpack(KEYS, i, i + 3)) end
return answers
"""
)

# ARGV: the id after which to begin, most events, most bytes.
PAGE = Script(
    _STANDS
    + _PAGES
    + """
if not stands(KEYS[1], KEYS[2]) then return 'gone' end
local found = {}
pages(KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), found)
return found
"""
)

STANDS = Script(_STANDS + "return stands(KEYS[1], KEYS[2]) and 1 or 0")

# The size of its largest event and whether there are suspects, for attaching; nothing if there is no channel. ARGV: the
# channel's name. A hash or a consumer group that is gone is made again, and all events come again; an ingress is sealed
# then, because it may have been.
# Consumers that claim nothing are deleted: the group keeps the names of all that ever were, and accepts again one that
# comes back.
ATTACH = Script(
    _KINDS
    + _NUMBER
    + _LATE
    + """
local stream, meta, back, taken = unpack(KEYS)
if not stands(stream, meta) then return false end
local wrong = displaced(KEYS, channel)
if wrong then
  if kind(meta) == 'hash' then redis.pcall('XGROUP', 'DESTROY', stream, group) end  -- all must come again
  return wrong
end
if redis.call('HEXISTS', meta, 'made') == 0 then
  redis.pcall('XGROUP', 'DESTROY', stream, group)
  redis.call('HSET', meta, 'made', '1', 'ticket', '0', 'largest', '1')
  if ARGV[1] == '' then redis.call('HSET', meta, 'sealed', '1') end
end
if not redis.pcall('XGROUP', 'CREATE', stream, group, '0').err then redis.call('DEL', back, taken) end
local largest = number(redis.call('HGET', meta, 'largest')) or 1
for _, facts in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  local found = {}
  for i = 1, #facts, 2 do found[facts[i]] = facts[i + 1] end
  if found.pending == 0 then redis.call('XGROUP', 'DELCONSUMER', stream, group, found.name) end
end
local suspects = redis.call('ZCOUNT', back, '-inf', '(0')
if suspects == 0 and #late(stream, 1) > 0 then
  redis.call('HSET', meta, 'due', 0)
  suspects = 1
end
return {largest, suspects}
""",
    when_full=True,
)
