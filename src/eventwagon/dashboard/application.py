"""The dashboard as an ASGI application, to be served by itself or mounted into another one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..connection import Connection
from ..errors import UsageError
from ..hosts import checked_hosts
from ..runtime.bulkhead import Bulkhead
from .guard import Guard, refused
from .hub import Hub
from .places import place_of
from .routes import Routes
from .sessions import Sessions


class Dashboard:
    """An ASGI application. `async with` ends its readings and jobs at the end; where nobody can enter it (a mounted
    application's lifespan is not run), it ends them by itself some seconds after the last browser has left."""

    def __init__(
        self,
        where: str | Connection | Sequence[Connection],
        *,
        token: str | None,
        payloads: bool,
        hosts: Iterable[str],
        trains: Iterable[str],
        every: float,
    ) -> None:
        if not isinstance(payloads, bool):
            raise UsageError("dashboard: payloads must be True or False")
        self._bulkhead = Bulkhead("dashboard")
        self._hub = Hub(place_of(where, trains), every=every)
        routes = Routes(self._hub, Sessions(token), payloads=payloads)
        inner = Starlette(
            routes=routes.all(), exception_handlers={HTTPException: _refused, Exception: self._unexpected}
        )
        self._app = Guard(inner, checked_hosts("dashboard", hosts))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all streams, readings and jobs. Idempotent; a later request begins anew."""
        await self._hub.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        await self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _unexpected(self, request: Request, error: Exception) -> Response:
        self._bulkhead.report("a request", error)
        return refused(500, "this failed in an unforeseen way: the dashboard's log says more")


async def _refused(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return refused(status, {404: "there is no such page", 405: "this can't be asked for so"}.get(status, "refused"))


def app(
    where: str | Connection | Sequence[Connection],
    *,
    token: str | None = None,
    payloads: bool = False,
    hosts: Iterable[str] = (),
    trains: Iterable[str] = (),
    every: float = 1.0,
) -> Dashboard:
    """The dashboard as an ASGI application: serve it, or mount it into your own under any path.

    `where`: the URL of the broker and registry, a `Connection`, or several of them, which you keep open. Without
    `token` it is read-only, and everybody who can reach it may read. With one (16 characters or more), who logs in with
    it may read and steer, and nobody else can do either. `payloads`: show the data of dead letters. `hosts`: the names
    under which browsers ask for it besides localhost and loopback addresses, such as "ops.example.org"; "*": any.
    `trains`: only those with these names; default: all. `every`: seconds between two readings, which are made only
    while somebody looks. Raises UsageError.
    """
    return Dashboard(where, token=token, payloads=payloads, hosts=hosts, trains=trains, every=every)
