"""What goes wrong with disks, files and locks under the SQLite drivers: said clearly, and mended without a restart."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
from typer.testing import CliRunner

from eventwagon.cli.app import app
from eventwagon.contracts.ledger import WagonRecord
from eventwagon.contracts.manifest import Manifest
from eventwagon.drivers.sqlite import SQLiteBroker, actor, place, storage
from eventwagon.drivers.sqlite.ledger import SQLiteLedger
from eventwagon.drivers.sqlite.registry import SQLiteRegistry
from eventwagon.errors import BrokerError, PublishUncertain, StorageBroken, Unavailable
from eventwagon.event import Channel, Event, new_ids
from eventwagon.views.train import look
from tests.support import SignUp, signups, until

INGRESS = Channel("signups", 1)


def events(count: int, size: int = 100) -> list[Event]:
    now = time.time()
    return [Event(id=i, type="t", source="s", time=now, data=b"x" * size) for i in new_ids(count, now)]


async def refuses_to_enter(directory: Path, *words: str) -> None:
    for driver in (SQLiteBroker(directory), SQLiteRegistry(directory)):
        with pytest.raises(StorageBroken) as error:
            await driver.__aenter__()
        for word in (str(directory), *words):
            assert word in str(error.value)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if not sys.platform.startswith("linux") or subprocess.run(options, capture_output=True).returncode:
        pytest.skip("a small file system can't be mounted here (needs root on Linux): a full disk is NOT tested")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


# --- the disk -----------------------------------------------------------------------------


def test_a_full_disk_loses_nothing_and_all_goes_on_when_there_is_room(small_disk: Path) -> None:
    async def main() -> None:
        async with SQLiteBroker(small_disk) as broker, SQLiteRegistry(small_disk) as registry:
            await registry.replace("signups", Manifest(train="signups"), expect=0)
            await broker.create(INGRESS)
            filler = small_disk / "filler"
            filler.write_bytes(b"x" * 1_000_000)
            accepted: list[str] = []
            with pytest.raises(StorageBroken, match=r"v1\.db: no space left: free some"):
                while True:
                    some = events(20, 1000)
                    await broker.publish(INGRESS, some)
                    accepted += [event.id for event in some]
            assert accepted
            with pytest.raises(StorageBroken, match="no space left"):
                await broker.create(Channel("signups", 2))
            with pytest.raises(StorageBroken, match="no space left"):
                for number in range(1, 1000):
                    await registry.replace("signups", Manifest(train="signups"), expect=number)
            filler.unlink()
            version = (await registry.read("signups")).version
            await registry.replace("signups", Manifest(train="signups"), expect=version)
            await broker.create(Channel("signups", 2))
            more = events(1)
            await broker.publish(INGRESS, more)
            accepted += [event.id for event in more]
            assert [event.id async for event in broker.read(INGRESS)] == accepted
            async with broker.consume(INGRESS, visibility=30) as consumer:
                got = await consumer.receive(10_000, 1)
                await consumer.settle(got)
            assert len(got) == len(accepted)

    asyncio.run(main())


def test_a_full_disk_is_told_on_entering(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * (2 << 20))
    asyncio.run(refuses_to_enter(small_disk, "no space left"))


@pytest.mark.parametrize("lacking", ["space", "inodes"])
def test_a_full_disk_is_told_to_readers_too(small_disk: Path, lacking: str) -> None:
    async def kept() -> None:
        async with SQLiteLedger(small_disk) as ledger:
            await ledger.append(WagonRecord(train="signups", number=1, opened_at=1.0))

    async def read() -> list[WagonRecord]:
        async with SQLiteLedger(small_disk) as ledger:
            return [each async for each in ledger.records("signups")]

    asyncio.run(kept())
    if lacking == "space":
        with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
    else:
        subprocess.run(["mount", "-o", "remount,nr_inodes=100", str(small_disk)], check=True)
        with suppress(OSError):
            for n in range(100):
                (small_disk / f"filler{n}").touch()
    with pytest.raises(StorageBroken, match=f"no {lacking} left: free some on the disk"):
        asyncio.run(read())


def test_a_read_only_disk(small_disk: Path) -> None:
    async def main() -> None:
        async with SQLiteBroker(small_disk) as broker:
            await broker.create(INGRESS)
            await broker.publish(INGRESS, events(1))

    async def again() -> None:
        async with SQLiteBroker(small_disk) as broker:
            await broker.publish(INGRESS, events(1))

    asyncio.run(main())
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    asyncio.run(refuses_to_enter(small_disk, "read-only"))
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    asyncio.run(again())


def test_a_directory_that_this_user_may_not_write(tmp_path: Path) -> None:
    script = (
        "import fcntl, os, struct, sys, pathlib\n"
        "from eventwagon.drivers.sqlite.place import prepare\n"
        "from eventwagon.errors import StorageBroken\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "try: prepare(pathlib.Path(sys.argv[1]))\n"
        "except StorageBroken as e: print(e)\n"
    )
    target = Path("/var/lib") if os.getuid() == 0 else tmp_path  # root's own temporary files can't even be looked at
    if target == tmp_path:
        tmp_path.chmod(0o555)
    said = subprocess.run([sys.executable, "-c", script, str(target)], capture_output=True, text=True, check=True)
    tmp_path.chmod(0o755)
    assert f"{target} is read-only for this user; give it write access" in said.stdout


def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    asyncio.run(refuses_to_enter(tmp_path / "file", "ot a directory"))

    async def below() -> None:
        async with SQLiteBroker(tmp_path / "file" / "below") as broker:
            with pytest.raises(StorageBroken, match="ot a directory"):
                await broker.create(Channel("t", 1))

    asyncio.run(below())


def test_a_symbolic_link_to_nothing_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    link = tmp_path / "link"
    link.symlink_to(gone)
    asyncio.run(refuses_to_enter(link, f"is a symbolic link to {gone}, which is not there"))

    async def below(link: Path) -> None:
        async with SQLiteBroker(tmp_path) as broker:
            with pytest.raises(StorageBroken, match=f"{link} is a symbolic link to {gone}, which is not there"):
                await broker.create(INGRESS)

    train = tmp_path / "signups"
    train.symlink_to(gone)
    asyncio.run(below(train))
    train.unlink()
    train.mkdir()
    (train / "v1.db").symlink_to(gone)
    asyncio.run(below(train / "v1.db"))


def test_a_train_behind_a_link_to_nothing_is_listed_and_can_not_be_read(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    trains = tmp_path / "trains"
    trains.mkdir()
    (trains / "signups").symlink_to(gone)
    (trains / "Old stuff").symlink_to(tmp_path / "none")  # no train is called like that

    async def look() -> None:
        async with SQLiteRegistry(trains) as registry:
            assert await registry.trains() == ["signups"]
            with pytest.raises(StorageBroken, match=f"signups is a symbolic link to {gone}, which is not there"):
                await registry.read("signups")
            gone.mkdir()  # mounted, and empty
            assert await registry.trains() == []
            await registry.replace("signups", Manifest(train="signups"), expect=0)
            assert await registry.trains() == ["signups"]

    asyncio.run(look())
    (trains / "orders").symlink_to(tmp_path / "elsewhere")
    listed = CliRunner().invoke(app, ["list", "--url", f"sqlite:///{trains}"])
    assert listed.exit_code == 1
    assert "orders can't be read" in listed.stderr
    for command in ("status", "why", "publish", "remove"):
        said = CliRunner().invoke(app, [command, "orders", "--url", f"sqlite:///{trains}"], input="1\n")
        assert said.exit_code == 1, said.output
        assert "train orders can't be read: " in said.stderr
        assert "mount or make that, or remove the link" in said.stderr


def test_probes_that_a_killed_process_left_are_removed_after_an_hour(tmp_path: Path) -> None:
    names = {f".probe-{age}.{end}" for age in ("old", "young") for end in ("db", "db-wal", "db-shm", "lock")}
    for name in names:
        (tmp_path / name).touch()
        if "old" in name:
            os.utime(tmp_path / name, (time.time() - 3700,) * 2)
    place.prepare(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {name for name in names if "young" in name}


def modes(directory: Path) -> dict[str, int]:
    """Of all that stands in it, by path."""
    return {str(p.relative_to(directory)): stat.S_IMODE(p.lstat().st_mode) for p in directory.rglob("*")}


def seen(directory: Path, seconds: float) -> dict[str, set[int]]:
    """The modes that things there have had, by their kind, looked at all the time."""
    found: dict[str, set[int]] = {"files": set(), "directories": set()}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for path in directory.rglob("*"):
            with suppress(FileNotFoundError):
                mode = path.lstat().st_mode
                found["directories" if stat.S_ISDIR(mode) else "files"].add(stat.S_IMODE(mode))
    return found


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_what_is_made_is_for_this_user_alone(tmp_path: Path, umask: int) -> None:
    async def use() -> None:
        async with SQLiteBroker(tmp_path / "a" / "b") as broker, SQLiteRegistry(tmp_path / "a" / "b") as registry:
            await registry.replace("signups", Manifest(train="signups"), expect=0)
            for number in range(1, 20):
                channel = Channel("signups", number)
                await broker.create(channel)
                await broker.publish(channel, events(3))
            standing.update(modes(tmp_path))

    standing: dict[str, int] = {}
    before = os.umask(umask)
    try:
        with ThreadPoolExecutor() as pool:
            looking = pool.submit(seen, tmp_path, 2.0)
            asyncio.run(use())
            ever = looking.result()
    finally:
        os.umask(before)
    assert {
        "a/b/signups/v1.db",
        "a/b/signups/v1.db-wal",
        "a/b/signups/v1.db-shm",
        "a/b/signups/train.db",
    } <= standing.keys()
    for name, mode in standing.items():
        assert mode == (0o600 if "db" in name else 0o700), name
    assert ever == {"files": {0o600}, "directories": {0o700}}  # not even for a moment


def test_an_existing_directory_is_left_as_it_is_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def use() -> None:
        async with SQLiteBroker(tmp_path / "open") as broker:
            await broker.create(INGRESS)

    (tmp_path / "open" / "signups").mkdir(parents=True)
    for directory in (tmp_path / "open", tmp_path / "open" / "signups"):
        directory.chmod(0o755)
    with caplog.at_level("INFO", "eventwagon"):
        asyncio.run(use())
    assert modes(tmp_path)["open"] == modes(tmp_path)["open/signups"] == 0o755
    assert modes(tmp_path)["open/signups/v1.db"] == 0o600
    (record,) = [r for r in caplog.records if "other users may look into it" in r.getMessage()]
    assert record.levelname == "INFO"
    assert f"chmod -R go= {tmp_path / 'open'}" in record.getMessage()
    (tmp_path / "open").chmod(0o700)
    caplog.clear()
    with caplog.at_level("INFO", "eventwagon"):
        asyncio.run(use())
    assert not caplog.records


def test_what_a_killed_maker_left_is_in_nobodys_way(tmp_path: Path) -> None:
    async def use() -> None:
        async with SQLiteBroker(tmp_path) as broker:
            await broker.create(INGRESS)
            assert list(await broker.channels("signups")) == [INGRESS]

    (tmp_path / "signups").mkdir()
    (tmp_path / "signups" / ".v1.db.new").write_bytes(b"")
    asyncio.run(use())
    assert not list(tmp_path.rglob("*.new"))


def test_missing_directories_are_made_and_the_probe_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with SQLiteBroker(tmp_path / "a" / "b") as broker:
            assert not (tmp_path / "a").exists()  # a mistyped URL leaves nothing behind
            assert await broker.channels("t") == []
            await broker.create(Channel("t", 1))
            assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["t"]

    asyncio.run(main())


# --- files --------------------------------------------------------------------------------


def noise(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [noise, cut_in_half])
def test_a_damaged_file_is_named_and_harms_no_other(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    other = Channel("signups", 2)
    path = tmp_path / "signups" / "v1.db"

    async def main() -> None:
        async with SQLiteBroker(tmp_path) as broker:
            for channel in (INGRESS, other):
                await broker.create(channel)
                await broker.publish(channel, events(200))
        damage(path)
        async with SQLiteBroker(tmp_path) as broker:
            with pytest.raises(StorageBroken, match=r"v1\.db is damaged .* move it"):
                await broker.publish(INGRESS, events(1))
                [_ async for _ in broker.read(INGRESS)]
            await broker.publish(other, events(1))
            assert set(await broker.channels("signups")) == {INGRESS, other}
            path.unlink()  # moved away: what is left behind is as good as deleted
            await broker.delete(INGRESS)
            assert await broker.channels("signups") == [other]

    asyncio.run(main())


def test_status_shows_the_other_wagons_of_a_damaged_one(tmp_path: Path) -> None:
    """And says which file it is. So it does if the dead letters of removed wagons can't be read."""
    url = f"sqlite:///{tmp_path}"

    async def main() -> None:
        async with signups([], spares=1).connect(url, listeners=()) as c, c.running():
            await c.publish(SignUp("a"))
            await until(lambda: c.manifest.ready)
            await c.broker.create(Channel("signups", 0, "dead"))
        noise(tmp_path / "signups" / "v1.db")
        async with signups([]).connect(url, listeners=()) as c:
            view = await look(c, url)
            first, second = view.wagons
            assert (first.published, first.inside, second.published) == (None, None, 0)
            (why,) = view.threatened
            assert re.match(r"\w+_v1 can't be read: .*v1\.db is damaged", why)
            assert view.dead is None
        noise(tmp_path / "signups" / "own.db")
        async with signups([]).connect(url, listeners=()) as c:
            whose = {why.split(" can't be read")[0] for why in (await look(c, url)).threatened}
            assert whose == {"signups_v1", "the dead letters of removed wagons"}
        noise(tmp_path / "signups" / "v2.db")
        async with signups([]).connect(url, listeners=()) as c:
            with pytest.raises(StorageBroken, match="damaged"):
                await look(c, url)

    asyncio.run(main())


@pytest.mark.parametrize("damage", [noise, cut_in_half])
def test_a_damaged_manifest_is_named_and_once_mended_nothing_is_lost(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """The train's one document: programs are told where and what; with the file put back all goes on."""
    path = tmp_path / "signups" / "train.db"
    url = f"sqlite:///{tmp_path}"
    handled: list[str] = []

    async def main() -> None:
        async with signups(handled).connect(url, listeners=()) as train:
            assert await train.publish_many({"email": f"{n}@x"} for n in range(20)) == 20
        whole = path.read_bytes()
        damage(path)
        with pytest.raises(StorageBroken, match=r"train\.db is damaged .* move it"):
            async with signups(handled).connect(url, listeners=()) as train:
                await train.publish({"email": "told@x"}, timeout=1.0)
        path.write_bytes(whole)
        async with signups(handled).connect(url, listeners=()) as train, train.running():
            await train.publish({"email": "again@x"})
            await until(lambda: len(handled) == 21)

    asyncio.run(main())
    assert set(handled) == {*(f"{n}@x" for n in range(20)), "again@x"}


def make_foreign(path: Path) -> None:
    with apsw.Connection(str(path)) as db:
        db.execute("CREATE TABLE somebody_else (x)")
    db.close()


def make_newer(path: Path) -> None:
    with apsw.Connection(str(path)) as db:
        db.execute("CREATE TABLE channel (x); PRAGMA application_id=0x65767762; PRAGMA user_version=2")
    db.close()


@pytest.mark.parametrize(("make", "words"), [(make_foreign, "not a wagon's file"), (make_newer, "schema version 2")])
def test_files_of_others_are_left_alone(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    path = tmp_path / "signups" / "v1.db"
    path.parent.mkdir()
    make(path)
    before = path.read_bytes()

    async def main() -> None:
        async with SQLiteBroker(tmp_path) as broker:
            for use in (broker.create, broker.delete, broker.seal):
                with pytest.raises(StorageBroken, match=words) as error:
                    await use(INGRESS)
                assert str(path) in str(error.value)

    asyncio.run(main())
    assert path.read_bytes() == before


def test_a_registry_file_is_no_wagon(tmp_path: Path) -> None:
    async def main() -> None:
        async with SQLiteRegistry(tmp_path) as registry:
            await registry.replace("signups", Manifest(train="signups"), expect=0)
        (tmp_path / "signups" / "train.db").rename(tmp_path / "signups" / "v1.db")
        async with SQLiteBroker(tmp_path) as broker:
            with pytest.raises(StorageBroken, match="not a wagon's file"):
                await broker.publish(INGRESS, events(1))

    asyncio.run(main())


# --- locks --------------------------------------------------------------------------------


def test_a_lock_held_by_others_is_unavailable_and_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "BUSY_SECONDS", 0.1)

    async def main() -> None:
        async with SQLiteBroker(tmp_path) as broker:
            await broker.create(INGRESS)
            shell = apsw.Connection(str(tmp_path / "signups" / "v1.db"))
            shell.execute("BEGIN IMMEDIATE")
            results = await asyncio.gather(
                *(broker.publish(INGRESS, events(1)) for _ in range(3)), return_exceptions=True
            )
            assert [type(result) for result in results] == [Unavailable] * 3
            assert "locked by another process" in str(results[0])
            assert (await broker.depth([INGRESS]))[0].published == 0  # reading goes on
            shell.execute("ROLLBACK")
            shell.close()
            await broker.publish(INGRESS, events(1))

    asyncio.run(main())


def test_locks_that_don_t_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert place.locks_hold(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()
    with monkeypatch.context() as patch:
        patch.setattr(place, "locks_hold", lambda path: False)
        asyncio.run(refuses_to_enter(tmp_path, "locks don't hold"))
    with monkeypatch.context() as patch:
        patch.setattr(place, "begins", lambda db: True)
        asyncio.run(refuses_to_enter(tmp_path, "locks don't hold"))
    assert list(tmp_path.iterdir()) == []


MOUNTS = r"""
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:30 / /mnt/share rw,relatime shared:1 - nfs4 server:/export rw
31 30 0:31 / /mnt/share/local rw - xfs /dev/vdb rw
32 22 0:32 / /mnt/with\040space rw,relatime master:3 - fuse.sshfs me@there: rw
33 22 0:33 / /mnt/over rw - cifs //there/share rw
34 22 0:34 / /mnt/over rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        ("/", "ext4"),
        ("/home/me", "ext4"),
        ("/mnt/share", "nfs4"),
        ("/mnt/share/deep/er", "nfs4"),
        ("/mnt/shared", "ext4"),
        ("/mnt/share/local/x", "xfs"),
        ("/mnt/with space/x", "fuse.sshfs"),
        ("/mnt/over/x", "tmpfs"),
    ],
)
def test_the_mount_that_a_directory_is_on(directory: str, kind: str) -> None:
    assert place.file_system(Path(directory), MOUNTS) == kind


def test_network_file_systems_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "glusterfs", "ceph", "lustre", "afs"):
        monkeypatch.setattr(place, "file_system", lambda directory, kind=kind: kind)
        asyncio.run(refuses_to_enter(tmp_path, f"network file system ({kind})", "Use a local disk"))


def test_where_there_is_no_write_ahead_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoWal(apsw.Connection):
        def execute(self, statements: str, *arguments: Any, **named: Any) -> Any:
            if "journal_mode" in statements:
                statements = "SELECT 'delete'"
            return super().execute(statements, *arguments, **named)

    monkeypatch.setattr(apsw, "Connection", NoWal)
    asyncio.run(refuses_to_enter(tmp_path, "write-ahead log can't be used"))


def test_an_old_library_is_refused() -> None:
    for version in ("3.40.1", "3.51.2"):
        with pytest.raises(StorageBroken, match=r"3\.51\.2 .* corrupt"):
            storage.check_version(version)
    for version in ("3.51.3", "3.52.0", "4.0"):
        storage.check_version(version)


# --- the commit ---------------------------------------------------------------------------


class FailingCommit:
    """A connection whose next commit fails."""

    def __init__(self, db: apsw.Connection, error: apsw.Error) -> None:
        self._db = db
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def execute(self, statements: str, *arguments: Any) -> Any:
        if statements == "COMMIT":
            raise self._error
        return self._db.execute(statements, *arguments)


@pytest.mark.parametrize(
    ("error", "publishing"),
    [(apsw.IOError("disk I/O error"), PublishUncertain), (apsw.FullError("full"), StorageBroken)],
)
def test_a_commit_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: apsw.Error, publishing: type[BrokerError]
) -> None:
    connect = storage.connect
    failing = False

    def connected(*arguments: Any, **named: Any) -> Any:
        db = connect(*arguments, **named)
        return FailingCommit(db, error) if failing and db is not None else db

    monkeypatch.setattr(actor, "connect", connected)
    monkeypatch.setattr(actor, "IDLE", 0.05)
    monkeypatch.setattr(actor, "moved", lambda db: False)

    async def main() -> None:
        nonlocal failing
        async with SQLiteBroker(tmp_path) as broker:
            await broker.create(INGRESS)
            await asyncio.sleep(0.3)  # closed: it is opened again
            failing = True
            results = await asyncio.gather(
                broker.publish(INGRESS, events(1)),
                broker.seal(INGRESS),
                broker.publish(INGRESS, events(1)),
                return_exceptions=True,
            )
            assert [type(result) for result in results] == [publishing, StorageBroken, publishing]
            failing = False
            await broker.publish(INGRESS, events(1))
            assert (await broker.depth([INGRESS]))[0].published == 1

    asyncio.run(main())
