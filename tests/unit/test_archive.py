"""Archives: their URLs, rows as messages, and Parquet files in a directory."""

from __future__ import annotations

import asyncio
import json
import math
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from obstore.exceptions import GenericError

from eventwagon import Settings, Train, Volume, Wait
from eventwagon.archives import open_archive
from eventwagon.archives.checking import difference
from eventwagon.archives.names import name_of
from eventwagon.contracts.archive import ArchivedWagon, ArchiveFile, check_archive
from eventwagon.contracts.manifest import Manifest, decode, encode, opened
from eventwagon.contracts.rows import Row, in_parts, packed, row_of, unpacked
from eventwagon.errors import StorageBroken, Unavailable, UsageError
from eventwagon.event import Event
from eventwagon.policy.digest import digest_of, together

WAGON = ArchivedWagon(train="orders", number=7, opened_at=1_800_000_000.25)


def row(n: int, channel: str = "", outcome: str = "handled", **changes: object) -> Row:
    event = Event(f"id-{n}", "T", "/s", 1_800_000_000.5 + n, b'{"n":%d}' % n, extensions={"a": "1"} if n % 2 else {})
    return msgspec.structs.replace(
        row_of(event, channel, "handled", 1 + n % 3, 1_800_000_001.125), outcome=outcome, **changes
    )


async def written(archive_url: str, rows: Sequence[Row], wagon: ArchivedWagon = WAGON) -> Sequence[ArchiveFile]:
    archive = open_archive(archive_url)
    with suppress(Unavailable):
        await archive.prepare()
    async with archive.write(wagon) as writer:
        for start in range(0, len(rows), 1000):
            await writer.add(rows[start : start + 1000])
        return await writer.finish()


async def read(archive_url: str, train: str = "orders") -> list[Row]:
    archive = open_archive(archive_url)
    return [row for file in await archive.files(train) async for rows in archive.read(file) for row in rows]


# --- URLs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "file:///var/archive",
        "file:///var/my%20archive/",
        "s3://bucket",
        "s3://bucket/a/b",
        "s3://bucket/a?region=eu-west-1&endpoint=http://localhost:9000",
    ],
)
def test_what_an_archive_can_be(url: str) -> None:
    assert Settings(archive=url).archive == url


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "file:///directory"),
        ("archive", "file:///directory"),
        ("/var/archive", "file:///directory"),
        ("gs://bucket", "file:///directory"),
        ("file://", "absolute directory"),
        ("file:///", "absolute directory"),
        ("file://var/archive", "absolute directory"),
        ("file:///var/archive?a=1", "absolute directory"),
        ("file:///var/../etc", "must not have"),
        ("file:///var/%2e%2e/etc", "must not have"),
        ("file:///var/%00", "must not have control"),
        ("file:///var/\ud800", "percent-encoded"),
        ("file:///var/\n", "percent-encoded|file:///directory"),
        ("s3:///prefix", "name the bucket"),
        ("s3://B/prefix", "name the bucket"),
        ("s3://bucket:80/prefix", "name the bucket"),
        ("s3://bucket?regio=x", "unknown option regio"),
        ("s3://bucket?endpoint=localhost", "endpoint='localhost': give a URL"),
        ("s3://bucket?endpoint=http://u:geheim@h", "leave user name and password out"),
        ("s3://key:geheim@bucket/x", "leave user name and password out"),
        (7, "give a URL"),
        (b"file:///x", "give a URL"),
        (True, "give a URL"),
    ],
)
def test_what_it_can_not_be(url: object, says: str) -> None:
    with pytest.raises(UsageError, match=says) as refused:
        check_archive(url)
    assert "geheim" not in str(refused.value)


def test_a_limit_without_a_volume_bounds_nothing() -> None:
    with pytest.raises(UsageError, match=r"needs a limit with a Volume, say Wait"):
        Train("orders", limit=Wait(2.0), archive="file:///var/archive")
    Train("orders", limit=Wait(2.0) | Volume(1000), archive="file:///var/archive")


# --- rows in messages ---------------------------------------------------------------------------


def test_rows_come_back_from_a_message() -> None:
    rows = [row(n, "mail", "dead", because="no") for n in range(5)]
    message = packed(rows, "orders")
    assert unpacked(message) == rows


def test_text_that_is_no_utf_8_is_made_legible() -> None:
    odd = row(1, id="half \ud800", subject="\udfff", because="\ud800", extensions={"a": "\ud800"})
    [back] = unpacked(packed([odd], "orders"))
    assert (back.id, back.subject, back.because, back.extensions) == (
        "half \ufffd",
        "\ufffd",
        "\ufffd",
        {"a": "\ufffd"},
    )


def test_what_is_no_part_of_an_archive() -> None:
    with pytest.raises(ValueError):
        unpacked(Event("x", "T", "/s", 1.0, b""))
    with pytest.raises(ValueError):
        unpacked(Event("x", "eventwagon.rows", "/s", 1.0, b"\xff"))


@pytest.mark.parametrize(
    "change",
    [
        {"channel": "../../etc/x"},
        {"channel": "a/b"},
        {"channel": "Mail"},
        {"outcome": "fine"},
        {"attempts": 2**63},
        {"attempts": -1},
        {"cut": 2**64 - 1},
        {"settled_at": "now"},
        {"data": 7},
    ],
    ids=str,
)
def test_rows_that_somebody_else_made_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        unpacked(packed([row(2, **change), row(1)], "orders"))


def test_parts_have_a_bound_and_at_least_one_row() -> None:
    rows = [row(n, data=b"x" * (n * 100)) for n in range(60)]
    parts = list(in_parts(rows, 5000))
    assert [each for part in parts for each in part] == rows
    assert all(len(part) == 1 or len(packed(part, "orders").data) <= 5000 for part in parts)
    assert any(len(part) == 1 for part in parts)
    assert list(in_parts([], 5000)) == []


# --- the manifest ---------------------------------------------------------------------------------


def test_a_manifest_with_an_archive_is_not_for_older_code() -> None:
    """It would drop the field, and take the rows for events."""
    without = opened(Manifest(train="t"), now=1.0, because="", capacity=None)
    with_one = opened(Manifest(train="t"), now=1.0, because="", capacity=None, archive="file:///x")
    assert json.loads(encode(without))["format"] == 3
    assert json.loads(encode(with_one))["format"] == 5
    assert decode(encode(with_one)).wagons[0].archive == "file:///x"


# --- files -----------------------------------------------------------------------------------------


def test_each_channel_has_a_file_and_rows_come_back(tmp_path: Path) -> None:
    rows = [row(n, "" if n % 3 else "mail") if n % 5 else row(n, "mail", "dead", because="no") for n in range(3000)]
    url = f"file://{tmp_path}/a/b"

    async def main() -> None:
        files = await written(url, rows)
        assert [(file.channel, file.count) for file in files] == [("", 1600), ("mail", 1400)]
        for file in files:
            ids = [r.id for r in rows if r.channel == file.channel]
            assert file.digest == digest_of(ids, file.channel)
            assert file.size == (tmp_path / "a/b" / file.name).stat().st_size
        assert [(f.number, f.channel) for f in await open_archive(url).files("orders")] == [(7, ""), (7, "mail")]
        assert sorted(await read(url), key=lambda r: r.id) == sorted(rows, key=lambda r: r.id)

    asyncio.run(main())


def test_what_columns_a_file_has(tmp_path: Path) -> None:
    asyncio.run(written(f"file://{tmp_path}", [row(1), row(2, subject="ada")]))
    found = pq.read_table(tmp_path / name_of(WAGON, "")).to_pylist()
    assert found[0]["channel"] == "orders"
    assert found[0]["wagon"] == 7
    assert found[0]["data"] == b'{"n":1}'
    assert dict(found[0]["extensions"]) == {"a": "1"}
    assert found[0]["time"].isoformat() == "2027-01-15T08:00:01.500000+00:00"
    assert [each["subject"] for each in found] == [None, "ada"]


@pytest.mark.parametrize("time", [math.nan, math.inf, -math.inf, 1e300, -1e300])
def test_times_that_are_none_are_null(tmp_path: Path, time: float) -> None:
    asyncio.run(written(f"file://{tmp_path}", [row(1, time=time), row(2)]))
    times = pq.read_table(tmp_path / name_of(WAGON, "")).column("time").to_pylist()
    assert times[0] is None
    assert times[1] is not None


def test_text_that_is_no_utf_8_in_a_file(tmp_path: Path) -> None:
    asyncio.run(written(f"file://{tmp_path}", [row(1, id="\ud800", extensions={"x": "\ud800"}), row(2)]))
    [odd, _] = asyncio.run(read(f"file://{tmp_path}"))
    assert (odd.id, odd.extensions) == ("\ufffd", {"x": "\ufffd"})


def test_what_is_not_finished_is_not_there(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/archive"

    async def main() -> None:
        await open_archive(url).prepare()
        with pytest.raises(ZeroDivisionError):
            async with open_archive(url).write(WAGON) as writer:
                await writer.add([row(n, data=b"x" * 100_000) for n in range(400)])  # some is written by now
                raise ZeroDivisionError
        async with open_archive(url).write(WAGON) as writer:
            await writer.add([row(1)])
        assert await open_archive(url).files("orders") == []

    asyncio.run(main())
    assert list(tmp_path.rglob("*.parquet")) == []


def test_a_second_attempt_replaces_the_first(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    asyncio.run(written(url, [row(1)]))
    asyncio.run(written(url, [row(1), row(2)]))
    assert [r.id for r in asyncio.run(read(url))] == ["id-1", "id-2"]


def test_a_file_with_more_rows_or_of_somebody_else_is_never_replaced(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    asyncio.run(written(url, [row(1), row(2)]))
    with pytest.raises(StorageBroken, match="2 rows, more than there are now"):
        asyncio.run(written(url, [row(1)]))
    assert len(asyncio.run(read(url))) == 2
    path = tmp_path / name_of(WAGON, "")
    path.write_bytes(b"something else")
    with pytest.raises(StorageBroken, match="is no Parquet file"):
        asyncio.run(written(url, [row(1), row(2)]))
    assert path.read_bytes() == b"something else"
    pq.write_table(pq.read_table(_another(tmp_path)), path)
    with pytest.raises(StorageBroken, match="another train's or wagon's file"):
        asyncio.run(written(url, [row(1), row(2), row(3)]))


def _another(directory: Path) -> Path:
    path = directory / "another.parquet"
    asyncio.run(written(f"file://{directory}/x", [row(1)]))
    table = pq.read_table(directory / "x" / name_of(WAGON, ""))
    pq.write_table(table.replace_schema_metadata({}), path)
    return path


def test_a_link_that_leads_nowhere_or_to_itself_hides_no_file(tmp_path: Path) -> None:
    async def main() -> None:
        await written(tmp_path.as_uri(), [row(1)])
        (tmp_path / "orders" / "nowhere.parquet").symlink_to(tmp_path / "gone")
        (tmp_path / "orders" / "itself.parquet").symlink_to("itself.parquet")
        assert [file.number for file in await open_archive(tmp_path.as_uri()).files("orders")] == [7]

    asyncio.run(main())


def test_a_file_whose_name_is_not_plain_text_hides_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await written(tmp_path.as_uri(), [row(1)])
        (tmp_path / "orders" / os.fsdecode(b"caf\xe9.parquet")).touch()
        (tmp_path / "orders" / "two\nlines").touch()
        archive = open_archive(tmp_path.as_uri())
        for _ in range(2):
            assert [file.number for file in await archive.files("orders")] == [7]

    asyncio.run(main())
    assert sorted(record.getMessage() for record in caplog.records) == [
        f"archive {tmp_path.as_uri()}: {name} is left out: its name is not plain text in UTF-8"
        for name in (r"'orders/caf\udce9.parquet'", r"'orders/two\nlines'")
    ]


def test_wagons_of_a_train_that_was_founded_again_have_other_names(tmp_path: Path) -> None:
    again = msgspec.structs.replace(WAGON, opened_at=1_800_000_001.25)
    late = msgspec.structs.replace(WAGON, opened_at=None, late="0123456789abcdef")
    names = {name_of(wagon, channel) for wagon in (WAGON, again, late) for channel in ("", "mail")}
    assert len(names) == 6
    for wagon in (WAGON, again, late):
        asyncio.run(written(f"file://{tmp_path}", [row(1)], wagon))
    assert len(asyncio.run(open_archive(f"file://{tmp_path}").files("orders"))) == 3


def test_a_directory_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match=r"archive file://.*/file: /.*/file is not a directory: move it away"):
        asyncio.run(written(f"file://{tmp_path}/file", [row(1)]))
    below = open_archive(f"file://{tmp_path}/file/archive")
    with pytest.raises(Unavailable, match=r"/file is not a directory: move it away"):
        asyncio.run(below.files("orders"))
    with pytest.raises(Unavailable, match=r"making its directory: .*/file"):
        asyncio.run(below.prepare())


def test_a_directory_that_may_not_be_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One above it forbids it. Tests may run as root, who may do everything: so the call is made to fail."""
    archive = open_archive(f"file://{tmp_path}/closed/archive")

    def refuse(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_dir", refuse)
    monkeypatch.setattr(Path, "is_file", refuse)
    for call in (archive.prepare, lambda: archive.files("orders"), lambda: written(archive.where, [row(1)])):
        with pytest.raises(Unavailable, match="Permission denied"):
            asyncio.run(call())


def test_what_is_made_is_for_this_user_alone(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o755)
    asyncio.run(written(f"file://{tmp_path}/there/a/b", [row(1)]))
    modes = {
        str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_dir()
    }
    assert modes == {"there": 0o755, "there/a": 0o700, "there/a/b": 0o700, "there/a/b/orders": 0o700}


def test_a_damaged_file_says_so(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    asyncio.run(written(url, [row(n) for n in range(5000)]))
    path = tmp_path / name_of(WAGON, "")
    content = bytearray(path.read_bytes())
    content[200:260] = b"\0" * 60
    path.write_bytes(content)
    with pytest.raises(StorageBroken, match="can't be read"):
        asyncio.run(read(url))


def test_a_file_with_other_columns_says_so(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    asyncio.run(written(url, [row(1)]))
    pq.write_table(pa.table({"id": ["a"], "time": [1]}), tmp_path / name_of(WAGON, "mail"))
    with pytest.raises(StorageBroken, match=r"mail\.parquet in .* has not the columns of an archive"):
        asyncio.run(read(url))


def test_strange_files_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    asyncio.run(written(url, [row(1)]))
    for name in ("notes.txt", "orders_v1.parquet", "orders_vx-20270101T000000000Z.parquet"):
        (tmp_path / "orders" / name).write_text("?")
    copy = (tmp_path / name_of(WAGON, "")).read_bytes()
    for other in ("orders/backup/orders_v7-20270131T180000000Z.parquet", "orders/mail_v7-20270131T180000000Z.parquet"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_bytes(copy)
    assert len(asyncio.run(open_archive(url).files("orders"))) == 1
    assert asyncio.run(open_archive(url).files("order")) == []


class Failing:
    """A writer or reader of the library that fails once it is used."""

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, *_: object) -> None: ...

    def write(self, data: bytes) -> None:
        raise GenericError("the disk is full\n\nDebug source: …")

    def read(self, size: int) -> bytes:
        raise GenericError("cut off")

    def seek(self, offset: int, whence: int = 0) -> int:
        return 1000 if whence else offset

    def tell(self) -> int:
        return 1000


def test_a_store_that_fails_midway_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{tmp_path}"
    asyncio.run(written(url, [row(1)]))
    with monkeypatch.context() as patch:
        patch.setattr("obstore.open_writer", lambda *_, **__: Failing())
        with pytest.raises(Unavailable, match=r"archive file://.*: writing orders/.*: the disk is full$"):
            asyncio.run(written(url, [row(1), row(2)]))
    with monkeypatch.context() as patch:
        patch.setattr("obstore.open_reader", lambda *_, **__: Failing())
        with pytest.raises(Unavailable, match=r"archive file://.*: reading orders/.*: cut off$"):
            asyncio.run(read(url))
    assert len(asyncio.run(read(url))) == 1


def test_what_is_read_at_a_time_has_a_bound_in_bytes(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    rows = [row(n, data=b"x" * 100_000) for n in range(400)]

    async def main() -> None:
        async with open_archive(url).write(WAGON) as writer:
            for start in range(0, len(rows), 40):
                await writer.add(rows[start : start + 40])
            [file] = await writer.finish()
        sizes = [sum(len(r.data) for r in some) async for some in open_archive(url).read(file)]
        assert sum(sizes) == 40_000_000
        assert max(sizes) <= 12_000_000

    asyncio.run(main())


def test_a_read_that_is_cancelled_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket that does not answer must not stop the event loop; what was opened is closed once it does."""
    url = f"file://{tmp_path}"
    [file] = asyncio.run(written(url, [row(n) for n in range(10)]))
    answers, reading, closed = threading.Event(), threading.Event(), threading.Event()
    batches, leave = pq.ParquetFile.iter_batches, pq.ParquetFile.close

    def blocked(self: Any, *given: Any, **more: Any) -> Any:
        reading.set()
        answers.wait(30)
        return batches(self, *given, **more)

    def left(self: Any, **how: Any) -> None:
        leave(self, **how)
        closed.set()

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", blocked)
    monkeypatch.setattr(pq.ParquetFile, "close", left)

    async def main() -> None:
        async def read_all() -> None:
            async for _ in open_archive(url).read(file):
                pass

        task = asyncio.create_task(read_all())
        await asyncio.to_thread(reading.wait, 30)
        began = asyncio.get_running_loop().time()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.get_running_loop().time() - began < 5
        assert not closed.is_set()
        answers.set()
        assert await asyncio.to_thread(closed.wait, 30)

    asyncio.run(main())


def test_a_file_that_went_after_it_was_listed_says_so(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    [file] = asyncio.run(written(url, [row(1)]))
    (tmp_path / file.name).unlink()

    async def main() -> None:
        with pytest.raises(StorageBroken, match=r"\.parquet is gone from file://"):
            async for _ in open_archive(url).read(file):
                pass

    asyncio.run(main())


def test_a_directory_that_is_not_there_is_away_and_never_made_beside(tmp_path: Path) -> None:
    """On another machine than the archive's, say, or while it is not mounted."""
    archive = open_archive(f"file://{tmp_path}/mounted/archive")

    async def main() -> None:
        with pytest.raises(Unavailable, match="the directory is not on this machine"):
            await archive.files("orders")
        with pytest.raises(Unavailable, match="the directory is not on this machine"):
            async with archive.write(WAGON) as writer:
                await writer.add([row(1)])
                await writer.finish()

    asyncio.run(main())
    assert not list(tmp_path.iterdir())
    asyncio.run(archive.prepare())
    assert asyncio.run(archive.files("orders")) == []


def test_an_empty_mount_point_is_not_taken_for_the_archive(tmp_path: Path) -> None:
    url, again = f"file://{tmp_path}/archive", msgspec.structs.replace(WAGON, again=True)
    asyncio.run(open_archive(url).prepare())
    asyncio.run(written(url, [row(1)]))  # the first time
    asyncio.run(written(url, [row(1)], again))
    (tmp_path / "archive").rename(tmp_path / "disk")
    asyncio.run(open_archive(url).prepare())  # a process begins to observe while it is not mounted
    with pytest.raises(Unavailable, match=r"the mark of that is missing \(\.eventwagon-archive\): mount the disk"):
        asyncio.run(written(url, [row(2)], again))
    assert not list((tmp_path / "archive").iterdir())
    (tmp_path / "archive").rmdir()
    (tmp_path / "disk").rename(tmp_path / "archive")
    assert asyncio.run(written(url, [row(1), row(2)], again))


def test_whether_the_files_are_still_what_was_archived(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    rows = [row(n, "mail" if n % 2 else "") for n in range(10)]
    files = asyncio.run(written(url, rows))
    asyncio.run(written(url, [row(99)], msgspec.structs.replace(WAGON, opened_at=1.0)))  # an earlier one of that name
    digest = f"{together(*(file.digest for file in files)):032x}"

    def differs(rows: int = 10, digest: str = digest) -> str:
        async def found() -> str:
            archive = open_archive(url)
            return await difference(archive, await archive.files("orders"), WAGON, rows, digest)

        return asyncio.run(found())

    assert differs() == ""
    assert "are not those that were archived" in differs(digest="0" * 32)
    (tmp_path / files[0].name).unlink()
    assert differs().startswith(f"orders_v7: 10 rows were archived, 5 are at {url}")
