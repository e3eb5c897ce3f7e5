"""A digest of the ids of many events, whatever their order. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

BITS = 128
_BYTES = BITS // 8
_MASK = (1 << BITS) - 1


def digest_of(ids: Iterable[str], channel: str = "") -> int:
    """The digest of events with these ids in the wagon's channel of this name (empty: its ingress): the sum modulo
    2^128 of a 16-byte BLAKE2b hash of channel and id.

    It doesn't depend on the order. An id that comes twice counts twice. Digests of parts are put together with
    `together`. It finds events that are missing, additional or repeated; it protects against accidents, not against
    somebody who chooses ids to deceive it.
    """
    return sum(hashes_of(ids, channel)) & _MASK


def digest_of_encoded(ids: Iterable[bytes], channel: str = "") -> int:
    """The same of ids in UTF-8."""
    return sum(_hashes(ids, channel)) & _MASK


def hashes_of(ids: Iterable[str], channel: str = "") -> list[int]:
    """The hashes of which the digest is the sum, one for each id."""
    return _hashes([event_id.encode("utf-8", "surrogatepass") for event_id in ids], channel)


def _hashes(ids: Iterable[bytes], channel: str) -> list[int]:
    name = channel.encode("utf-8", "surrogatepass")
    copy = blake2b(len(name).to_bytes(4) + name, digest_size=_BYTES).copy
    hashes = []
    for event_id in ids:
        one = copy()
        one.update(event_id)
        hashes.append(one.digest())
    return [int.from_bytes(each) for each in hashes]


def together(*digests: int) -> int:
    """The digest of all events of these digests. Without any: that of no events, 0."""
    return sum(digests) & _MASK


def written(digest: int) -> str:
    """The digest as 32 hexadecimal digits."""
    return f"{digest & _MASK:032x}"
