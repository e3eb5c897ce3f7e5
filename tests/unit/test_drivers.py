"""From a URL to drivers: what is named, what is missing, what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from eventwagon import Train
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.drivers.memory.registry import MemoryRegistry
from eventwagon.drivers.opening import Program, open_drivers, open_orchestrator
from eventwagon.drivers.sqlite.registry import SQLiteRegistry
from eventwagon.errors import UsageError
from eventwagon.settings import Settings
from eventwagon.testing.virtual_time import run
from tests.support import until


def test_an_unknown_scheme_is_told_which_there_are() -> None:
    with pytest.raises(
        UsageError, match=r"names no known broker; there are kafka:, memory:, pulsar:, .*redis:.*sqlite:, sqs:"
    ):
        open_drivers("rabbit://host")


def test_the_registry_may_be_elsewhere() -> None:
    drivers = open_drivers("memory://?registry=sqlite:///some/directory%3Fsync=normal")
    assert isinstance(drivers.broker, MemoryBroker)
    assert isinstance(drivers.registry, SQLiteRegistry)
    assert str(drivers.registry.directory).endswith("some/directory")
    assert isinstance(open_drivers("memory://").registry, MemoryRegistry)


def test_a_named_memory_is_one_world_in_a_process() -> None:
    a, again, b = open_drivers("memory://a"), open_drivers("MEMORY:///a/"), open_drivers("memory://b")
    assert again.broker is a.broker
    assert again.registry is a.registry
    assert b.broker is not a.broker
    assert open_drivers("memory://A").broker is not a.broker
    assert open_drivers("memory://a/b").broker is not a.broker
    assert open_drivers("memory://").broker is not open_drivers("memory://").broker
    elsewhere = open_drivers("memory://a?registry=memory://b")
    assert elsewhere.broker is a.broker
    assert elsewhere.registry is b.registry
    with pytest.raises(UsageError, match="unknown option color"):
        open_drivers("memory://a?color=red")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("kafka://h?partitons=8", "option partitons (did you mean partitions?) can't be given"),
        ("kafka://h?Security_Protocol=ssl", "(did you mean security.protocol?)"),
        ("kafka://h?sasl_username=me", "(did you mean sasl.username?)"),
        ("redis://h?perfix=x", "unknown option perfix (did you mean prefix?); redis knows db, prefix"),
        ("sqlite:///x?snyc=normal", "unknown option snyc (did you mean sync?); sqlite knows sync"),
        ("sqs://eu-west-1/a?tabel=x&colour=1", "unknown option colour, tabel (did you mean table?); sqs knows"),
        ("sqlite:///x?colour=red", "unknown option colour; sqlite knows sync"),
    ],
)
def test_a_slip_in_an_option_is_doubted(url: str, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        open_drivers(url)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        *(f"kafka://h?{name}=" for name in ("group", "topic_prefix", "mode", "partitions")),
        *(f"kafka://h?sasl.username=me&{name}=" for name in ("sasl.password", "ssl.ca.location", "debug")),
        "redis://h?client_name=",
        "redis://h?registry=",
        "sqs://eu-west-1/a?endpoint=",
        "pulsar://h:6650/a/b?registry=memory://&token=",
        "sqlite:///x?sync=",
    ],
)
def test_an_option_is_not_empty(url: str) -> None:
    """A variable that is not set leaves it so: nobody meant the default."""
    with pytest.raises(UsageError) as refused:
        open_drivers(url)
    name = url.removesuffix("=").rpartition("?")[2].rpartition("&")[2]
    assert f"option {name} is empty: give it a" in str(refused.value)


def test_connections_to_a_named_memory_share_their_train() -> None:
    async def main() -> None:
        got = list[int]()
        train = Train("t")

        @train.on("t")
        async def handle(n: int) -> None:
            got.append(n)

        async with Train("t").connect("memory://shared") as publisher:
            await publisher.publish(1)
        async with train.connect("memory://shared") as worker, worker.running():
            await until(lambda: got == [1])
            async with Train("t").connect("memory://shared") as publisher:
                await publisher.publish(2)
            await until(lambda: got == [1, 2])

    run(main())


def test_a_registry_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="names no known broker"):
        open_drivers("memory://?registry=nowhere")


@pytest.mark.parametrize("place", ["sqlite:///trains", "sqlite:////var/trains"])
def test_the_registry_of_a_driver_with_directories_may_be_elsewhere(place: str) -> None:
    drivers = open_drivers(f"{place}?sync=normal&registry=memory://")
    assert isinstance(drivers.registry, MemoryRegistry)
    assert str(drivers.broker.directory).endswith("trains")  # type: ignore[attr-defined]


PACKAGE = """
from eventwagon.contracts.address import Drivers
from eventwagon.drivers.opening import open_drivers

NUMBER = 5

def raises(address, program=None):
    raise RuntimeError("the shelf is empty")

def ends(address):
    raise SystemExit(7)

def nothing(address, program=None):
    return None

def objects(address):
    return Drivers(object(), object())

def exchanged(address):
    broker, registry = open_drivers("memory://")
    return Drivers(registry, broker)

def right(address):
    return open_drivers("memory://")
"""
ENTRIES = """
[eventwagon.drivers]
sqlite = shelf:ends
raising = shelf:raises
ending = shelf:ends
absent = shelf:absent
number = shelf:NUMBER
broken = shelf_broken:open
unwritten = shelf_unwritten:open
nonsense = not a:value:x
nothing = shelf:nothing
objects = shelf:objects
exchanged = shelf:exchanged
Shelf = shelf:right
[eventwagon.orchestrators]
raising = shelf:raises
nothing = shelf:nothing
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package `shelf`, which brings drivers with every mistake."""
    about = tmp_path / "shelf-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRIES)
    (tmp_path / "shelf.py").write_text(PACKAGE)
    (tmp_path / "shelf_broken.py").write_text("raise SystemExit('no shelf')")
    (tmp_path / "shelf_unwritten.py").write_text("def (")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for module in ("shelf", "shelf_broken", "shelf_unwritten"):
        sys.modules.pop(module, None)


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize(
    ("scheme", "why"),
    [
        ("raising", "raising: shelf:raises of the package shelf fails: RuntimeError: the shelf is empty"),
        ("ending", "shelf:ends of the package shelf fails: SystemExit: 7"),
        ("absent", "absent: .*AttributeError: module 'shelf' has no attribute 'absent'"),
        ("number", "TypeError: 'int' object is not callable"),
        ("broken", "broken: shelf_broken:open of the package shelf fails: SystemExit: no shelf"),
        ("unwritten", "SyntaxError"),
        ("nonsense", "nonsense: not a:value:x of the package shelf fails"),
        ("nothing", "nothing: shelf:nothing of the package shelf returns NoneType, not Drivers"),
        ("objects", "returns Drivers whose broker is no Broker: object has no capabilities, __aenter__"),
        ("exchanged", "whose broker is no Broker: MemoryRegistry has no capabilities, create, unbound and"),
    ],
)
def test_mistakes_of_other_packages_are_theirs(scheme: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        open_drivers(f"{scheme}://x")
    with pytest.raises(UsageError, match=why):
        open_drivers(f"memory://?registry={scheme}://x")


@pytest.mark.usefixtures("foreign")
def test_other_packages_take_no_scheme_of_ours_and_are_found_in_any_case() -> None:
    assert isinstance(open_drivers("sqlite:///x").registry, SQLiteRegistry)
    assert isinstance(open_drivers("shelf://x").registry, MemoryRegistry)
    assert isinstance(open_drivers("SHELF://x").registry, MemoryRegistry)


@pytest.mark.usefixtures("foreign")
def test_mistakes_of_other_packages_orchestrators_are_theirs() -> None:
    program = Program("app:signups", "memory://", Settings())
    for scheme, why in (
        ("raising", "shelf:raises of the package shelf fails: RuntimeError"),
        ("nothing", "nothing: what shelf:nothing of the package shelf returns is no Orchestrator: NoneType has no"),
    ):
        with pytest.raises(UsageError, match=why):
            open_orchestrator(f"{scheme}:", program)


def test_objects_that_are_no_drivers_are_refused() -> None:
    broker, registry = open_drivers("memory://")
    wrong: Any = object()
    for kind, given in (
        ("broker", {"broker": wrong, "registry": registry}),
        ("registry", {"broker": broker, "registry": broker}),
        ("orchestrator", {"broker": broker, "registry": registry, "orchestrator": wrong}),
    ):
        with pytest.raises(UsageError, match=f"connect: {kind} is no {kind.title()}: "):
            Train("t").connect(**given)


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("redis://localhost", "redis", "redis"),
        ("rediss://localhost", "redis", "redis"),
        ("kafka://localhost:9092", "confluent_kafka", "kafka"),
        ("pulsar://localhost:6650/public/default?registry=memory://", "pulsar", "pulsar"),
        ("sqs://eu-west-1/acme", "aiobotocore", "aws"),
    ],
)
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, url: str, module: str, extra: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    ours = (f".{extra}", ".sqs", ".dynamodb") if extra == "aws" else (f".{extra}",)
    for name in [
        name
        for name in sys.modules
        if name.startswith("eventwagon.") and any(each in name.replace("_", ".") for each in ours)
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"pip install 'eventwagon\[{extra}\]'"):
        open_drivers(url)


def test_pulsar_asks_for_a_registry() -> None:
    with pytest.raises(UsageError, match="keeps no manifests; name a registry"):
        open_drivers("pulsar://localhost:6650/public/default?admin=http://localhost:8080")


def test_orchestrators_by_url(tmp_path: Path) -> None:
    program = Program("app:signups", f"sqlite:///{tmp_path}/trains", Settings())
    assert type(open_orchestrator("subprocess:", program)).__name__ == "Subprocess"
    assert type(open_orchestrator("command:node x.js {ingress}?ready=check-in", program)).__name__ == "Command"
    for url, why in (
        ("nomad:", "names no known orchestrator; there are command:, ecs:, kubernetes:, lambda:, subprocess:"),
        ("command:node x.js", "say how it reports ready"),
        ("subprocess:?color=red", "unknown option color"),
    ):
        with pytest.raises(UsageError, match=why):
            open_orchestrator(url, program)


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("sqlite:/abs/olute", "three or four slashes"),
        ("sqlite:relative", "three or four slashes"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:////x%00y", "no name of a directory"),
        ("sqlite:///\udcff", "no name of a directory"),
    ],
)
def test_a_url_that_would_be_quietly_another_place_is_refused(url: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        open_drivers(url)


def installed(site: Path, package: str, entry_points: str, code: str = "") -> None:
    """A package with these entry points, as an installer leaves it."""
    metadata = site / f"{package}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entry_points)
    (site / f"{package}.py").write_text(code)


OPENS = """
from eventwagon.drivers import open_drivers
def open_shelf(address):
    return open_drivers("memory://")
"""


def test_a_package_brings_a_scheme_and_takes_no_built_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = "[eventwagon.drivers]\nshelf = shelves:open_shelf\nsqlite = shelves:open_shelf\n"
    installed(tmp_path, "shelves", entries, OPENS)
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(open_drivers("shelf://").broker, MemoryBroker)
    assert isinstance(open_drivers("sqlite:///some/directory").registry, SQLiteRegistry)


def test_two_packages_of_one_scheme_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("shelves", "racks"):
        installed(tmp_path, package, f"[eventwagon.drivers]\nshelf = {package}:open_shelf\n", OPENS)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="shelf: is the broker of racks and shelves; uninstall all but one"):
        open_drivers("shelf://")


def test_an_installation_that_is_older_than_the_code_is_told(tmp_path: Path) -> None:
    """As after `git pull` in a checkout: the metadata are still those of before."""
    installed(tmp_path, "eventwagon", "[console_scripts]\neventwagon = eventwagon.cli:main\n")
    (tmp_path / "eventwagon.py").unlink()
    code = "from eventwagon.drivers import open_drivers\nopen_drivers('memory://')"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "pip install --editable ." in done.stderr


def test_every_entry_point_of_ours_can_be_loaded() -> None:
    ours = [each for each in distribution("eventwagon").entry_points if each.group.startswith("eventwagon.")]
    assert {each.group for each in ours} == {"eventwagon.drivers", "eventwagon.orchestrators", "eventwagon.sources"}
    for each in ours:
        assert callable(each.load())
