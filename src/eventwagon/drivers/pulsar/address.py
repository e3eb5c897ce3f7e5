"""Where a Pulsar cluster is, and the names of its topics. Pure."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

import msgspec

from ...contracts.address import Address
from ...event import Channel
from ...values import split_url

SUBSCRIPTION = "eventwagon"
"""The one subscription that consumers share."""
TOTALS = "eventwagon-totals"
"""A subscription that nobody reads: while it exists the server keeps every entry, so that entries can be counted."""

_KNOWN = ("admin", "token", "tls_ca", "tls_cert", "tls_key", "tls_insecure", "listener", "prefetch", "send_timeout")


class PulsarAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where the cluster is and how to connect to it. Times are in seconds."""

    service: str
    admin: str
    tenant: str
    namespace: str
    token: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_insecure: bool = False
    listener: str | None = None
    """Which of the addresses that brokers advertise (advertisedListeners) to use; None: their own."""
    prefetch: int = 100
    send_timeout: float = 5.0

    @property
    def place(self) -> str:
        """The cluster's name in messages, without secrets."""
        return f"{self.service} ({self.tenant}/{self.namespace})"

    def topic(self, channel: Channel) -> str:
        """The whole name of the channel's topic."""
        return f"persistent://{self.tenant}/{self.namespace}/{channel}"

    def path(self, channel: Channel) -> str:
        """The topic's path in the admin API."""
        return f"persistent/{quote(self.tenant)}/{quote(self.namespace)}/{quote(str(channel))}"


def parse(url: str) -> PulsarAddress:
    """Parse `pulsar://host:6650/tenant/namespace?admin=http://host:8080&token=…`. Raises UsageError."""
    parts = split_url(url)
    address = Address.of(url)
    given = address.only(*_KNOWN)
    if "@" in parts.netloc:
        raise address.wrong("no user or password in the URL; Pulsar takes &token=…")
    pieces = [unquote(piece) for piece in parts.path.split("/") if piece]
    if not parts.netloc or len(pieces) not in (0, 2):
        raise address.wrong(f"write {parts.scheme}://host:6650/tenant/namespace (say /public/default)")
    address.places(6650)
    tenant, namespace = pieces or ("public", "default")
    secure = parts.scheme == "pulsar+ssl"
    admin = f"{'https' if secure else 'http'}://{parts.hostname}:{8443 if secure else 8080}"
    if bool(given.get("tls_cert")) != bool(given.get("tls_key")):
        raise address.wrong("tls_cert and tls_key go together")
    return PulsarAddress(
        service=f"{parts.scheme}://{parts.netloc}",
        admin=(address.http("admin", admin, example=f"http://{parts.hostname}:8080") or admin).rstrip("/"),
        tenant=tenant,
        namespace=namespace,
        token=given.get("token") or None,
        tls_ca=given.get("tls_ca") or None,
        tls_cert=given.get("tls_cert") or None,
        tls_key=given.get("tls_key") or None,
        tls_insecure=address.flag("tls_insecure"),
        listener=given.get("listener") or None,
        prefetch=address.whole("prefetch", 100, most=10_000),
        send_timeout=address.seconds("send_timeout", 5.0, least=0.1, most=600),
    )


def channel_of(topic: str, train: str) -> Channel | None:
    """The channel of `train` that has this topic (`persistent://tenant/namespace/name`); None for any other topic."""
    name = topic.rpartition("/")[2]
    if not name.startswith(train):
        return None
    rest = name[len(train) :]
    found = re.fullmatch(r"(?:_v([1-9]\d*))?(?:\.([a-z][a-z0-9_-]*))?", rest)
    if not found:
        return None
    return Channel(train, int(found[1] or 0), found[2] or "")
