"""Pulsar standalone: broker, bookie and RocksDB metadata in one process."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers.install import pulsar
from tests.servers.ports import free_port
from tests.servers.server import Server

_LOGGING = """\
status=warn
appender.console.type=Console
appender.console.name=STDOUT
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=[%d] %p %c{1} %m%n
rootLogger.level=INFO
rootLogger.appenderRef.stdout.ref=STDOUT
"""
_OPENS = (
    "java.base/java.nio",
    "java.base/jdk.internal.misc",
    "java.base/jdk.internal.platform",
    "java.base/sun.net",
    "java.management/sun.management",
    "jdk.management/com.sun.management.internal",
)


class PulsarServer(Server):
    """`config` goes over our standalone.conf; `token` is what asking for its health needs, where `config` asks for
    one."""

    name = "pulsar"
    patience = 90.0

    def __init__(
        self,
        directory: Path | None = None,
        *,
        config: Mapping[str, str] | None = None,
        token: str | None = None,
        jvm: Sequence[str] = (),
    ) -> None:
        self._installed = pulsar()
        super().__init__(directory)
        self.port = free_port()
        self.admin_port = free_port()
        self._bookie_port = free_port()
        self.config = dict(config or {})
        self.token = token
        self._jvm = list(jvm)

    @property
    def admin_url(self) -> str:
        """Of the REST interface."""
        return f"http://{self.host}:{self.admin_port}"

    @property
    def url(self) -> str:
        token = f"&token={self.token}" if self.token else ""
        return f"pulsar://{self.host}:{self.port}/public/default?admin={self.admin_url}{token}"

    def properties(self) -> dict[str, str]:
        """The server's configuration."""
        return {
            "clusterName": "standalone",
            "bindAddress": self.host,
            "advertisedAddress": self.host,
            # without it the bookie listens on all interfaces
            "listeningInterface": "lo",
            "allowLoopback": "true",
            "brokerServicePort": str(self.port),
            "webServicePort": str(self.admin_port),
            # one bookie
            "managedLedgerDefaultEnsembleSize": "1",
            "managedLedgerDefaultWriteQuorum": "1",
            "managedLedgerDefaultAckQuorum": "1",
            "journalDirectory": "data/bk/journal",
            "ledgerDirectories": "data/bk/ledgers",
            "ledgerStorageClass": "org.apache.bookkeeper.bookie.storage.ldb.DbLedgerStorage",
            # for tests: a killed process loses nothing, a machine without power may
            "journalSyncData": "false",
            "diskUsageThreshold": "0.99",
            "diskUsageWarnThreshold": "0.98",
            "nettyMaxFrameSizeBytes": "5253120",
            # only what was asked for
            "allowAutoTopicCreation": "false",
            "brokerDeleteInactiveTopicsEnabled": "false",
            "loadBalancerEnabled": "false",
            "failureDomainsEnabled": "false",
            "transactionCoordinatorEnabled": "false",
            "systemTopicEnabled": "false",
            "topicLevelPoliciesEnabled": "false",
            "brokerShutdownTimeoutMs": "5000",
            # a small process
            "numHttpServerThreads": "8",
            "numIOThreads": "2",
            "numOrderedExecutorThreads": "2",
            "numCacheExecutorThreadPoolSize": "2",
            "managedLedgerNumSchedulerThreads": "2",
            "managedLedgerCacheSizeMB": "32",
            "defaultNumberOfNamespaceBundles": "4",
            "dbStorage_writeCacheMaxSizeMb": "16",
            "dbStorage_readAheadCacheMaxSizeMb": "16",
            "dbStorage_rocksDB_blockCacheSize": "8388608",
            **self.config,
        }

    def command(self) -> Sequence[str]:
        file = self.directory / "standalone.conf"
        file.write_text("".join(f"{key}={value}\n" for key, value in self.properties().items()))
        logging = self.directory / "log4j2.properties"
        logging.write_text(_LOGGING)
        return [
            *self._installed.java(),
            *("-Xms64m", "-Xmx256m", "-XX:MaxDirectMemorySize=256m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"),
            *self._jvm,
            f"-Dlog4j2.configurationFile={logging}",
            f"-Dlog4j.configurationFile={logging}",
            "-Dio.netty.tryReflectionSetAccessible=true",
            "-Dio.netty.recycler.maxCapacityPerThread=4096",
            "-Dpulsar.allocator.exit_on_oom=true",
            *(f"--add-opens={package}=ALL-UNNAMED" for package in _OPENS),
            "org.apache.pulsar.PulsarStandaloneStarter",
            *("--config", str(file), "-nfw", "-nss", "-a", self.host),
            *("--bookkeeper-dir", str(self.directory / "data" / "bk"), "--bookkeeper-port", str(self._bookie_port)),
            *("--metadata-dir", str(self.directory / "data" / "metadata")),
        ]

    def ready(self) -> bool:
        """Its own health check passes, and the namespace is there."""
        return self._answers("/admin/v2/brokers/health") and self._answers("/admin/v2/namespaces/public/default")

    def _answers(self, path: str) -> bool:
        request = urllib.request.Request(f"{self.admin_url}{path}")  # noqa: S310 - http, ours
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=10.0) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except urllib.error.HTTPError as e:
            e.close()
            return False
