"""The admin API: topics are created, sealed, measured and deleted; and the namespace's policies for them."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import httpx
import msgspec

from ...contracts.broker import Finding
from ...errors import StorageBroken, Unavailable
from ...event import Channel
from . import policies
from .address import SUBSCRIPTION, TOTALS, PulsarAddress, channel_of
from .books import Books, Expired, Note
from .native import log
from .policies import Level, of_namespace, of_server, of_topic
from .positions import Position, TopicSnapshot, position

_PATIENCE = 15.0  # seconds for one request
_TRIES = 8  # while a topic is being loaded, moved or deleted
_PAUSE = 0.1  # seconds, growing with each attempt
_BUSY = (409, 412, 429, 500, 502, 503, 504, 307, 308)
_NOTED = re.compile(r"\d+:\d+=\d+")
_EARLIEST = {"ledgerId": -1, "entryId": -1}


class Admin:
    """Calls of the admin API for one namespace. Raises Unavailable and StorageBroken, which name the missing right."""

    def __init__(self, address: PulsarAddress) -> None:
        self._address = address
        self._http: httpx.AsyncClient | None = None
        self._few = asyncio.Semaphore(16)
        self._asking = asyncio.Lock()
        self._shared: tuple[float, dict[str, Level]] | None = None
        """The policies of the namespace and the server, and when they were read."""
        self._own = True
        """The server supports policies of single topics."""
        self._skips = False
        """The server skips entries that it can't read."""

    async def __aenter__(self) -> Admin:
        a = self._address
        verify: ssl.SSLContext | bool = True
        if a.admin.startswith("https:"):
            verify = ssl.create_default_context(cafile=a.tls_ca)
            if a.tls_insecure:
                verify.check_hostname = False
                verify.verify_mode = ssl.CERT_NONE
            if a.tls_cert and a.tls_key:
                verify.load_cert_chain(a.tls_cert, a.tls_key)
        headers = {"Authorization": f"Bearer {a.token}"} if a.token else {}
        limits = httpx.Limits(max_connections=16)
        self._http = httpx.AsyncClient(
            headers=headers, verify=verify, timeout=_PATIENCE, limits=limits, trust_env=False
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def create(self, channel: Channel) -> None:
        """Create the topic and its subscriptions, from the first message on. What exists is left alone. Raises
        StorageBroken if an existing topic has policies of its own that drop events."""
        path = self._address.path(channel)
        reply = await self._done("PUT", path, absent_ok=False, exists_ok=True, what=f"creating {channel}")
        if reply is not None and reply.status_code == 409 and (threat := await self.threat(channel)):
            raise StorageBroken(threat)
        await self.subscribe(channel)

    async def _subscribe(self, channel: Channel, name: str) -> None:
        path = f"{self._address.path(channel)}/subscription/{name}"
        await self._done("PUT", path, absent_ok=False, exists_ok=True, what=f"creating {channel}", body=_EARLIEST)

    async def terminate(self, channel: Channel) -> bool:
        """Seal the topic for good; False if there is none."""
        return (
            await self._done("POST", f"{self._address.path(channel)}/terminate", what=f"sealing {channel}") is not None
        )

    async def unload(self, channel: Channel) -> None:
        """Have the server load the topic again: this repairs a fenced one."""
        await self._done("PUT", f"{self._address.path(channel)}/unload", what=f"unloading {channel}")

    async def delete(self, channel: Channel) -> None:
        """Delete the topic, even with consumers attached; an absent topic is no error."""
        await self._done("DELETE", self._address.path(channel), params={"force": "true"}, what=f"deleting {channel}")

    async def exists(self, channel: Channel) -> bool:
        """Whether the topic exists, sealed or not."""
        return await self.snapshot(channel) is not None

    async def snapshot(self, channel: Channel, books: Books | None = None) -> TopicSnapshot | None:
        """The topic's state; None if there is no such channel."""
        reply = await self._done("GET", f"{self._address.path(channel)}/internalStats", what=f"looking at {channel}")
        return None if reply is None else (books or Books()).snapshot(reply.json(), SUBSCRIPTION, TOTALS)

    async def expired(self, channel: Channel) -> Expired | None:
        """What the server has dropped by age from each subscription since it loaded the topic."""
        reply = await self._done("GET", f"{self._address.path(channel)}/stats", what=f"looking at {channel}")
        found = {} if reply is None else reply.json().get("subscriptions", {})
        if not {SUBSCRIPTION, TOTALS} <= found.keys():
            return None
        return Expired(*(int(found[name].get("totalMsgExpired", 0)) for name in (SUBSCRIPTION, TOTALS)))

    async def note(self, channel: Channel) -> Note | None:
        """The record of dropped events that `store_note` stored."""
        reply = await self._done("GET", self._note_path(channel), what=f"looking at {channel}")
        return None if reply is None else Note.of(reply.json() or {})

    async def store_note(self, channel: Channel, note: Note) -> None:
        """Store it with the channel; it replaces the previous one."""
        await self._done("PUT", self._note_path(channel), what=f"noting losses of {channel}", body=note.properties())

    def _note_path(self, channel: Channel) -> str:
        return f"{self._address.path(channel)}/subscription/{TOTALS}/properties"

    async def is_bare(self, channel: Channel) -> bool:
        """Whether the topic exists without the events' subscription."""
        reply = await self._done("GET", f"{self._address.path(channel)}/internalStats", what=f"looking at {channel}")
        return reply is not None and SUBSCRIPTION not in reply.json().get("cursors", {})

    async def subscribe(self, channel: Channel) -> None:
        """Create its subscriptions, from the first existing entry; an existing one is not touched."""
        await self._subscribe(channel, TOTALS)  # first: else others take it for removed
        await self._subscribe(channel, SUBSCRIPTION)

    async def others_in_flight(self, channel: Channel, own: Sequence[str]) -> int | None:
        """Messages that other consumers hold unacknowledged; None if the channel is absent."""
        reply = await self._done("GET", f"{self._address.path(channel)}/stats", what=f"looking at {channel}")
        found = None if reply is None else reply.json().get("subscriptions", {}).get(SUBSCRIPTION)
        if found is None:
            return None
        return sum(int(c.get("unackedMessages", 0)) for c in found["consumers"] if c.get("consumerName") not in own)

    async def tried(self, channel: Channel) -> dict[Position, int]:
        """The attempts stored by `note_tried`."""
        path = f"{self._address.path(channel)}/subscription/{SUBSCRIPTION}/properties"
        reply = await self._done("GET", path, what=f"looking at {channel}")
        found = {} if reply is None else reply.json() or {}
        return {position(name): int(value) for name, value in found.items() if _NOTED.fullmatch(f"{name}={value}")}

    async def note_tried(self, channel: Channel, tried: Mapping[Position, int]) -> None:
        """Store with the subscription how often these messages were delivered: the server counts no attempt of a
        process that crashed. Replaces earlier notes."""
        path = f"{self._address.path(channel)}/subscription/{SUBSCRIPTION}/properties"
        body = {f"{ledger}:{entry}": str(attempt) for (ledger, entry), attempt in tried.items()}
        await self._done("PUT", path, what=f"noting attempts of {channel}", body=body)

    async def channels(self, train: str) -> list[Channel]:
        """The existing channels of the train."""
        a = self._address
        reply = await self._done("GET", f"persistent/{a.tenant}/{a.namespace}", what="listing topics", absent_ok=False)
        topics = [] if reply is None else reply.json()
        return [channel for topic in topics if (channel := channel_of(topic, train)) is not None]

    async def prove_fit(self) -> None:
        """Raise StorageBroken if there is no such namespace, or if it would create deleted topics again. Policies that
        can only be read with a right that just the creators of channels need count as right."""
        for finding in policies.dropping(await self._fit(strict=False), self._ns):
            log.warning("%s", self._sentence(finding))

    async def prove_fit_to_create(self) -> None:
        """Raise StorageBroken also if events would be lost. Here a missing right to read is an error: a process that
        creates channels must know."""
        for finding in policies.dropping(await self._fit(strict=True), self._ns):
            raise StorageBroken(self._sentence(finding))

    async def _fit(self, *, strict: bool) -> dict[str, Level]:
        levels, returns = await self._levels(strict=strict)
        if returns:
            raise StorageBroken(self._sentence(returns))
        return levels

    async def threat(self, channel: Channel, *, fresh: float = 0.0) -> str:
        """The policies that drop events from the channel, at any level that may be read, and what to do; empty if there
        are none. Policies of all channels are not read again within `fresh` seconds."""
        async with self._asking:
            now = asyncio.get_running_loop().time()
            if self._shared is None or now >= self._shared[0] + fresh:
                levels, _ = await self._levels(strict=False)
                self._own = True
                self._shared = now, levels
        own = await self._topic_level(channel) if self._own else {}
        levels = self._shared[1]
        found = policies.dropping(levels | own, self._ns, self._address.topic(channel))
        return "; ".join(self._sentence(finding) for finding in found)

    async def inspect(self, channels: Sequence[Channel]) -> list[Finding]:
        """See `broker.Inspectable`."""
        unseen: list[Finding] = []
        levels, returns = await self._levels(strict=False, unseen=unseen)
        found = policies.dropping(levels, self._ns)
        if not found and "namespace" in levels:
            found.append(
                Finding(
                    severity="fine",
                    what=f"namespace {self._ns}",
                    means="no policy that this role may read drops unhandled events",
                )
            )
        if returns:
            found.append(returns)
        for channel in channels:
            own = await self._topic_level(channel, unseen=unseen)
            for finding in policies.dropping(own, self._ns, self._address.topic(channel)):
                found.append(msgspec.structs.replace(finding, what=f"channel {channel}, {finding.what}"))
        if self._skips:
            found.append(
                Finding(
                    severity="loses",
                    what="server: autoSkipNonRecoverableData=true",
                    means="events whose storage is damaged or missing are skipped, as if they had been handled",
                    todo="set autoSkipNonRecoverableData=false in the server's configuration",
                )
            )
        return found + unseen

    def _sentence(self, finding: Finding) -> str:
        return f"{self._address.place}: {finding.what}: {finding.means}: {finding.todo}"

    async def _levels(
        self, *, strict: bool, unseen: list[Finding] | None = None
    ) -> tuple[dict[str, Level], Finding | None]:
        """The policies of the namespace and the server, as far as they may be read (if `strict`, the namespace's must
        be), and what would create deleted topics again. Levels that may not be read are added to `unseen`."""
        a = self._address
        found: dict[str, Level] = {}
        override: Any = None
        reply, runtime = await asyncio.gather(
            self._request("GET", f"namespaces/{a.tenant}/{a.namespace}"),
            self._request("GET", "brokers/configuration/runtime"),
        )
        if reply.status_code == 404:
            raise StorageBroken(
                f"{a.place}: there is no such namespace; make it: pulsar-admin namespaces create {self._ns}"
            )
        readable = reply.is_success
        if readable:
            found["namespace"] = of_namespace(reply.json())
            override = reply.json().get("autoTopicCreationOverride")
        elif strict or not _missing_right(reply):
            self._refused(reply, "reading the namespace's policies")
        elif unseen is not None:
            unseen.append(_unseen(f"policies of namespace {self._ns}", _RIGHTS["reading"]))
        defaults: dict[str, str] = {}
        if runtime.is_success:
            defaults = runtime.json()
            found["server"] = of_server(defaults)
            self._skips = defaults.get("autoSkipNonRecoverableData") == "true"
        elif unseen is not None:
            unseen.append(_unseen("the server's defaults for policies", "a superuser's role (superUserRoles)"))
        return found, self._auto_creation(override, defaults.get("allowAutoTopicCreation")) if readable else None

    async def _topic_level(self, channel: Channel, unseen: list[Finding] | None = None) -> dict[str, Level]:
        """The channel's own policies, as far as they may be read."""
        path = self._address.path(channel)
        names = ("messageTTL", "backlogQuotaMap", "inactiveTopicPolicies")
        replies = await asyncio.gather(*(self._request("GET", f"{path}/{name}") for name in names))
        if all(reply.is_success for reply in replies):
            return {"topic": of_topic(*(reply.json() if reply.content else None for reply in replies))}
        self._own = all(reply.status_code != 405 for reply in replies)
        if unseen is not None and any(_missing_right(reply) for reply in replies):
            unseen.append(_unseen(f"policies of {channel} itself", _RIGHTS["reading"]))
        return {}  # the channel is gone, the server has none at this level, or this role may not see them

    def _auto_creation(self, override: Any, default: str | None) -> Finding | None:
        allowed = (override or {}).get("allowAutoTopicCreation")
        if allowed is None and default is not None:
            allowed = default != "false"
        if allowed is False:
            return None
        return Finding(
            severity="loses",
            what="the namespace lets clients create topics by using them"
            + ("" if allowed else ", as far as can be seen"),
            means="a deleted channel would come back",
            todo=f"pulsar-admin namespaces set-auto-topic-creation --disable {self._ns}",
        )

    @property
    def _ns(self) -> str:
        return f"{self._address.tenant}/{self._address.namespace}"

    async def _done(
        self,
        method: str,
        path: str,
        *,
        what: str,
        absent_ok: bool = True,
        exists_ok: bool = False,
        params: dict[str, str] | None = None,
        body: object = None,
    ) -> httpx.Response | None:
        """The reply, after as many attempts as a topic in transition may need; None if it does not exist (404)."""
        for attempt in range(1, _TRIES + 1):
            reply = await self._request(method, path, params=params, body=body)
            if reply.is_success or (exists_ok and reply.status_code == 409 and "exist" in reply.text):
                return reply
            if reply.status_code == 404 and absent_ok:
                return None
            if reply.status_code not in _BUSY or attempt == _TRIES:
                self._refused(reply, what)
            await asyncio.sleep(_PAUSE * attempt)
        return None

    def _refused(self, reply: httpx.Response, what: str) -> NoReturn:
        at = f"{what}: {self._address.admin}"
        reason = _reason(reply)
        if _missing_right(reply):
            right = _RIGHTS.get(
                what.split()[0], "the right 'consume'" if "CONSUME" in reason else "'produce' or 'consume'"
            )
            raise StorageBroken(f"{at}: the token's role may not do that on {self._ns} ({reason}); it needs {right}")
        if reply.status_code == 401:
            raise StorageBroken(f"{at} does not accept the token ({reason}); give a valid one as &token=…")
        if reply.status_code == 404:
            raise StorageBroken(
                f"{at}: not found ({reason}); is that the admin API, and does the namespace {self._ns} exist?"
            )
        raise Unavailable(f"{at} answered {reply.status_code} ({reason}); try again later")

    async def _request(
        self, method: str, path: str, *, params: dict[str, str] | None = None, body: object = None
    ) -> httpx.Response:
        if self._http is None:
            raise RuntimeError("the broker is used outside of its `async with`")
        url = f"{self._address.admin}/admin/v2/{path}"
        try:
            async with self._few:
                for _ in range(5):
                    reply = await self._http.request(method, url, params=params, json=body)
                    if reply.status_code not in (307, 308) or "location" not in reply.headers:
                        break
                    # redirected to the broker that owns the topic; by hand, since the token must be sent there, too
                    url, params = str(reply.url.join(reply.headers["location"])), None
                return reply
        except (httpx.HTTPError, httpx.InvalidURL) as e:
            raise Unavailable(
                f"the admin API at {self._address.admin} can't be reached ({str(e) or type(e).__name__}); "
                "is it there, and is admin=… right?"
            ) from None


_RIGHTS = {
    "reading": "the role of a tenant's admin",
    "creating": "the role of a tenant's admin",
    "sealing": "the role of a tenant's admin",
    "deleting": "the role of a tenant's admin",
    "unloading": "the role of a tenant's admin",
    "listing": "the role of a tenant's admin, or 'consume' on the namespace",
}


def _missing_right(reply: httpx.Response) -> bool:
    """Whether the role is known and lacks the right; servers answer 401 then, too."""
    return reply.status_code == 403 or (reply.status_code == 401 and "nauthorized to" in _reason(reply))


def _reason(reply: httpx.Response) -> str:
    try:
        found = reply.json().get("reason")
    except (ValueError, AttributeError):
        found = None
    return str(found or reply.text[:200].strip() or reply.reason_phrase).splitlines()[0]


def _unseen(what: str, right: str) -> Finding:
    return Finding(
        severity="unknown",
        what=what,
        means="this role may not read them: they may drop events",
        todo=f"ask with {right}, or have somebody check them: message TTL, backlog quotas with "
        "consumer_backlog_eviction, expiration of subscriptions, deletion of inactive topics",
    )
