"""The requests of remote consumers: what their bodies ask for, and the answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeVar

import msgspec

from ..errors import UsageError
from ..event import JSON, Event
from .intake import structured, why_no_json
from .refusal import Refused
from .remote import (
    FAIL,
    LEASE_MOST,
    REJECT,
    RELEASE,
    SETTLE,
    Delivered,
    Emit,
    Receiving,
    RemoteHandlers,
    Result,
    emitting,
)

_T = TypeVar("_T", bound=msgspec.Struct)

WAIT_MOST = 30.0
"""The longest that a request waits for a delivery, in seconds."""
_Lease = Annotated[float, msgspec.Meta(ge=1, le=LEASE_MOST)]
_Receipt = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
_Reason = Annotated[str, msgspec.Meta(max_length=2000)]
_NONE = msgspec.Raw(b"")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`( - at `.*`)?", re.DOTALL)


class Receive(msgspec.Struct, forbid_unknown_fields=True):
    """Asks for deliveries."""

    limit: Annotated[int, msgspec.Meta(ge=1)] = 10
    wait: Annotated[float, msgspec.Meta(ge=0, le=WAIT_MOST)] = 20.0
    channel: str | None = None
    lease: _Lease = 30.0


class Emitted(msgspec.Struct, forbid_unknown_fields=True):
    """An event, or the data of one, for an inner channel."""

    channel: str
    event: msgspec.Raw = _NONE
    data: msgspec.Raw = _NONE


class Settle(msgspec.Struct, forbid_unknown_fields=True):
    """Settles a delivery, after what it emits was stored."""

    receipt: _Receipt
    emit: list[Emitted] = []


class Release(msgspec.Struct, forbid_unknown_fields=True):
    """Gives a delivery to another consumer."""

    receipt: _Receipt


class Extend(msgspec.Struct, forbid_unknown_fields=True):
    """Lets a lease begin anew; None: with as many seconds as before."""

    receipt: _Receipt
    lease: _Lease | None = None


class Refuse(msgspec.Struct, forbid_unknown_fields=True):
    """Rejects a delivery, or says that its handling failed."""

    receipt: _Receipt
    reason: _Reason = ""


class Many(msgspec.Struct, forbid_unknown_fields=True):
    """What a request says of several deliveries."""

    receipts: list[msgspec.Raw]


ITEMS: dict[str, type[msgspec.Struct]] = {
    "settle": Settle,
    "release": Release,
    "extend": Extend,
    "reject": Refuse,
    "fail": Refuse,
}
"""What each verb says of a delivery."""
VERBS = ("receive", *ITEMS)
"""The last part of the routes."""


def check_json(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raise Refused unless the body is said to be JSON: a web page can't send that to another site unasked."""
    for name, value in headers:
        if name == b"content-type" and value.split(b";")[0].strip().lower() == JSON.encode():
            return
    raise Refused(415, f"send JSON, with the header content-type: {JSON}")


def receive_of(body: bytes, most: int) -> Receive:
    """What a request for deliveries asks for; an empty body stands for `{}`. `most`: the highest limit. Raises
    Refused."""
    asked = _read(body or b"{}", Receive)
    if asked.limit > most:
        raise Refused(400, f"limit: {asked.limit:,} is more than {most:,}")
    return asked


def items_of(verb: str, body: bytes, most: int) -> Sequence[Any]:
    """What a request says of deliveries, at most so many: objects of the verb's class. Raises Refused."""
    documents = _read(body, Many).receipts
    if len(documents) > most:
        raise Refused(413, f"receipts: there are {len(documents):,}; {most:,} are taken at once")
    items: list[Any] = []
    known: set[str] = set()
    emits = 0
    for number, each in enumerate(documents, 1):
        where = f"receipt {number} of {len(documents)}: "
        item: Any = _read(bytes(each), ITEMS[verb], where)
        if item.receipt in known:
            raise Refused(400, f"{where}it is there twice")
        known.add(item.receipt)
        for place, one in enumerate(item.emit if isinstance(item, Settle) else (), 1):
            if (one.event is _NONE) == (one.data is _NONE):
                raise Refused(400, f"{where}emit {place}: give either event or data")
            emits += 1
        items.append(item)
    if emits > most:
        raise Refused(413, f"emit: there are {emits:,} events; {most:,} are taken at once")
    return items


async def answer(remote: RemoteHandlers, verb: str, items: Sequence[Any], *, now: float, most: int) -> Sequence[Result]:
    """Do what was asked for with each receipt, at the same time. Never raises for one of them. `most`: bytes of an
    event, as `max_event_bytes`."""
    if verb == "extend":
        return [remote.extend(item.receipt, item.lease) for item in items]
    return await asyncio.gather(*(_say(remote, verb, item, now, most) for item in items))


async def _say(remote: RemoteHandlers, verb: str, item: Any, now: float, most: int) -> Result:
    match verb:
        case "settle":
            try:
                emit = _emit_of(item, most, now) if item.emit else None
            except (Refused, UsageError) as e:
                return Result(item.receipt, done=False, error=str(e))
            return await remote.say(item.receipt, SETTLE, emit=emit)
        case "release":
            return await remote.say(item.receipt, RELEASE)
        case "reject":
            return await remote.say(item.receipt, REJECT, item.reason)
        case _:
            return await remote.say(item.receipt, FAIL, item.reason)


def _emit_of(item: Settle, most: int, now: float) -> Emit:
    """Raises Refused."""
    found: list[tuple[str, Event | bytes]] = []
    for place, each in enumerate(item.emit, 1):
        data = bytes(each.event)
        found.append((each.channel, structured(data, f"emit {place}: ", now, most) if data else bytes(each.data)))
    return emitting(found)


async def receive(remote: RemoteHandlers, asked: Receive, receiving: Receiving, most: int) -> Sequence[Delivered]:
    """What a request for deliveries gets, of some `most` bytes. Raises Refused."""
    if remote.is_ending:
        raise Refused(503, "the gateway is ending", retry_after=1)
    try:
        return await remote.receive(
            channel=asked.channel,
            limit=asked.limit,
            wait=asked.wait,
            lease=asked.lease,
            most=most,
            receiving=receiving,
        )
    except UsageError as e:
        raise Refused(400, str(e)) from None


def encoded(deliveries: Sequence[Delivered]) -> bytes:
    """The answer with these deliveries."""
    return msgspec.json.encode({"deliveries": deliveries})


def _read(body: bytes, kind: type[_T], where: str = "") -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        where = where or "the body: "
        if (unknown := _UNKNOWN.fullmatch(str(e))) is not None:
            name, at = ascii(unknown[1][:60])[1:-1], unknown[2] or ""
            there = "" if at else f"; there are {', '.join(kind.__struct_fields__)}"
            raise Refused(400, f"{where}there is no field `{name}`{at}{there}") from None
        raise Refused(400, f"{where}it is {why_no_json(e, body)}") from None
