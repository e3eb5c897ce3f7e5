"""Redis and Valkey: a server, a cluster of three masters, and a primary with replicas that Sentinels watch over."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.servers.install import redis_server, valkey_server
from tests.servers.ports import free_port
from tests.servers.server import Server, StartFailed

_SLOTS = 16_384


def ask(port: int, *words: str | int, timeout: float = 10.0) -> bytes:
    """One command on a connection of its own; the raw answer (short ones only). Raises OSError."""
    parts = [str(word).encode() for word in words]
    request = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.sendall(request)
        return connection.recv(65_536)


class RedisServer(Server):
    """`config` are lines of redis.conf that come last: `RedisServer(config=["requirepass secret"])`.

    Every write goes to the append-only file (`appendfsync everysec`: a killed process loses nothing that it
    acknowledged and had written; `appendfsync always` writes before it acknowledges)."""

    name = "redis"
    patience = 20.0

    def __init__(self, directory: Path | None = None, *, config: Sequence[str] = (), valkey: bool = False) -> None:
        self.name = "valkey" if valkey else "redis"
        self._binary = valkey_server() if valkey else redis_server()
        super().__init__(directory)
        self.port = free_port()
        self.config = list(config)

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def command(self) -> Sequence[str]:
        lines = [
            f"port {self.port}",
            f"bind {self.host}",
            f"dir {self.directory}",
            "daemonize no",
            'save ""',
            "appendonly yes",
            "appendfsync everysec",
            "aof-rewrite-incremental-fsync yes",
            "databases 16",
            *self.config,
        ]
        file = self.directory / "server.conf"
        file.write_text("\n".join([*lines, ""]))
        return [str(self._binary), str(file)]

    def save(self) -> None:
        """Keep a copy of what it holds (BGSAVE), for `restore`."""
        self._told("BGSAVE")
        self._await(b"rdb_bgsave_in_progress:0")
        self._await(b"rdb_last_bgsave_status:ok")
        shutil.copyfile(self.directory / "dump.rdb", self.directory / "copy.rdb")

    def restore(self) -> None:
        """Start it, after a kill, with the copy that `save` made; later writes go to the append-only file again."""
        shutil.rmtree(self.directory / "appendonlydir")  # a server with one reads nothing else
        shutil.copyfile(self.directory / "copy.rdb", self.directory / "dump.rdb")
        config = self.config
        self.config = [*config, "appendonly no"]
        try:
            self.start()
        finally:
            self.config = config
        self._told("CONFIG", "SET", "appendonly", "yes")
        self._await(b"aof_rewrite_in_progress:0")
        self._await(b"aof_last_bgrewrite_status:ok")

    def _told(self, *words: str) -> None:
        answer = ask(self.port, *words)
        if not answer.startswith(b"+"):
            raise StartFailed(f"{self.name}: {' '.join(words)}: {answer.decode(errors='replace')}")

    def _await(self, line: bytes) -> None:
        until = time.monotonic() + self.patience
        while line not in ask(self.port, "INFO", "persistence"):
            if time.monotonic() > until:
                raise StartFailed(f"{self.name}: no {line.decode()} in {self.patience:g} s")
            time.sleep(0.02)

    def ready(self) -> bool:
        """PING; a refusal for want of a password is an answer too, LOADING is not yet one."""
        return ask(self.port, "PING").startswith((b"+PONG", b"-NOAUTH"))


def _start_all(servers: Sequence[RedisServer]) -> None:
    """Start them side by side; return when all are ready. Raises StartFailed."""
    for each in servers:
        each.launch()
    for each in servers:
        each.await_ready()


class RedisCluster:
    """Three masters in cluster mode, all slots assigned. `nodes` are servers as any other. A context manager."""

    def __init__(self, directory: Path | None = None, *, config: Sequence[str] = (), valkey: bool = False) -> None:
        self.nodes = []
        for _ in range(3):
            bus = free_port()
            lines = [
                "cluster-enabled yes",
                f"cluster-port {bus}",
                "cluster-node-timeout 2000",
                "cluster-config-file nodes.conf",
                *config,
            ]
            node = RedisServer(directory, config=lines, valkey=valkey)
            self.nodes.append(node)
            node.bus = bus  # type: ignore[attr-defined]

    @property
    def url(self) -> str:
        """Names its first node."""
        return f"redis://127.0.0.1:{self.nodes[0].port}/0?cluster=true"

    def start(self) -> None:
        """Start all and make them one cluster; returns when each node knows that it is whole."""
        _start_all(self.nodes)
        first = self.nodes[0]
        share = -(-_SLOTS // len(self.nodes))
        for number, node in enumerate(self.nodes):
            if b"cluster_slots_assigned:0" in ask(node.port, "CLUSTER", "INFO"):
                low, high = number * share, min((number + 1) * share, _SLOTS) - 1
                self._told(node, "CLUSTER", "ADDSLOTSRANGE", low, high)
                self._told(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                if node is not first:
                    self._told(node, "CLUSTER", "MEET", first.host, first.port, first.bus)  # type: ignore[attr-defined]
        self.await_whole()

    def await_whole(self) -> None:
        """Return when every node says that all slots are served. Raises StartFailed."""
        until = time.monotonic() + 30.0
        while not all(self._whole(node) for node in self.nodes):
            if time.monotonic() > until:
                states = "\n".join(ask(n.port, "CLUSTER", "NODES").decode(errors="replace") for n in self.nodes)
                raise StartFailed(f"the cluster is not whole after 30 s:\n{states}")
            time.sleep(0.02)

    def heal(self) -> None:
        """Start and continue whatever a test left killed or paused."""
        for node in self.nodes:
            node.resume()
            node.start()
        self.await_whole()

    def close(self) -> None:
        """Kill all and remove their folders."""
        for node in self.nodes:
            node.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @staticmethod
    def _told(node: RedisServer, *words: str | int) -> None:
        answer = ask(node.port, *words)
        if not answer.startswith(b"+OK"):
            raise StartFailed(f"{' '.join(map(str, words))}: {answer.decode(errors='replace')}")

    def _whole(self, node: RedisServer) -> bool:
        info = ask(node.port, "CLUSTER", "INFO")
        return all(
            line in info
            for line in (
                b"cluster_state:ok",
                b"cluster_known_nodes:%d" % len(self.nodes),
                b"cluster_slots_ok:%d" % _SLOTS,
            )
        )


class Sentinel(RedisServer):
    """One Sentinel; `lines` are its configuration, which it writes over."""

    def command(self) -> Sequence[str]:
        file = self.directory / "sentinel.conf"
        lines = [f"port {self.port}", f"bind {self.host}", f"dir {self.directory}", "daemonize no", *self.config]
        if not file.exists():  # what it has learnt stands there
            file.write_text("\n".join([*lines, ""]))
        return [str(self._binary), str(file), "--sentinel"]


class SentinelGroup:
    """A primary, two replicas, and three Sentinels, two of which must agree. A context manager."""

    NAME = "mymaster"

    def __init__(self, directory: Path | None = None, *, valkey: bool = False) -> None:
        at_once = "repl-diskless-sync-delay 0"  # a full sync would wait 5 s for further replicas
        primary = RedisServer(directory, config=[at_once], valkey=valkey)
        follow = [at_once, f"replicaof {primary.host} {primary.port}"]
        self.servers = [primary, *(RedisServer(directory, config=follow, valkey=valkey) for _ in range(2))]
        lines = [
            f"sentinel monitor {self.NAME} {primary.host} {primary.port} 2",
            f"sentinel down-after-milliseconds {self.NAME} 1000",
            f"sentinel failover-timeout {self.NAME} 6000",
        ]
        self.sentinels = [Sentinel(directory, config=lines, valkey=valkey) for _ in range(3)]

    @property
    def url(self) -> str:
        """Names all Sentinels."""
        places = ",".join(f"{each.host}:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{places}/{self.NAME}"

    @property
    def primary(self) -> RedisServer:
        """Which one the first Sentinel that runs has for it."""
        answer = next(
            ask(each.port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.NAME) for each in self.sentinels if each.running
        )
        return next(each for each in self.servers if answer.endswith(b"\r\n%d\r\n" % each.port))

    def __enter__(self) -> Self:
        try:
            _start_all(self.servers)
            self.await_replicated(self.servers[0])  # a Sentinel looks for replicas when it starts, then every 10 s
            _start_all(self.sentinels)
            self._await_watched()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for each in (*self.sentinels, *self.servers):
            each.close()

    def await_replicated(self, primary: RedisServer) -> None:
        """Return when both replicas have copied what it holds and follow it. Raises StartFailed."""
        until = time.monotonic() + 90.0
        while ask(primary.port, "INFO", "replication").count(b"state=online") < 2:
            if time.monotonic() > until:
                raise StartFailed(f"{self.NAME}: fewer than 2 replicas follow after 90 s")
            time.sleep(0.05)

    def _await_watched(self) -> None:
        """Until each Sentinel knows both replicas and both others."""
        until = time.monotonic() + 60.0
        for each in self.sentinels:
            while not all(
                part in ask(each.port, "SENTINEL", "MASTER", self.NAME)
                for part in (b"num-slaves\r\n$1\r\n2", b"num-other-sentinels\r\n$1\r\n2")
            ):
                if time.monotonic() > until:
                    raise StartFailed("the Sentinels do not know one another after 60 s")
                time.sleep(0.05)
