"""What the page can ask for, and what it gets."""

from __future__ import annotations

import asyncio
import math
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ..errors import BrokerError, UsageError
from ..event import DEAD, check_train_name
from ..policy.letters import DeadPreview
from ..values import text
from ..views.journal import Row, is_found, row_of
from .clients import Client, message
from .dead import Letters
from .dead_orders import VERBS as DEAD_VERBS
from .dead_orders import DeadOrder, action_of
from .encoding import encode
from .guard import address_of, refused
from .hub import Hub
from .jobs import AT_ONCE, OF_WAGONS, VERBS, Job, Order
from .picture import balance_of, channels_of
from .previews import preview_of
from .sessions import Sessions
from .shapes import ChannelShape, TrainShape
from .static_files import static_file
from .streams import EventStream
from .watching import TrainWatch

_BODY = 16 * 1024
"""Bytes of a request's body at most."""
_PATIENCE = 10.0
"""Seconds for a request's body."""
_STREAMS = 500
"""Open streams at most."""
_ROWS = 500
_LETTERS = 100
_WORDS = 10

T = TypeVar("T")


class _Login(msgspec.Struct, forbid_unknown_fields=True):
    token: str


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    reason: str | None = None
    by: str | None = None
    wagon: int | None = None
    publishing: bool = False


class _AskedDead(msgspec.Struct, forbid_unknown_fields=True):
    digest: str
    reason: str | None = None
    by: str | None = None


class Stop(HTTPException):
    """The request is refused: its status, and a sentence."""


class Routes:
    """All routes of one dashboard."""

    def __init__(self, hub: Hub, sessions: Sessions, *, payloads: bool) -> None:
        self._hub = hub
        self._sessions = sessions
        self._payloads = payloads
        self._letters: dict[str, tuple[TrainWatch, Letters]] = {}
        self._searching = asyncio.Lock()

    def all(self) -> list[Route]:
        """The routes, for Starlette."""
        one = "/api/trains/{train}"
        return [
            Route("/", self._page),
            Route("/static/{name:path}", self._static),
            Route("/api/session", self._session),
            Route("/api/login", self._login, methods=["POST"]),
            Route("/api/logout", self._logout, methods=["POST"]),
            Route("/api/events", self._reading(self._events)),
            Route("/api/trains", self._reading(self._trains)),
            Route(one, self._reading(self._train)),
            Route(f"{one}/history", self._reading(self._history)),
            Route(f"{one}/wagons/{{wagon}}", self._reading(self._wagon)),
            Route(f"{one}/journal", self._reading(self._journal)),
            Route(f"{one}/dead", self._reading(self._dead)),
            Route(f"{one}/dead/{{key}}", self._reading(self._dead_of)),
            Route(f"{one}/dead/{{key}}/actions/{{verb}}", self._reading(self._preview_dead), methods=["GET"]),
            Route(f"{one}/dead/{{key}}/actions/{{verb}}", self._acting(self._act_dead), methods=["POST"]),
            Route(f"{one}/actions/{{verb}}", self._reading(self._preview), methods=["GET"]),
            Route(f"{one}/actions/{{verb}}", self._acting(self._act), methods=["POST"]),
            Route("/api/jobs", self._reading(self._jobs)),
        ]

    # --- who may --------------------------------------------------------------------------

    def _may_read(self, request: Request) -> bool:
        return not self._sessions.has_token or self._is_logged_in(request)

    def _is_logged_in(self, request: Request) -> bool:
        return self._sessions.knows(request.cookies.get(cookie_of(request)))

    def _reading(self, route: Callable[[Request], Awaitable[ASGIApp]]) -> Callable[[Request], Awaitable[ASGIApp]]:
        async def checked(request: Request) -> ASGIApp:
            if not self._may_read(request):
                return refused(401, "log in first")
            return await _answered(route, request)

        return checked

    def _acting(self, route: Callable[[Request], Awaitable[ASGIApp]]) -> Callable[[Request], Awaitable[ASGIApp]]:
        async def checked(request: Request) -> ASGIApp:
            if not self._sessions.has_token:
                return refused(403, "this dashboard is read-only: start it with --token (token=) to steer trains here")
            if not self._is_logged_in(request):
                return refused(401, "log in first")
            return await _answered(route, request)

        return checked

    # --- the page and the session ---------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        return static_file("index.html", request)

    async def _static(self, request: Request) -> Response:
        return static_file(request.path_params["name"], request)

    async def _session(self, request: Request) -> Response:
        return _json(self._session_of(is_logged_in=self._is_logged_in(request)))

    def _session_of(self, *, is_logged_in: bool) -> dict[str, object]:
        login = "off" if not self._sessions.has_token else "done" if is_logged_in else "needed"
        return {
            "version": version("eventwagon"),
            "login": login,
            "can_act": login == "done",
            "payloads": self._payloads,
            "every": self._hub.every,
            "at": time.time(),
        }

    async def _login(self, request: Request) -> Response:
        if not self._sessions.has_token:
            return refused(403, "this dashboard is read-only: it was started without a token")
        address = address_of(request.scope)
        try:
            given = await _body(request, _Login)
        except Stop as e:
            return refused(e.status_code, e.detail)
        # only now: many bodies may have been on their way at once
        if wait := self._sessions.wait(address):
            return refused(429, "too many wrong tokens: wait a little", **{"Retry-After": str(math.ceil(wait))})
        session = self._sessions.login(given.token, address)
        if session is None:
            return refused(401, "this is not the token")
        answer = _json(self._session_of(is_logged_in=True))
        answer.set_cookie(
            cookie_of(request),
            session,
            path=_prefix(request) + "/",
            secure="https" in (request.url.scheme, request.headers.get("x-forwarded-proto")),
            httponly=True,
            samesite="strict",
        )
        return answer

    async def _logout(self, request: Request) -> Response:
        session = request.cookies.get(cookie_of(request))
        self._sessions.logout(session)
        self._hub.end_those(lambda client: not client.allowed())
        answer = _json(self._session_of(is_logged_in=False))
        answer.delete_cookie(cookie_of(request), path=_prefix(request) + "/")
        return answer

    # --- reading --------------------------------------------------------------------------

    async def _events(self, request: Request) -> ASGIApp:
        if self._hub.clients >= _STREAMS:
            raise Stop(503, "too many browsers look already")
        train = request.query_params.get("train") or None
        if train is not None:
            _checked_name(train)
        session = request.cookies.get(cookie_of(request))
        first = message("session", encode(self._session_of(is_logged_in=self._is_logged_in(request))))
        allowed = (lambda: self._sessions.knows(session)) if self._sessions.has_token else (lambda: True)
        return EventStream(self._hub, Client(train, first, allowed))

    async def _trains(self, request: Request) -> Response:
        async with self._hub.looking():
            cards = await self._hub.cards()
            return _json({"at": time.time(), "trouble": self._hub.trouble, "trains": cards})

    async def _train(self, request: Request) -> Response:
        async with self._watched(request) as (_, train):
            return _json(train)

    async def _history(self, request: Request) -> Response:
        async with self._watched(request, journal=False) as (watch, _):
            return _json(watch.curves.as_json())

    async def _wagon(self, request: Request) -> Response:
        number = _number(request.path_params["wagon"], "wagon")
        async with self._watched(request) as (watch, train):
            live = next((w for w in train.wagons if w.number == number), None)
            past = None if live else next((w for w in watch.past.rows if w.number == number), None)
            if live is None and past is None:
                raise Stop(404, f"there is no wagon {number}, and the journal knows none that was removed")
            channels: list[ChannelShape] = []
            workers: list[dict[str, object]] = []
            if live is not None and watch.found is not None:
                found = watch.found.depths.get(number, {})
                channels = channels_of({n: d for n, d in found.items() if n != DEAD} | {DEAD: found[DEAD]})
                workers = [
                    {"process": m.name, "workers": a.workers, "in_hand": a.in_hand}
                    for m in watch.found.members
                    for a in m.attachments
                    if a.number == number
                ]
            return _json(
                {
                    "live": live is not None,
                    "wagon": live,
                    "past": past,
                    "channels": channels,
                    "balance": balance_of(channels, past),
                    "workers": workers,
                    "journal": [row for row in watch.journal.rows if number in row.wagons][-200:],
                }
            )

    async def _journal(self, request: Request) -> Response:
        query = request.query_params
        words = query.get("q", "")[:200].lower().split()[:_WORDS]
        wagon = _number(query["wagon"], "wagon") if query.get("wagon") else None
        before = _time(query["before"]) if query.get("before") else math.inf
        limit = min(_ROWS, _number(query.get("limit", "200"), "limit"))
        async with self._watched(request) as (watch, _):
            found: list[Row] = []
            is_more, read = False, 0
            # the wait for one's turn included: where nothing answers, the turns would add up
            async with asyncio.timeout(3 * _PATIENCE), self._searching:
                async for entry in watch.source.journal():
                    read += 1
                    if read % 200 == 0:
                        await asyncio.sleep(0)  # a long journal must not hold up the others
                    if entry.at >= before:
                        continue
                    row = row_of(entry)
                    if is_found(row, words) and (wagon is None or wagon in row.wagons):
                        found.append(row)
                        if len(found) > limit:
                            is_more = True
                            del found[0]
        return _json({"rows": found, "more": is_more})

    def _letters_of(self, watch: TrainWatch) -> Letters:
        known = self._letters.get(watch.name)
        if known is None or known[0] is not watch:
            while len(self._letters) >= _LETTERS:
                del self._letters[next(iter(self._letters))]
            known = self._letters[watch.name] = watch, Letters(watch)
        return known[1]

    async def _dead(self, request: Request) -> Response:
        async with self._watched(request, journal=False) as (watch, _):
            return _json(await self._letters_of(watch).groups())

    async def _dead_of(self, request: Request) -> Response:
        query, key = request.query_params, request.path_params["key"]
        after = _number(query.get("after", "0"), "after")
        limit = min(_LETTERS, _number(query.get("limit", "50"), "limit"))
        async with self._watched(request, journal=False) as (watch, _):
            letters, more = await self._letters_of(watch).of(
                key, after=after, limit=max(1, limit), payloads=self._payloads
            )
            return _json({"letters": letters, "more": more})

    async def _jobs(self, request: Request) -> Response:
        return _json({"jobs": self._hub.jobs.newest_first()})

    # --- acting ---------------------------------------------------------------------------

    async def _preview(self, request: Request) -> Response:
        verb = _verb(request)
        wagon = _number(request.query_params["wagon"], "wagon") if request.query_params.get("wagon") else None
        _check_order(verb, wagon, publishing := request.query_params.get("publishing") == "true")
        async with self._watched(request) as (_, train):
            return _json(preview_of(train, verb, wagon, publishing))

    async def _act(self, request: Request) -> Response:
        verb = _verb(request)
        asked = await _body(request, _Asked)
        _check_order(verb, asked.wagon, asked.publishing)
        order = Order(
            train=_checked_name(request.path_params["train"]),
            verb=verb,
            wagon=asked.wagon,
            publishing=asked.publishing,
            reason=text("the reason", asked.reason or "") or "by hand",
            by=_who(asked.by),
        )
        async with self._watched(request, journal=False):
            job = self._new(order)
            self._hub.start(self._hub.jobs.run(job, order))
        return _json({"job": job}, 202)

    def _new(self, order: Order) -> Job:
        """A job for this order. Made once the body was read: many may come at once. Bounded by verb: a drain may take
        an hour, and a pause may not wait for it."""
        if self._hub.jobs.running(order.verb) >= AT_ONCE:
            raise Stop(429, f"too many jobs of this kind ({order.verb}) are under way: wait until one is done")
        return self._hub.jobs.new(order)

    async def _preview_dead(self, request: Request) -> Response:
        verb = _dead_verb(request)
        async with self._watched(request, journal=False) as (watch, _):
            letters = self._letters_of(watch)
            return _json(action_of(verb, watch.name, await _meant(letters, request)))

    async def _act_dead(self, request: Request) -> Response:
        verb = _dead_verb(request)
        asked = await _body(request, _AskedDead)
        reason, by = text("the reason", asked.reason or "") or "by hand", _who(asked.by)
        async with self._watched(request, journal=False) as (watch, _):
            letters = self._letters_of(watch)
            order = Order(
                train=watch.name,
                verb=verb,
                wagon=None,
                publishing=False,
                reason=reason,
                by=by,
                dead=DeadOrder(where=(await _meant(letters, request)).filter, digest=asked.digest),
            )
            job = self._new(order)

            async def run() -> None:
                try:
                    await self._hub.jobs.run(job, order)
                finally:
                    letters.forget()

            self._hub.start(run())
        return _json({"job": job}, 202)

    @asynccontextmanager
    async def _watched(self, request: Request, *, journal: bool = True) -> AsyncIterator[tuple[TrainWatch, TrainShape]]:
        """The train that the request names, read lately."""
        name = _checked_name(request.path_params["train"])
        async with self._hub.looking():
            watch = await self._hub.watch(name, journal=journal)
            train = None if watch is None else watch.full()
            if watch is None or train is None:
                if self._hub.trouble is not None:
                    raise Stop(503, f"the trains can't be read: {self._hub.trouble.why}")
                raise Stop(404, f"there is no train {name!r}")
            yield watch, train


async def _answered(route: Callable[[Request], Awaitable[ASGIApp]], request: Request) -> ASGIApp:
    """What the route answers; what can go wrong is told in a sentence."""
    try:
        return await route(request)
    except Stop as e:
        return refused(e.status_code, e.detail)
    except UsageError as e:
        return refused(400, str(e))
    except BrokerError as e:
        return refused(503, str(e))
    except TimeoutError:
        return refused(503, "the broker or the registry did not answer in time")


def cookie_of(request: Request) -> str:
    """The name of the session's cookie: browsers send the cookies of one port to all ports of a host."""
    server = request.scope.get("server")
    return f"eventwagon_{server[1] if server and server[1] else 0}"


def _prefix(request: Request) -> str:
    prefix = str(request.scope.get("root_path", "")).rstrip("/")
    return prefix if re.fullmatch(r"[A-Za-z0-9/._~-]*", prefix) else ""


def _json(value: object, status: int = 200) -> Response:
    return Response(encode(value), status, {"Cache-Control": "no-store"}, "application/json")


async def _body(request: Request, kind: type[T]) -> T:
    data = bytearray()
    try:
        async with asyncio.timeout(_PATIENCE):
            async for chunk in request.stream():
                data += chunk
                if len(data) > _BODY:
                    raise Stop(413, f"the body is longer than {_BODY:,} bytes")
    except TimeoutError:
        raise Stop(408, "the body did not come in time") from None
    except ClientDisconnect:  # nobody is there to read this
        raise Stop(400, "the body was cut short") from None
    try:
        return msgspec.json.decode(data, type=kind)
    except (ValueError, RecursionError):
        raise Stop(400, "the body is not what is expected here") from None


def _checked_name(name: str) -> str:
    try:
        return check_train_name(name)
    except UsageError:
        raise Stop(404, "there is no train of this name") from None


def _number(given: str, what: str) -> int:
    if not re.fullmatch("[0-9]{1,15}", given):
        raise Stop(400, f"{what}: give a whole number")
    return int(given)


def _time(given: str) -> float:
    try:
        found = float(given)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise Stop(400, "before: give seconds since the epoch")
    return found


def _verb(request: Request) -> str:
    verb: str = request.path_params["verb"]
    if verb not in VERBS:
        raise Stop(404, f"there is {', '.join(sorted(VERBS))}")
    return verb


def _dead_verb(request: Request) -> str:
    verb: str = request.path_params["verb"]
    if verb not in DEAD_VERBS:
        raise Stop(404, f"there is {', '.join(sorted(DEAD_VERBS))}")
    return verb


async def _meant(letters: Letters, request: Request) -> DeadPreview:
    """The dead letters that the request names by their group's key, or `all`, as they are now."""
    key = request.path_params["key"]
    group = None if key == "all" else await letters.group(key)
    if group is None and key != "all":
        raise Stop(404, "there are no such dead letters any more: read them again")
    return await letters.preview(group)


def _who(given: str | None) -> str:
    """Who gives an order, for the journal."""
    by = text("by", given or "", most=100)
    return f"{by} at the dashboard" if by else f"the dashboard at {socket.gethostname()}"


def _check_order(verb: str, wagon: int | None, publishing: bool) -> None:
    if wagon is not None and (verb not in OF_WAGONS or not 1 <= wagon < 10**15):
        raise Stop(400, f"{verb} takes no wagon" if verb not in OF_WAGONS else "wagon: give the number of a wagon")
    if publishing and (verb != "pause" or wagon is not None):
        raise Stop(400, "publishing goes with the pause of a whole train")
