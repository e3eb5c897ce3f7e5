"""A server and how to connect to it, as a URL says; checked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn
from urllib.parse import unquote

import msgspec
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as NotConnected

from ...contracts.address import Address
from ...values import split_url

_OWN = ("db", "prefix", "timeout", "wait", "cluster", "client_name")
_SENTINEL = ("sentinel_username", "sentinel_password")
_TLS = (
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_ciphers",
    "ssl_keyfile",
    "ssl_password",
)
_SCHEMES = ("redis", "rediss", "valkey", "valkeys")
SCHEMES = (*_SCHEMES, *(f"{scheme}+sentinel" for scheme in _SCHEMES), "redis+unix", "valkey+unix", "unix")
"""The schemes of a Redis URL; an s for TLS."""
PORT, SENTINEL_PORT = 6379, 26_379
_LEAVE = 1.0

Place = tuple[str, int]
"""Host and port."""


def options_of(scheme: str) -> tuple[str, ...]:
    """The options that a URL with this scheme may have."""
    kind, _, how = scheme.partition("+")
    return _OWN + (_TLS if kind in ("rediss", "valkeys") else ()) + (_SENTINEL if how == "sentinel" else ())


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A Redis or Valkey server (or any node of a cluster), and how it is used.

    `others`: other possible places; the primary among them is used. `path`: its Unix socket, instead of all these.
    `sentinel`: the name of the primary; the places are then those of Sentinels. `prefix` begins every key. `timeout`:
    seconds after which a call without an answer has failed. `wait`: how many replicas must have confirmed a write
    before it counts (WAIT); 0: none. `tls`: options of redis-py's SSLConnection. `client_name`: the name of our
    connections in CLIENT LIST; empty: `eventwagon/HOST-PID`.
    """

    host: str = "localhost"
    port: int = PORT
    others: tuple[Place, ...] = ()
    path: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = None
    sentinel: str = ""
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    tls: Mapping[str, Any] | None = None
    prefix: str = "eventwagon"
    timeout: float = 5.0
    wait: int = 0
    cluster: bool = False
    client_name: str = ""

    def __repr__(self) -> str:
        return f"<Server {self.where}>"  # without the password, which would end up in logs

    @property
    def places(self) -> tuple[Place, ...]:
        """Where it, its Sentinels, or nodes of its cluster may be."""
        return ((self.host, self.port), *self.others)

    @property
    def where(self) -> str:
        """Its name in messages; without the password."""
        if self.path:
            return f"Redis at {self.path}, database {self.db}"
        at = ",".join(map(_shown, self.places))
        if self.sentinel:
            return f"Redis {self.sentinel} of the Sentinels at {at}, database {self.db}"
        return f"Redis at {at}" + ("" if self.cluster else f"/{self.db}")

    def at(self, host: str, port: int) -> Server:
        """Another node of the same cluster; the server itself if there is no cluster."""
        return msgspec.structs.replace(self, host=host, port=port, others=()) if self.cluster else self

    def connection(self) -> AbstractConnection:
        """A connection to it, not open yet."""
        options: dict[str, Any] = {
            "db": self.db,
            "username": self.username,
            "password": self.password,
            "protocol": 2,  # flat replies inside and outside of scripts, from every version
            "retry": Retry(NoBackoff(), 0),  # a publisher must know the outcome of each attempt
            "socket_timeout": None,  # the wire has timeouts of its own
            "socket_connect_timeout": self.timeout,
            "client_name": self.client_name or _own_name(),
        }
        if self.path:
            return UnixDomainSocketConnection(path=self.path, **options)
        options |= {"host": self.host, "port": self.port, **(self.tls or {})}
        if (self.others or self.sentinel) and not self.cluster:
            return _SeekingSSL(self, options) if self.tls is not None else _Seeking(self, options)
        kind: type[Connection] = Connection if self.tls is None else SSLConnection
        return kind(**options)

    def to_sentinel(self, place: Place) -> AbstractConnection:
        """A connection to one of its Sentinels, not open yet."""
        kind: type[Connection] = Connection if self.tls is None else SSLConnection
        return kind(
            host=place[0],
            port=place[1],
            username=self.sentinel_username,
            password=self.sentinel_password,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=self.share,
            socket_connect_timeout=self.share,
            client_name=self.client_name or _own_name(),
            **(self.tls or {}),
        )

    @property
    def share(self) -> float:
        """Seconds for each of several places, so that a silent one leaves time for the others."""
        return max(0.05, self.timeout / (len(self.places) + 1))

    @classmethod
    def from_url(cls, url: str) -> Server:
        """`redis://[user:password@]host[:port][,host[:port]...][/db][?option=value&...]`, `rediss://` for TLS,
        `redis+sentinel://host[:port],.../NAME[/db]`, `redis+unix:///path`; and the same with `valkey`. Raises
        UsageError."""
        return cls.at_address(Address.of(url))

    @classmethod
    def at_address(cls, address: Address) -> Server:
        """The server of a parsed URL. Raises UsageError."""
        parts = split_url(address.url)
        kind, _, how = parts.scheme.partition("+")
        is_unix, is_sentinel, is_tls = "unix" in (kind, how), how == "sentinel", kind in ("rediss", "valkeys")

        def refuse(why: str) -> NoReturn:
            raise address.wrong(why) from None

        if parts.scheme not in SCHEMES:
            refuse("write redis://host:port/db, or rediss:// for TLS")
        options = address.only(*options_of(parts.scheme))
        login, _, netloc = parts.netloc.rpartition("@")
        username, _, password = (unquote(part) for part in login.partition(":"))
        places = [] if is_unix else address.places(SENTINEL_PORT if is_sentinel else PORT)
        sentinel, number, path = "", parts.path.strip("/"), ""
        if is_unix:
            if netloc or not number:
                refuse(f"write {parts.scheme}:///path/of/the/socket?db=0 (three slashes)")
            path, number = unquote(parts.path), ""
        elif is_sentinel:
            sentinel, _, number = (unquote(part) for part in number.partition("/"))
            if not sentinel or not sentinel.isprintable():
                refuse(f"write {parts.scheme}://host:26379,host2:26379/NAME/db: the name of the primary, say mymaster")
        if number and "db" in options:
            refuse("give the database in the path or as db=, not both")
        db = options.get("db", number or "0")
        if not db.isdecimal():
            refuse(f"database {db!r}: it is a number, as in redis://host:6379/0")
        cluster = address.flag("cluster")
        if cluster and (is_sentinel or is_unix):
            refuse("a cluster is found by the hosts of its nodes: redis://host:port,host2:port?cluster=true")
        if cluster and int(db):
            refuse("a cluster has database 0 only")
        prefix = options.get("prefix", "eventwagon")
        if not prefix or any(c in prefix for c in "{}") or not prefix.isprintable():
            refuse(
                f"prefix={prefix!r}: give plain text without braces; braces decide on which node a cluster keeps a key"
            )
        client_name = options.get("client_name", "")
        if not all("!" <= c <= "~" for c in client_name):
            refuse(f"client_name={client_name!r}: give letters, digits and signs of ASCII, without blanks")
        (host, port), *others = places or [(cls().host, PORT)]
        return cls(
            host=host,
            port=port,
            others=tuple(others),
            path=path,
            db=int(db),
            username=username or None,
            password=password or None,
            sentinel=sentinel,
            sentinel_username=options.get("sentinel_username") or None,
            sentinel_password=options.get("sentinel_password") or None,
            tls=_tls(address) if is_tls else None,
            prefix=prefix,
            timeout=address.seconds("timeout", 5.0, least=0.001, most=3600),
            wait=address.whole("wait", 0, least=0),
            cluster=cluster,
            client_name=client_name,
        )


class _Seeking(Connection):
    """A connection to the primary among several servers, which is searched for each time that it opens."""

    def __init__(self, server: Server, options: dict[str, Any]) -> None:
        super().__init__(**options)
        self._server = server

    async def connect(self) -> None:
        """See `seek`."""
        await seek(self, self._server, super().connect)


class _SeekingSSL(SSLConnection):
    """The same over TLS."""

    def __init__(self, server: Server, options: dict[str, Any]) -> None:
        super().__init__(**options)
        self._server = server

    async def connect(self) -> None:
        """See `seek`."""
        await seek(self, self._server, super().connect)


async def seek(connection: Any, server: Server, connect: Callable[[], Awaitable[None]]) -> None:
    """Open the connection to the first place where a primary answers. Raises RedisError, OSError, TimeoutError."""
    await enter(connection, lambda: _seek(connection, server, connect))


async def _seek(connection: Any, server: Server, connect: Callable[[], Awaitable[None]]) -> None:
    trouble: BaseException = NotConnected("nowhere to look")
    for place in server.places:
        try:
            async with asyncio.timeout(server.share):
                connection.host, connection.port = await _primary(server, place) if server.sentinel else place
                await connect()
                await _check_primary(connection)
                return
        except (RedisError, OSError, TimeoutError) as e:
            if not isinstance(trouble, AuthenticationError | ResponseError):  # first what a person must fix
                trouble = e
                if isinstance(e, TimeoutError) and not str(e):
                    trouble = NotConnected(f"{_shown(place)} has not answered for {server.share:.1f} s")
            await leave(connection)
    raise trouble


async def _primary(server: Server, place: Place) -> Place:
    """Where the primary is, as this Sentinel says."""
    sentinel: Any = server.to_sentinel(place)
    try:
        await sentinel.connect()
        await sentinel.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", server.sentinel, check_health=False)
        answer = await sentinel.read_response(disconnect_on_error=False)
    except ResponseError as e:
        if "unknown command" not in str(e).lower():
            raise
        raise ResponseError(
            f"{_shown(place)} is a server and no Sentinel: take '+sentinel' and '/{server.sentinel}' out of the URL, "
            "or name the Sentinels' hosts and ports"
        ) from e
    finally:
        await leave(sentinel)
    if not answer:
        raise ResponseError(f"the Sentinel at {_shown(place)} knows no primary of the name {server.sentinel!r}")
    return answer[0].decode(), int(answer[1])


async def _check_primary(connection: Any) -> None:
    """Raise NotConnected for a replica: a Sentinel may not know yet. A server that does not say counts as a primary."""
    await connection.send_command("INFO", "replication", check_health=False)
    try:
        answer = await connection.read_response(disconnect_on_error=False)
    except ResponseError:
        return
    if b"role:slave" in answer:
        raise NotConnected(f"{_shown((connection.host, connection.port))} is a replica, which takes no writes")


def _shown(place: Place) -> str:
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _own_name() -> str:
    host = "".join(c for c in socket.gethostname() if "!" <= c <= "~")
    return f"eventwagon/{host}-{os.getpid()}"


async def enter(connection: Any, connect: Callable[[], Awaitable[None]] | None = None) -> None:
    """Open it. redis-py may lose a cancellation on the way: it is raised here."""
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0  # a task group may have left some (before Python 3.13)
    await (connect or connection.connect)()
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


async def leave(connection: AbstractConnection) -> None:
    """Close it, in whatever state it is, and wait for that: otherwise it would outlive its event loop."""
    with contextlib.suppress(RedisError, OSError, TimeoutError):
        async with asyncio.timeout(_LEAVE):
            await connection.disconnect()


def _tls(address: Address) -> dict[str, Any]:
    """Options of redis-py's SSLConnection."""
    options: dict[str, Any] = {name: value for name, value in address.options.items() if name in _TLS}
    if "ssl_check_hostname" in options:
        options["ssl_check_hostname"] = address.flag("ssl_check_hostname")
    if address.choice("ssl_cert_reqs", "required", ("required", "optional", "none")) == "none":
        options.setdefault("ssl_check_hostname", False)
    return options
