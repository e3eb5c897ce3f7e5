"""The admin API: topics made, sealed, measured and removed; what the namespace would do to them."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import httpx

from ...errors import StorageBroken, Unavailable
from ...event import Channel
from .address import SUBSCRIPTION, TOTALS, Address, channel_of
from .positions import Position, Snapshot, position, snapshot

_PATIENCE = 15.0  # seconds for one request
_TRIES = 8  # while a topic is being loaded, moved or deleted
_PAUSE = 0.1  # seconds, growing with each try
_BUSY = (409, 412, 429, 500, 502, 503, 504, 307, 308)
_NOTED = re.compile(r"\d+:\d+=\d+")
_EARLIEST = {"ledgerId": -1, "entryId": -1}


class Admin:
    """Calls of the admin API for one namespace. Raises Unavailable and StorageBroken, which say what is missing."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._http: httpx.AsyncClient | None = None
        self._few = asyncio.Semaphore(16)

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
        """Make the topic and its subscriptions, from the first message on; what exists is left alone."""
        path = self._address.path(channel)
        await self._done("PUT", path, absent_ok=False, exists_ok=True, what=f"creating {channel}")
        await asyncio.gather(*(self._subscribe(channel, name) for name in (TOTALS, SUBSCRIPTION)))

    async def _subscribe(self, channel: Channel, name: str) -> None:
        path = f"{self._address.path(channel)}/subscription/{name}"
        await self._done("PUT", path, absent_ok=False, exists_ok=True, what=f"creating {channel}", body=_EARLIEST)

    async def terminate(self, channel: Channel) -> bool:
        """Seal the topic for good; False where there is none."""
        return (
            await self._done("POST", f"{self._address.path(channel)}/terminate", what=f"sealing {channel}") is not None
        )

    async def unload(self, channel: Channel) -> None:
        """Have the broker load the topic anew: cures one that it has fenced."""
        await self._done("PUT", f"{self._address.path(channel)}/unload", what=f"unloading {channel}")

    async def delete(self, channel: Channel) -> None:
        """Remove the topic, whoever is attached; absent is success."""
        await self._done("DELETE", self._address.path(channel), params={"force": "true"}, what=f"deleting {channel}")

    async def exists(self, channel: Channel) -> bool:
        """Whether the topic stands, sealed or not."""
        return await self.snapshot(channel) is not None

    async def snapshot(self, channel: Channel) -> Snapshot | None:
        """What it holds; None where there is no such channel."""
        reply = await self._done("GET", f"{self._address.path(channel)}/internalStats", what=f"looking at {channel}")
        return None if reply is None else snapshot(reply.json(), SUBSCRIPTION)

    async def others_in_flight(self, channel: Channel, own: Sequence[str]) -> int | None:
        """Messages that consumers but these hold unacknowledged; None where the channel is absent."""
        reply = await self._done("GET", f"{self._address.path(channel)}/stats", what=f"looking at {channel}")
        found = None if reply is None else reply.json().get("subscriptions", {}).get(SUBSCRIPTION)
        if found is None:
            return None
        return sum(int(c.get("unackedMessages", 0)) for c in found["consumers"] if c.get("consumerName") not in own)

    async def tried(self, channel: Channel) -> dict[Position, int]:
        """What was noted of attempts, by `note_tried`."""
        path = f"{self._address.path(channel)}/subscription/{SUBSCRIPTION}/properties"
        reply = await self._done("GET", path, what=f"looking at {channel}")
        found = {} if reply is None else reply.json() or {}
        return {position(name): int(value) for name, value in found.items() if _NOTED.fullmatch(f"{name}={value}")}

    async def note_tried(self, channel: Channel, tried: Mapping[Position, int]) -> None:
        """Store how often these messages were given to somebody, with the subscription: the server counts no attempt of
        a process that crashed. Replaces what was noted before."""
        path = f"{self._address.path(channel)}/subscription/{SUBSCRIPTION}/properties"
        body = {f"{ledger}:{entry}": str(attempt) for (ledger, entry), attempt in tried.items()}
        await self._done("PUT", path, what=f"noting attempts of {channel}", body=body)

    async def channels(self, train: str) -> list[Channel]:
        """The channels of the train that stand."""
        a = self._address
        reply = await self._done("GET", f"persistent/{a.tenant}/{a.namespace}", what="listing topics", absent_ok=False)
        topics = [] if reply is None else reply.json()
        return [channel for topic in topics if (channel := channel_of(topic, train)) is not None]

    async def prove_fit(self) -> None:
        """Raise StorageBroken where the namespace would lose events or bring back deleted topics. What may not be seen
        without a right that only those need who create channels counts as fit, unless `strict`."""
        await self._fit(strict=False)

    async def prove_fit_to_create(self) -> None:
        """The same, and not to be allowed to see it is an error: whoever creates channels must know."""
        await self._fit(strict=True)

    async def _fit(self, *, strict: bool) -> None:
        a = self._address
        reply = await self._request("GET", f"namespaces/{a.tenant}/{a.namespace}")
        if not strict and _missing_right(reply):
            return
        if reply.status_code == 404:
            raise StorageBroken(
                f"{a.place}: there is no such namespace; make it: pulsar-admin namespaces create {self._ns}"
            )
        if not reply.is_success:
            self._refused(reply, "reading the namespace's policies")
        policies = reply.json()
        runtime = await self._request("GET", "brokers/configuration/runtime")
        defaults = runtime.json() if runtime.is_success else {}  # shown to a superuser only
        self._no_auto_creation(policies.get("autoTopicCreationOverride"), defaults.get("allowAutoTopicCreation"))
        for trouble, cure in _unfit(policies, defaults):
            raise StorageBroken(f"{a.place}: {trouble}; that loses events: pulsar-admin namespaces {cure} {self._ns}")

    def _no_auto_creation(self, override: Any, default: str | None) -> None:
        allowed = (override or {}).get("allowAutoTopicCreation")
        if allowed is None and default is not None:
            allowed = default != "false"
        if allowed is not False:
            raise StorageBroken(
                f"{self._address.place}: the namespace lets clients create topics by using them"
                f"{'' if allowed else ', as far as can be seen'}, so a deleted channel would come back; switch that off: "
                f"pulsar-admin namespaces set-auto-topic-creation --disable {self._ns}"
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
        """The reply, after as many tries as a topic on the move may need; None where there is none (404)."""
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
                    # to the broker that owns the topic; by hand, since the token must go there too
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
    """Whether the role is known and may not; servers say 401 for that, too."""
    return reply.status_code == 403 or (reply.status_code == 401 and "nauthorized to" in _reason(reply))


def _reason(reply: httpx.Response) -> str:
    try:
        found = reply.json().get("reason")
    except (ValueError, AttributeError):
        found = None
    return str(found or reply.text[:200].strip() or reply.reason_phrase).splitlines()[0]


def _unfit(policies: dict[str, Any], defaults: dict[str, str]) -> list[tuple[str, str]]:
    """What of these policies, and of the broker's defaults where they say nothing, drops events that nobody has
    settled, and the command that changes it."""
    found = []
    ttl = policies.get("message_ttl_in_seconds")
    if (int(defaults.get("ttlDurationDefaultInSeconds", 0)) if ttl is None else ttl) > 0:
        found.append(("messages are dropped by age (message TTL)", "set-message-ttl --messageTTL 0"))
    idle = policies.get("subscription_expiration_time_minutes")
    if (int(defaults.get("subscriptionExpirationTimeMinutes", 0)) if idle is None else idle) > 0:
        found.append(("idle subscriptions are dropped", "set-subscription-expiration-time --time 0"))
    quotas = (policies.get("backlog_quota_map") or {}).values()
    if any(quota.get("policy") == "consumer_backlog_eviction" for quota in quotas):
        found.append(("messages are dropped from a long backlog", "remove-backlog-quota"))
    inactive = policies.get("inactive_topic_policies") or {}
    if inactive.get("deleteWhileInactive") and "caught_up" in str(inactive.get("inactiveTopicDeleteMode")):
        found.append(("topics are deleted when they are read to their end", "remove-inactive-topic-policies"))
    return found
