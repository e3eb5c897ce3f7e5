"""Which server, and how to talk to it: what a URL says, checked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote

import msgspec
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from .. import redaction
from ..errors import UsageError
from ..values import split_url

_OWN = ("db", "prefix", "timeout", "wait", "cluster")
_TLS = ("ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_ciphers",
        "ssl_keyfile", "ssl_password")  # fmt: skip
_LEAVE = 1.0
_YES = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A Redis or Valkey server (or any node of a cluster), and how it is used.

    `prefix` begins every key. `timeout`: seconds after which a call without an answer has failed. `wait`: how many
    replicas must have confirmed a write before it counts (WAIT); 0: none. `tls`: options of redis-py's SSLConnection.
    """

    host: str = "localhost"
    port: int = 6379
    db: int = 0
    username: str | None = None
    password: str | None = None
    tls: Mapping[str, Any] | None = None
    prefix: str = "eventwagon"
    timeout: float = 5.0
    wait: int = 0
    cluster: bool = False

    def __repr__(self) -> str:
        return f"<Server {self.where}>"  # and not the password, which would end up in logs

    @property
    def where(self) -> str:
        """What messages call it; without the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"Redis at {host}:{self.port}" + ("" if self.cluster else f"/{self.db}")

    def at(self, host: str, port: int) -> Server:
        """Another node of the same cluster."""
        return msgspec.structs.replace(self, host=host, port=port)

    def connection(self) -> AbstractConnection:
        """A connection to it, not yet open."""
        kind: type[Connection] = Connection if self.tls is None else SSLConnection
        return kind(
            host=self.host,
            port=self.port,
            db=self.db,
            username=self.username,
            password=self.password,
            protocol=2,  # flat replies inside and outside of scripts, from every version
            retry=Retry(NoBackoff(), 0),  # whoever publishes must know what became of each attempt
            socket_timeout=None,  # the wire watches over its calls by itself
            socket_connect_timeout=self.timeout,
            **(self.tls or {}),
        )

    @classmethod
    def from_url(cls, url: str) -> Server:
        """`redis://[user:password@]host[:port][/db][?option=value&...]`, `rediss://` for TLS. Raises UsageError."""
        parts = split_url(url)
        shown = redaction.shown(url)

        def refuse(why: str) -> NoReturn:
            raise UsageError(f"{shown}: {why}") from None

        known = _OWN + (_TLS if parts.scheme == "rediss" else ())
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if parts.scheme not in ("redis", "rediss"):
            refuse("write redis://host:port/db, or rediss:// for TLS")
        if unknown := sorted(options.keys() - set(known)):
            refuse(f"unknown option {', '.join(unknown)}; {parts.scheme} knows {', '.join(known)}")
        try:
            port = parts.port
        except ValueError:
            refuse("the port is no number from 0 to 65535")
        number = parts.path.strip("/")
        if number and "db" in options:
            refuse("give the database in the path or as db=, not both")
        db = options.get("db", number or "0")
        if not db.isdecimal():
            refuse(f"database {db!r}: it is a number, as in redis://host:6379/0")
        cluster = _YES.get(options.get("cluster", "no").lower())
        if cluster is None:
            refuse(f"cluster={options['cluster']}: true or false")
        if cluster and int(db):
            refuse("a cluster has database 0 only")
        prefix = options.get("prefix", "eventwagon")
        if not prefix or any(c in prefix for c in "{}") or not prefix.isprintable():
            refuse(f"prefix={prefix!r}: give plain text without braces, which say where a cluster keeps a key")
        wait = options.get("wait", "0")
        if not wait.isdecimal():
            refuse(f"wait={wait}: it is the number of replicas that must confirm each write")
        try:
            timeout = float(options.get("timeout", "5"))
        except ValueError:
            timeout = 0.0
        if not 0 < timeout < 3600:
            refuse(f"timeout={options['timeout']}: give seconds, more than 0")
        tls = {name: value for name, value in options.items() if name in _TLS}
        return cls(
            host=parts.hostname or "localhost",
            port=port or 6379,
            db=int(db),
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            tls=_checked(tls) if parts.scheme == "rediss" else None,
            prefix=prefix,
            timeout=timeout,
            wait=int(wait),
            cluster=cluster,
        )


async def leave(connection: AbstractConnection) -> None:
    """Close it, in whatever state it is, and see it closed: what is only told to close outlives its event loop."""
    with contextlib.suppress(RedisError, OSError, TimeoutError):
        async with asyncio.timeout(_LEAVE):
            await connection.disconnect()


def _checked(tls: dict[str, str]) -> dict[str, Any]:
    checks: dict[str, Any] = dict(tls)
    if "ssl_check_hostname" in tls:
        checks["ssl_check_hostname"] = yes = _YES.get(tls["ssl_check_hostname"].lower())
        if yes is None:
            raise UsageError(f"ssl_check_hostname={tls['ssl_check_hostname']}: true or false")
    requires = tls.get("ssl_cert_reqs", "required")
    if requires not in ("required", "optional", "none"):
        raise UsageError(f"ssl_cert_reqs={requires}: required, optional or none")
    if requires == "none":
        checks.setdefault("ssl_check_hostname", False)
    return checks
