"""Kafka in KRaft mode: one node that is broker and controller, or three of them."""

from __future__ import annotations

import base64
import logging
import shutil
import socket
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import urlencode

from tests.servers.install import CLUSTER_ID, kafka
from tests.servers.ports import free_port
from tests.servers.server import Server

_SILENT = logging.Logger("kafka-not-ready", logging.CRITICAL + 1)
_LOGGING = """\
status=warn
appender.console.type=Console
appender.console.name=STDOUT
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=[%d] %p %m (%c)%n
rootLogger.level=INFO
rootLogger.appenderRef.stdout.ref=STDOUT
"""


def sasl(users: Mapping[str, str], *, admin: str = "admin") -> dict[str, str]:
    """Configuration for passwords (SASL/PLAIN, no TLS) and access rights: `admin` may do all, others what ACLs say."""
    pairs = " ".join(f'user_{name}="{password}"' for name, password in users.items())
    plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    return {
        "listener.security.protocol.map": "CLIENTS:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.clients.plain.sasl.jaas.config": (
            f'{plain} username="{admin}" password="{users[admin]}" {pairs};'
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:{admin};User:ANONYMOUS",
    }


class KafkaServer(Server):
    """`config` goes over our server.properties; `client` are librdkafka options that a client of it needs: they go into
    `url` and are used to see whether it is ready. `advertised` is the port that clients are told (a proxy's).

        KafkaServer(config=sasl({"admin": "a", "bob": "b"}), client=login("admin", "a"))
    """

    name = "kafka"

    def __init__(
        self,
        directory: Path | None = None,
        *,
        config: Mapping[str, str] | None = None,
        client: Mapping[str, str] | None = None,
        advertised: int | None = None,
        jvm: Sequence[str] = (),
    ) -> None:
        self._installed = kafka()
        super().__init__(directory)
        self.port = free_port()
        self.controller_port = free_port()
        self.advertised = advertised
        self.config = dict(config or {})
        self.client = dict(client or {})
        self.node = 1
        self.nodes: Sequence[KafkaServer] = (self,)
        self._jvm = list(jvm)

    @property
    def bootstrap(self) -> str:
        """host:port, for a client that is not ours."""
        return f"{self.host}:{self.advertised or self.port}"

    @property
    def url(self) -> str:
        query = f"?{urlencode(self.client)}" if self.client else ""
        return f"kafka://{self.bootstrap}{query}"

    def properties(self) -> dict[str, str]:
        """The server's configuration."""
        copies = str(len(self.nodes))
        enough = str(min(2, len(self.nodes)))
        return {
            "process.roles": "broker,controller",
            "node.id": str(self.node),
            "controller.quorum.voters": ",".join(f"{n.node}@{n.host}:{n.controller_port}" for n in self.nodes),
            "controller.listener.names": "CONTROLLER",
            "listeners": f"CLIENTS://{self.host}:{self.port},CONTROLLER://{self.host}:{self.controller_port}",
            "advertised.listeners": f"CLIENTS://{self.bootstrap}",
            "listener.security.protocol.map": "CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "CLIENTS",
            "log.dirs": str(self.directory / "data"),
            "num.partitions": "1",
            "auto.create.topics.enable": "false",
            "default.replication.factor": copies,
            "min.insync.replicas": enough,
            "unclean.leader.election.enable": "false",
            "offsets.topic.replication.factor": copies,
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": enough,
            "transaction.state.log.num.partitions": "1",
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": enough,
            "share.coordinator.state.topic.num.partitions": "1",
            "group.initial.rebalance.delay.ms": "0",
            # a small process
            "num.network.threads": "2",
            "num.io.threads": "4",
            "num.replica.fetchers": "1",
            "num.recovery.threads.per.data.dir": "1",
            "background.threads": "2",
            "log.cleaner.threads": "1",
            "log.cleaner.dedupe.buffer.size": "16777216",
            "log.cleaner.io.buffer.size": "65536",
            "log.index.size.max.bytes": "65536",
            "log.segment.bytes": "67108864",
            "log.segment.delete.delay.ms": "1000",
            # soon back after a kill
            "broker.heartbeat.interval.ms": "500",
            "broker.session.timeout.ms": "3000",
            "controlled.shutdown.enable": "true" if len(self.nodes) > 1 else "false",
            "replica.fetch.wait.max.ms": "200",
            **self.config,
        }

    def command(self) -> Sequence[str]:
        file = self.directory / "server.properties"
        file.write_text("".join(f"{key}={value}\n" for key, value in self.properties().items()))
        logging = self.directory / "log4j2.properties"
        logging.write_text(_LOGGING)
        self._format()
        return [
            *self._installed.java(),
            *("-Xms64m", "-Xmx192m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"),
            *self._jvm,
            f"-Dlog4j2.configurationFile={logging}",
            "kafka.Kafka",
            str(file),
        ]

    def _format(self) -> None:
        """What the storage tool's `format` writes, without another Java process: all but the name is the same for every
        node."""
        data = self.directory / "data"
        if data.exists():
            return
        shutil.copytree(self._installed.directory / "formatted", data)
        own = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        (data / "meta.properties").write_text(
            f"version=1\ncluster.id={CLUSTER_ID}\nnode.id={self.node}\ndirectory.id={own}\n"
        )

    def ready(self) -> bool:
        """It names itself, and all nodes that run, as brokers that serve."""
        with socket.create_connection((self.host, self.port), timeout=1.0):
            pass
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        admin = AdminClient({"bootstrap.servers": f"{self.host}:{self.port}", **self.client}, logger=_SILENT)
        try:
            brokers = admin.list_topics(timeout=2.0).brokers
        except KafkaException:
            return False
        return {node.node for node in self.nodes if node.running} <= set(brokers)


def login(user: str, password: str) -> dict[str, str]:
    """The librdkafka options of a client with that name, for a server with `sasl`."""
    return {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": user,
        "sasl.password": password,
    }


class KafkaCluster:
    """Three nodes, each broker and controller: replication 3, writes acknowledged by two, no unclean leader
    elections."""

    def __init__(self, directory: Path | None = None, *, config: Mapping[str, str] | None = None) -> None:
        self.nodes = [KafkaServer(directory, config=config) for _ in range(3)]
        for number, node in enumerate(self.nodes, 1):
            node.node = number
            node.nodes = self.nodes

    @property
    def bootstrap(self) -> str:
        """host:port of all three, for a client that is not ours."""
        return ",".join(node.bootstrap for node in self.nodes)

    @property
    def url(self) -> str:
        """Names all three."""
        return f"kafka://{self.bootstrap}"

    def start(self) -> None:
        """Start those that do not run; returns when each knows all."""
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.await_ready()

    def heal(self) -> None:
        """Start and continue whatever a test left killed or paused."""
        for node in self.nodes:
            node.resume()
        self.start()

    def close(self) -> None:
        """Kill all and remove their folders."""
        for node in self.nodes:
            node.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            for node in self.nodes:
                node.kill()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
