"""Connections to AWS services: a driver enters them, one client for each service."""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Self, TypeAlias

from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
from aiobotocore.session import get_session  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError  # type: ignore[import-untyped]

from .errors import AWSRefused
from .place import Place

_CONNECTIONS = 200  # at the same time, to each service: a waiting receive holds one
_SKEW = 2.0  # seconds: the server's Date has whole seconds, and arrives late
Trouble: TypeAlias = AWSRefused | BotoCoreError | OSError
TROUBLE = (AWSRefused, BotoCoreError, OSError)


class Clients:
    """The services of one place. An asynchronous context manager; belongs to the event loop that entered it. `clock`
    gives this machine's seconds since the epoch. `now()` gives AWS's time instead if the two clocks differ by more than
    the precision of its answers."""

    def __init__(self, place: Place, *, clock: Callable[[], float] = time.time) -> None:
        self.place = place
        self._clock = clock
        self._ahead = 0.0
        self._stack = AsyncExitStack()
        self._session = get_session()
        self.on_open: Callable[[Any], None] = lambda client: None
        """Called with each client before its first request: it may register handlers of botocore's events."""
        self._open: dict[str, Any] = {}
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._open.clear()
        await self._stack.aclose()

    def now(self) -> float:
        """Seconds since the epoch by the server's clock."""
        return self._clock() - self._ahead

    async def call(self, service: str, operation: str, /, **given: Any) -> dict[str, Any]:
        """One request, tried up to three times by the client. Raises one of TROUBLE."""
        client = self._open.get(service) or await self._connect(service)
        try:
            answer: dict[str, Any] = await getattr(client, operation)(**given)
        except ClientError as e:
            raise AWSRefused(e) from e
        except TimeoutError as e:
            raise HTTPClientError(error=e) from e
        self._compare(answer)
        return answer

    async def open(self, *services: str) -> None:
        """Create these clients now, so that no first call has to wait for that. Raises one of TROUBLE."""
        for service in services:
            await self._connect(service)

    def region(self, service: str) -> str:
        """The region to which requests go, of a service that was called before."""
        return str(self._open[service].meta.region_name)

    async def _connect(self, service: str) -> Any:
        async with self._lock:
            if service not in self._open:
                config = AioConfig(
                    connect_timeout=5,
                    read_timeout=30,  # longer than a receive waits
                    max_pool_connections=_CONNECTIONS,
                    retries={"mode": "standard", "total_max_attempts": 3},
                )
                making = self._session.create_client(
                    service, region_name=self.place.region, endpoint_url=self.place.endpoint, config=config
                )
                client = await self._stack.enter_async_context(making)
                self.on_open(client)
                self._open[service] = client
            return self._open[service]

    def _compare(self, answer: dict[str, Any]) -> None:
        said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        if said:
            try:
                ahead = self._clock() - email.utils.parsedate_to_datetime(said).timestamp()
            except ValueError:
                return
            self._ahead = 0.0 if -_SKEW < ahead < _SKEW + 1 else ahead
