"""The gateway as an ASGI application: it publishes the CloudEvents that it gets over HTTP, and gives out deliveries."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from ..bucket import Bucket
from ..connection import Connection
from ..errors import (
    EventRefused,
    EventTooLarge,
    EventwagonError,
    PublishError,
    TrainFull,
    TrainPaused,
    TrainRemoved,
    UsageError,
)
from ..hosts import checked_hosts, names_ours
from ..runtime.bulkhead import Bulkhead, Seldom
from .describing import description
from .intake import answer_to, events_of
from .keys import Key, hashed
from .refusal import Refused
from .remote import Receiving, RemoteHandlers
from .working import VERBS, answer, check_json, encoded, items_of, receive, receive_of

Scope = Mapping[str, Any]
Receive = Callable[[], Any]
Send = Callable[[Mapping[str, Any]], Any]

_logger = logging.getLogger("eventwagon.gateway")
_HANGING = 5.0
"""Seconds without a stored event, while some are to be stored, after which a train counts as in trouble."""
_FAILED = 10.0
"""Seconds for which a failure counts: a load balancer that sends nothing must try again."""
_LOOK = 0.25
"""Seconds between two looks for bodies that are late."""
_LINGER = 2.0
"""Seconds for which the rest of a refused body is read and dropped."""
_DROPPED = 16_777_216
"""The most bytes of it."""
_PROBES = ("/healthz", "/readyz")
"""Asked by the process's address, and they say nothing of events."""
_TRAINS, _EVENTS = "/trains/", "events"


class Limits(msgspec.Struct, frozen=True):
    """What a request may ask for."""

    body: int = 4_194_304
    """Bytes of a body."""
    bodies: int = 134_217_728
    """Bytes of all bodies that are being read or published."""
    events: int = 1000
    """Events of a batch."""
    patience: float = 30.0
    """Seconds for a body to arrive."""


class Gateway:
    """`POST /trains/TRAIN/events` publishes; `GET /healthz`, `/readyz` and `/openapi.json` need no key.

    `connections`: the open connections of its trains. `keys`: what is known of each key, by its hash; a function, since
    it may change; None: everybody may publish, and work. `remote`: the handlers of those of its trains that consumers
    may work for, with `POST /trains/TRAIN/receive`, `settle` and others; their connections must run (`running`).
    `hosts`: the names under which it may be asked, besides localhost and loopback addresses (`*`: any); None: it does
    not look at the name. Raises UsageError.
    """

    def __init__(
        self,
        connections: Iterable[Connection],
        *,
        keys: Callable[[], Mapping[str, Key]] | None = None,
        limits: Limits | None = None,
        remote: Iterable[RemoteHandlers] = (),
        hosts: Sequence[str] | None = None,
    ) -> None:
        self._connections = {each.train.name: each for each in connections}
        self._stores = {name: _Storing() for name in self._connections}
        self._remote = {each.train.name: each for each in remote}
        self._keys = keys
        self._hosts = None if hosts is None else frozenset(checked_hosts("gateway", hosts))
        self._limits = limits or Limits()
        self._bulkhead = Bulkhead("gateway")
        self._seldom = Seldom()
        self._buckets: dict[str, tuple[float, Bucket]] = {}
        self._held = 0
        """Bytes of the bodies that are being read or published."""
        self._expected: dict[_Body, float] = {}
        """The bodies that are being read, and until when, in the loop's time."""
        self._look: asyncio.TimerHandle | None = None
        self._is_ending = False

    def end(self) -> None:
        """From now on it is not ready, so that a load balancer sends nothing more, and it gives out nothing more.
        Idempotent."""
        self._is_ending = True
        for each in self._remote.values():
            each.end()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        body = _Body(self, receive)
        try:
            status, answer = await self._answer(scope, body)
            await _say(send, status, answer)
        except Refused as e:
            await _say(send, e.status, _error(e.why), retry_after=e.retry_after, unread=None if body.is_read else body)
        except _Gone:
            return
        except asyncio.CancelledError:
            if not self._is_ending:
                raise
            # by the server, whose patience with open requests is over
            why = "the gateway ends, and it is not known whether all was stored: send it again, with the same ids"
            await _say(send, 503, _error(why), retry_after=1, unread=None if body.is_read else body)
        except Exception as e:  # noqa: BLE001 - one request must not end the gateway
            self._bulkhead.report("a request", e)
            await _say(send, 500, _error("this failed in an unforeseen way: the gateway's log says more"), unread=body)
        finally:
            body.free()

    async def _answer(self, scope: Scope, body: _Body) -> tuple[int, bytes]:
        path, method = scope["path"].removeprefix(scope.get("root_path", "")), scope["method"]
        if path not in _PROBES:
            self._check_host(scope["headers"])
        if path.startswith(_TRAINS):
            name, _, verb = path[len(_TRAINS) :].rpartition("/")
            if verb == _EVENTS or verb in VERBS:
                if method != "POST":
                    raise Refused(405, f"{path[:120]} takes POST")
                if verb == _EVENTS:
                    return 202, await self._publish(name, scope["headers"], body)
                return 200, await self._work(name, verb, scope["headers"], body)
        if method not in ("GET", "HEAD"):
            raise Refused(404, f"there are POST /trains/TRAIN/events, and for consumers {', '.join(VERBS)}")
        if path == "/healthz":
            return 200, b'{"status":"alive"}'
        if path == "/readyz":
            return self._readiness()
        if path == "/openapi.json":
            return 200, description(self._limits.events, self._limits.body, works=bool(self._remote))
        raise Refused(404, "there are POST /trains/TRAIN/events, GET /healthz, /readyz and /openapi.json")

    def _check_host(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        if self._hosts is None:
            return
        if not names_ours([value.decode("latin-1") for name, value in headers if name == b"host"], self._hosts):
            raise Refused(421, "this name is not allowed here: give it to the gateway as --allow-host (hosts=)")

    def _readiness(self) -> tuple[int, bytes]:
        if self._is_ending:
            raise Refused(503, "the gateway is ending")
        now = asyncio.get_running_loop().time()
        found = {name: c.trouble or self._stores[name].trouble(now) for name, c in self._connections.items()}
        trouble = {name: why for name, why in found.items() if why}
        if trouble and len(trouble) == len(self._connections):
            raise Refused(503, "; ".join(f"{name}: {why}" for name, why in trouble.items()), retry_after=1)
        document: dict[str, object] = {"status": "ready", "trouble": trouble}
        if self._remote:
            document["works"] = {
                name: {"wagons": [a.number for a in self._connections[name].attachments], **each.figures}
                for name, each in self._remote.items()
            }
        return 200, msgspec.json.encode(document)

    # --- consumers ------------------------------------------------------------------------

    async def _work(self, name: str, verb: str, headers: Sequence[tuple[bytes, bytes]], body: _Body) -> bytes:
        key = self._allowed(name, headers)
        if key is not None and not key.work:
            raise Refused(403, f"this key ({key.name}) may publish only: `work = true` in its table lets it {verb}")
        remote = self._remote.get(name)
        if remote is None:
            raise Refused(404, f"this gateway has no train {name[:60]!a} to work for: start it with --work")
        check_json(headers)
        data = await body.read(headers, self._limits)
        if verb != "receive":
            items = items_of(verb, data, self._limits.events)
            most = self._connections[name].publishing.now.max_event_bytes
            found = await answer(remote, verb, items, now=time.time(), most=most)
            return msgspec.json.encode({"receipts": found})
        asked, receiving = receive_of(data, self._limits.events), Receiving()
        body.free()  # it may wait for long
        connection = self._connections[name]
        _check_reach(connection)
        watching = asyncio.create_task(body.until_gone(receiving.leave))
        try:
            deliveries = await receive(remote, asked, receiving, self._limits.body)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        if receiving.has_gone:
            raise _Gone
        if not deliveries:
            _check_reach(connection)
        return encoded(deliveries)

    # --- publishing -----------------------------------------------------------------------

    async def _publish(self, name: str, headers: Sequence[tuple[bytes, bytes]], body: _Body) -> bytes:
        key = self._allowed(name, headers)
        connection = self._connections.get(name)
        if connection is None:
            raise Refused(404, f"this gateway has no train {name[:60]!a}")
        data = await body.read(headers, self._limits)
        events = events_of(
            headers,
            data,
            now=time.time(),
            most=connection.publishing.now.max_event_bytes,
            most_events=self._limits.events,
        )
        self._within_rate(key, len(events))
        if events:
            with self._stores[name].storing():
                try:
                    if len(events) == 1:
                        await connection.publish(events[0])
                    else:
                        await connection.publish_many(events)
                except EventwagonError as e:
                    refusal = _refusal(e, len(events))
                    if refusal.status == 503 and (held_back := self._seldom.due((name, type(e)))) is not None:
                        more = f" ({held_back:,} more since the last line)" if held_back else ""
                        _logger.warning("gateway: %s: %s%s", name, e, more)
                    raise refusal from None
        return answer_to(events)

    def _allowed(self, train: str, headers: Sequence[tuple[bytes, bytes]]) -> Key | None:
        if self._keys is None:
            return None
        given = [value for name, value in headers if name == b"authorization"]
        if len(given) != 1 or given[0][:7].lower() != b"bearer ":
            raise Refused(401, "give a key: Authorization: Bearer KEY")
        key = self._keys().get(hashed(given[0][7:].strip().decode("latin-1")))
        if key is None:
            raise Refused(401, "this key is not known here")
        if not key.may(train):
            raise Refused(403, f"this key ({key.name}) is not for train {train[:60]!a}")
        return key

    def _within_rate(self, key: Key | None, events: int) -> None:
        if key is None or key.rate is None:
            return
        now = time.monotonic()
        rate, bucket = self._buckets.get(key.name, (0.0, None))
        if bucket is None or rate != key.rate:
            bucket = Bucket(key.rate, now)
            self._buckets[key.name] = key.rate, bucket
        if wait := bucket.take(events, now):
            raise Refused(
                429, f"key {key.name} may publish {key.rate:g} events a second", retry_after=max(1, math.ceil(wait))
            )

    # --- bodies on their way --------------------------------------------------------------

    def expect(self, body: _Body, seconds: float) -> None:
        """Give the body up unless it has come within that time."""
        loop = asyncio.get_running_loop()
        self._expected[body] = loop.time() + seconds
        if self._look is None:  # one timer for all: one for each takes a twentieth of the time of a request
            self._look = loop.call_later(_LOOK, self._give_up_late)

    def has_come(self, body: _Body) -> None:
        """The body is no longer waited for."""
        del self._expected[body]

    def _give_up_late(self) -> None:
        loop = asyncio.get_running_loop()
        for body in [body for body, until in self._expected.items() if until < loop.time()]:
            body.give_up()
        self._look = loop.call_later(_LOOK, self._give_up_late) if self._expected else None

    def hold(self, size: int) -> None:
        """Count bytes of a body. Raises Refused if all bodies together are too large."""
        if self._held + size > self._limits.bodies:
            raise Refused(503, "too many large bodies are on their way: try again soon", retry_after=1)
        self._held += size

    def release(self, size: int) -> None:
        """The bytes are no longer there."""
        self._held -= size


def _check_reach(connection: Connection) -> None:
    """Raise Refused while no event can be received."""
    if why := connection.unreachable:
        raise Refused(503, why, retry_after=1)


class _Storing:
    """Whether a train's events are being stored, for `/readyz`: a broker that hangs says nothing for long."""

    def __init__(self) -> None:
        self._under_way = 0
        self._since = 0.0
        """The last success; or the begin of what is under way, if nothing was before."""
        self._failed: tuple[float, str] | None = None

    @contextmanager
    def storing(self) -> Iterator[None]:
        """While a request's events are being stored."""
        loop = asyncio.get_running_loop()
        if not self._under_way:
            self._since = loop.time()
        self._under_way += 1
        try:
            yield
        except Refused as e:
            if e.status == 503:
                self._failed = loop.time(), e.why
            raise
        else:
            self._since, self._failed = loop.time(), None
        finally:
            self._under_way -= 1

    def trouble(self, now: float) -> str:
        """Why nothing is stored; empty if something was, or nothing was sent lately."""
        if self._failed is not None and now - self._failed[0] < _FAILED:
            return self._failed[1]
        if self._under_way and now - self._since > _HANGING:
            return f"no event was stored for {now - self._since:.0f} s, and {self._under_way} requests wait"
        return ""


class _Gone(Exception):
    """The client has gone: nobody reads an answer."""


class _Body:
    """The body of one request."""

    def __init__(self, gateway: Gateway, receive: Receive) -> None:
        self._gateway = gateway
        self._receive = receive
        self._held = 0
        self._task: asyncio.Task[object] | None = None
        self._is_late = False
        self.is_read = False

    async def read(self, headers: Sequence[tuple[bytes, bytes]], limits: Limits) -> bytes:
        """All of it. Raises Refused (400, 408, 413, 503), _Gone."""
        for name, value in headers:
            if name == b"content-length" and int(value) > limits.body:
                raise Refused(413, f"the body has {int(value):,} bytes; {limits.body:,} are taken")
            if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
                raise Refused(415, "a compressed body is not read: send it as it is")
        self._task = asyncio.current_task()
        self._gateway.expect(self, limits.patience)
        try:
            data = await self._all(limits)
        except asyncio.CancelledError:
            if self._is_late and self._task is not None and not self._task.uncancel():
                raise Refused(408, "the body did not come in time") from None
            raise
        finally:
            self._gateway.has_come(self)
        return data

    def give_up(self) -> None:
        """Let `read` end: the body is late."""
        self._is_late = True
        if self._task is not None:
            self._task.cancel()

    async def _all(self, limits: Limits) -> bytes:
        data, more = bytearray(), True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            chunk, more = message.get("body", b""), message.get("more_body", False)
            self.is_read = not more
            self._count(len(chunk), limits)
            if not more and not data:
                return bytes(chunk)  # most bodies come in one piece
            data += chunk
        return bytes(data)

    def _count(self, size: int, limits: Limits) -> None:
        if self._held + size > limits.body:
            raise Refused(413, f"the body has more than {limits.body:,} bytes, which is the most that is taken")
        self._gateway.hold(size)
        self._held += size

    async def until_gone(self, leave: Callable[[], None]) -> None:
        """Call `leave` once the client has gone. The body must have been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        leave()

    async def drain(self) -> None:
        """Read and drop the rest for a while: a client that is still sending when its connection is closed never sees
        the answer."""
        dropped = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                while not self.is_read and dropped < _DROPPED:
                    message = await self._receive()
                    dropped += len(message.get("body", b""))
                    self.is_read = not message.get("more_body", False)

    def free(self) -> None:
        """The body is no longer needed."""
        self._gateway.release(self._held)
        self._held = 0


def _refusal(error: EventwagonError, events: int) -> Refused:
    """The answer to what went wrong with publishing."""
    why = str(error)
    if events > 1 and isinstance(error, PublishError):
        why = f"{why}; the first {error.accepted} of {events} events are stored"
    if isinstance(error, EventTooLarge):
        return Refused(413, why)
    if isinstance(error, UsageError | EventRefused):
        return Refused(400, why)
    if isinstance(error, TrainRemoved):
        return Refused(410, why)
    if isinstance(error, TrainFull):
        return Refused(429, why, retry_after=2)
    if isinstance(error, TrainPaused):
        return Refused(503, why, retry_after=10)
    return Refused(503, why, retry_after=1)  # with the same ids: whether they were stored may not be known


async def _say(send: Send, status: int, body: bytes, *, retry_after: int = 0, unread: _Body | None = None) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    if retry_after:
        headers.append((b"retry-after", b"%d" % retry_after))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 405:
        headers.append((b"allow", b"POST"))
    if unread is not None:  # the rest of its body would be taken for the next request
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if unread is not None:
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await unread.drain()
        body = b""
    await send({"type": "http.response.body", "body": body})


def _error(why: str) -> bytes:
    return msgspec.json.encode({"error": why.encode("utf-8", "backslashreplace").decode()})


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return
