"""The ledger in a SQLite file: append-only, whoever writes, whatever is written."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import apsw
import pytest

from eventwagon.contracts.ledger import ByHand, ChannelRecord, Sketch, Times, WagonRecord, encode_record
from eventwagon.drivers.sqlite.ledger import SQLiteLedger
from eventwagon.errors import StorageBroken

RECORD = WagonRecord(train="t", number=1, opened_at=1_800_000_000.123456, closed_because="first")


def test_what_was_written_first_stays(tmp_path: Path) -> None:
    async def main() -> None:
        other = WagonRecord(train="t", number=1, opened_at=RECORD.opened_at, closed_because="second")
        again = WagonRecord(train="t", number=1, opened_at=RECORD.opened_at + 1e-6)
        async with SQLiteLedger(tmp_path) as a, SQLiteLedger(tmp_path) as b:
            assert await a.read("t", 1) == ()
            assert [r async for r in a.records("t")] == []
            assert not await asyncio.to_thread(lambda: any(tmp_path.iterdir()))  # nothing before the first record
            kept = await asyncio.gather(*(each.append(r) for each in (a, b) for r in (RECORD, other) * 20))
            assert len(set(map(repr, kept))) == 1
            assert await b.append(again) == again
            assert await a.read("t", 1) == (kept[0], again)
            assert [r async for r in b.records("t")] == [kept[0], again]
            assert [r async for r in b.records("other")] == []

    asyncio.run(main())


def test_the_file_refuses_changes_and_deletions(tmp_path: Path) -> None:
    async def main() -> None:
        async with SQLiteLedger(tmp_path) as ledger:
            await ledger.append(RECORD)

    asyncio.run(main())
    db = apsw.Connection(f"{tmp_path}/t/ledger.db")
    for sql in ("UPDATE record SET document='{}'", "DELETE FROM record"):
        with pytest.raises(apsw.ConstraintError, match="a record"):
            db.execute(sql)
    db.execute("INSERT OR REPLACE INTO record SELECT seq, number, opened_at, '{}' FROM record")
    db.execute("INSERT OR REPLACE INTO record SELECT NULL, number, opened_at, '{}' FROM record")
    assert db.execute("SELECT count(*), max(document) FROM record").fetchall() == [(1, encode_record(RECORD).decode())]
    db.close()


def test_strange_text_and_many_records(tmp_path: Path) -> None:
    async def main() -> None:
        strange = WagonRecord(
            train="t",
            number=2**53,
            opened_at=5e-324,
            closed_because="\x00\x1b[31m\ud800'\"; DROP TABLE record;" + "x" * 20_000,
            by_hand=(ByHand(at=1.0, by="\u202e", what="[/bold]"),),
            channels=(ChannelRecord(name="a", waits=Times(count=1, sketch=Sketch(bins=(1,) * 900))),),
        )
        async with SQLiteLedger(tmp_path) as ledger:
            kept = await ledger.append(strange)
            assert kept.closed_because.startswith("\x00\x1b[31m\\ud800'")
            for n in range(450):
                await ledger.append(WagonRecord(train="t", number=n, opened_at=float(n)))
            found = [r async for r in ledger.records("t")]
            assert found[0] == kept
            assert [r.number for r in found[1:]] == list(range(450))

    asyncio.run(main())


def test_a_record_that_cannot_be_read_hides_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with SQLiteLedger(tmp_path) as ledger:
            await ledger.append(RECORD)
        db = apsw.Connection(f"{tmp_path}/t/ledger.db")
        db.execute("INSERT INTO record (number, opened_at, document) VALUES (7, 1.0, '{}'), (8, 1.0, x'ff00')")
        db.close()
        async with SQLiteLedger(tmp_path) as ledger:
            assert [r async for r in ledger.records("t")] == [RECORD]
            with pytest.raises(StorageBroken, match="a record can't be read"):
                await ledger.read("t", 7)

    asyncio.run(main())
    assert sum("a record can't be read" in r.getMessage() for r in caplog.records) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_rights_says_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    async def main() -> None:
        async with SQLiteLedger(tmp_path / "x") as ledger:
            with pytest.raises(StorageBroken):
                await ledger.append(RECORD)

    asyncio.run(main())


def test_a_directory_that_is_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")

    async def main() -> None:
        async with SQLiteLedger(tmp_path / "x") as ledger:
            with pytest.raises(StorageBroken, match="x"):
                await ledger.append(RECORD)

    asyncio.run(main())
