"""The C++ client: opened and closed without blocking the loop, its calls awaited, its log records passed to
`logging`."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import _pulsar  # type: ignore[import-not-found]
import pulsar  # type: ignore[import-untyped]

from ...background import Background
from ...display.text import as_line
from ...errors import BrokerError, ChannelGone, EventTooLarge, Sealed, StorageBroken, Unavailable
from .address import SUBSCRIPTION, PulsarAddress
from .native_refs import native_ref

T = TypeVar("T")
Result = _pulsar.Result
OPERATION = 10.0  # seconds for the server to answer one call
_ATTEMPT = 2.0  # seconds for the server to answer one attempt to attach
_PAUSE = 0.1  # seconds between two attempts
_MOST_PENDING = 10_000
_FINAL = (
    Result.TopicTerminated,
    Result.TopicNotFound,
    Result.SubscriptionNotFound,
    Result.AuthenticationError,
    Result.AuthorizationError,
    Result.ErrorGettingAuthenticationData,
    Result.NotAllowedError,
    Result.InvalidTopicName,
    Result.ProducerBlockedQuotaExceededError,
    Result.ProducerBlockedQuotaExceededException,
)
"""Trying again would not help."""

log = logging.getLogger("eventwagon.pulsar")


class ResultRefused(Exception):
    """A call of the client failed with this result."""

    def __init__(self, result: Any) -> None:
        super().__init__(str(result).removeprefix("Result."))
        self.result = result


class Landing:
    """Carries calls from the client's threads into the loop: one wake-up for all that come together."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._armed = False

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have the loop call it soon. May be called in any thread; after the loop has ended it does nothing."""
        self._calls.append((function, args))
        if not self._armed:
            self._armed = True
            try:
                self._loop.call_soon_threadsafe(self._land)
            except RuntimeError:  # the loop is closed: nobody waits for this any more
                self._calls.clear()

    def _land(self) -> None:
        self._armed = False  # before the check: a later post wakes the loop again
        while self._calls:
            function, args = self._calls.popleft()
            function(*args)

    async def call(self, start: Callable[..., object], *args: Any, limit: float = OPERATION) -> Any:
        """Start an asynchronous call of the client and wait up to `limit` s for its result. Raises ResultRefused."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def landed(result: Any, value: Any) -> None:
            if future.done():
                return
            if result == Result.Ok:
                future.set_result(value)
            else:
                future.set_exception(ResultRefused(result))

        start(*args, native_ref(lambda result, value=None: self.post(landed, result, value)))
        try:
            async with asyncio.timeout(limit):
                return await future
        except TimeoutError:
            raise ResultRefused(Result.Timeout) from None


class Native:
    """Makes clients, producers, consumers and readers of one cluster."""

    def __init__(self, address: PulsarAddress) -> None:
        self._address = address
        self.landing = Landing()
        self._lines, self._end = os.pipe()
        os.set_blocking(self._lines, False)
        self._rest = b""
        self._background = Background()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._lines, self._read)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run it in the background; `close` waits for it."""
        return self._background.start(work)

    async def close(self) -> None:
        await self._background.wait()
        self._loop.remove_reader(self._lines)
        os.close(self._lines)
        os.close(self._end)

    def client(self) -> Any:
        """A client with a connection of its own: what one channel does to a connection must not affect another
        channel."""
        a = self._address
        # a Python logger would be called for each debug line of every message; only its file loggers have a level
        logger = pulsar.FileLogger(_pulsar.LoggerLevel.Warn, f"/dev/fd/{self._end}")
        authentication = None
        if a.token:
            authentication = pulsar.AuthenticationToken(a.token)
        elif a.tls_cert:
            authentication = pulsar.AuthenticationTLS(a.tls_cert, a.tls_key)
        client = pulsar.Client(
            a.service,
            authentication=authentication,
            operation_timeout_seconds=int(OPERATION),
            connection_timeout_ms=5000,
            stats_interval_in_seconds=0,
            tls_trust_certs_file_path=a.tls_ca,
            tls_allow_insecure_connection=a.tls_insecure,
            tls_validate_hostname=not a.tls_insecure,
            listener_name=a.listener,
            logger=logger,
        )
        return client._client

    async def producer(self, topic: str) -> tuple[Any, Any]:
        """A client and its producer. Raises ResultRefused."""
        conf = _pulsar.ProducerConfiguration()
        conf.send_timeout_millis(int(self._address.send_timeout * 1000))
        conf.max_pending_messages(_MOST_PENDING)
        # one message per entry: the server counts, settles and redelivers entries
        conf.batching_enabled(False)
        return await self._attached(lambda client: client.create_producer_async, topic, conf)

    async def consumer(self, topic: str, name: str) -> tuple[Any, Any]:
        """A client and its consumer. Raises ResultRefused."""
        conf = _pulsar.ConsumerConfiguration()
        conf.consumer_type(_pulsar.ConsumerType.Shared)
        conf.consumer_name(name)
        conf.receiver_queue_size(self._address.prefetch)
        conf.subscription_initial_position(_pulsar.InitialPosition.Earliest)
        return await self._attached(lambda client: client.subscribe_async, topic, SUBSCRIPTION, conf)

    async def reader(self, topic: str, after: tuple[int, int], *, patience: float = OPERATION) -> tuple[Any, Any]:
        """A client and its reader of the messages after a position. Raises ResultRefused."""
        conf = _pulsar.ReaderConfiguration()
        conf.receiver_queue_size(200)
        start = _pulsar.MessageId(-1, after[0], after[1], -1)
        return await self._attached(lambda client: client.create_reader_async, topic, start, conf, patience=patience)

    async def _attached(
        self, how: Callable[[Any], Callable[..., object]], *args: Any, patience: float = OPERATION
    ) -> tuple[Any, Any]:
        # the client does not always retry by itself while the topic is being moved or is briefly fenced
        deadline = self._loop.time() + patience
        while True:
            client = self.client()
            try:
                return client, await self.landing.call(how(client), *args, limit=min(_ATTEMPT, patience))
            except ResultRefused as e:
                if e.result in _FINAL or self._loop.time() >= deadline:
                    self.spawn(self.end(client))
                    raise
            except BaseException:
                self.spawn(self.end(client))
                raise
            self.spawn(self.end(client))
            await asyncio.sleep(_PAUSE)

    async def end(self, client: Any, *parts: Any) -> None:
        """Close these, then the client, ignoring their errors."""
        for part in (*parts, client):
            try:
                await self.landing.call(part.close_async)
            except ResultRefused as e:
                if e.result == Result.Timeout:
                    # destroying it while its threads run would abort the process: keep it until they end
                    ctypes.pythonapi.Py_IncRef(ctypes.py_object(client))

    def _read(self) -> None:
        try:
            text = self._rest + os.read(self._lines, 65536)
        except BlockingIOError:
            return
        *lines, self._rest = text.split(b"\n")
        for line in lines:
            log.info("%s", as_line(line.decode(errors="replace")))


def error(refused: ResultRefused, address: PulsarAddress, what: str) -> BrokerError | EventTooLarge:
    """The error for a result of the client. For publishing: before anything was sent."""
    at = f"{what} at {address.place}"
    match refused.result:
        case Result.TopicTerminated:
            return Sealed(f"{at}: the channel is sealed")
        case Result.TopicNotFound | Result.SubscriptionNotFound:
            return ChannelGone(f"{at}: the channel does not exist")
        case Result.AuthenticationError | Result.ErrorGettingAuthenticationData:
            return StorageBroken(f"{at}: the server does not accept the token or certificate")
        case Result.AuthorizationError | Result.NotAllowedError:
            right = "produce" if what.startswith("publishing") else "consume"
            return StorageBroken(
                f"{at}: refused; the role needs the right '{right}': pulsar-admin namespaces grant-permission "
                f"{address.tenant}/{address.namespace} --actions produce,consume --role ROLE"
            )
        case Result.ProducerBlockedQuotaExceededError | Result.ProducerBlockedQuotaExceededException:
            return Unavailable(f"{at}: the namespace's backlog quota is used up; raise it, or let consumers catch up")
        case Result.MessageTooBig:
            return EventTooLarge(f"{at}: the event is larger than the server takes (maxMessageSize)")
        case _:
            return Unavailable(f"{at}: {refused}; is the server there?")
