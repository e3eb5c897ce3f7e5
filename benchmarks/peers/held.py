"""Which events a Redis still holds for a worker: not handled yet, and not lost either."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, cast

from redis import Redis

_NAME = re.compile(rb"customer (\d+)")


def held(url: str) -> set[int]:
    """The numbers of the events in lists, hashes and sorted sets, and of those entries of streams that some group was
    not given or has not acknowledged. Results and the like (plain keys) are nobody's to handle."""
    found: set[int] = set()
    with Redis.from_url(url) as redis:
        for key in redis.scan_iter(count=1000):
            for blob in _blobs(redis, key):
                for text in (blob, *_inner(blob)):
                    found.update(int(number) for number in _NAME.findall(text))
    return found


def _blobs(redis: Any, key: bytes) -> Iterable[bytes]:
    match redis.type(key):
        case b"list":
            return cast(list[bytes], redis.lrange(key, 0, -1))
        case b"hash":
            return cast(list[bytes], redis.hvals(key))
        case b"zset":
            return cast(list[bytes], redis.zrange(key, 0, -1))
        case b"stream":
            return _open_entries(redis, key)
    return []


def _open_entries(redis: Any, key: bytes) -> Iterator[bytes]:
    for group in redis.xinfo_groups(key):
        pending = {p["message_id"] for p in redis.xpending_range(key, group["name"], "-", "+", 100_000)}
        last = _order(group["last-delivered-id"])
        for entry, fields in redis.xrange(key):
            if entry in pending or _order(entry) > last:
                yield from fields.values()


def _order(entry: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry.partition(b"-")
    return int(milliseconds), int(number)


def _inner(blob: bytes) -> Iterator[bytes]:
    """What is wrapped in Base64: Celery's body, which stands in its list as it is and in a list where
    unacknowledged."""
    try:
        value = json.loads(blob)
    except ValueError:
        return
    message = value[0] if isinstance(value, list) and value else value
    if isinstance(message, dict) and isinstance(message.get("body"), str):
        try:
            yield base64.b64decode(message["body"], validate=True)
        except ValueError:
            return
