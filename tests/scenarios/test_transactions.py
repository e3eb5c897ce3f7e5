"""Handlers in a transaction of SQLite: effect and record are one commit, whatever dies in between."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from eventwagon import Context, Event, Snooze, Train, UsageError
from eventwagon.event import new_ids
from eventwagon.testing.virtual_time import run
from eventwagon.transactions import in_transaction
from tests.support import World, until

ROOT = Path(__file__).parents[2]


def tables(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE booked (id TEXT)")
    return path


def booked(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return [name for (name,) in db.execute("SELECT id FROM booked ORDER BY rowid")]


def event(name: str) -> Event:
    return Event(name, "order", "/shop", 1.7e9, f'"{name}"'.encode())


def test_effect_and_record_are_one(tmp_path: Path) -> None:
    file = tables(tmp_path / "shop.db")
    failing = True

    @in_transaction(file)
    def book(payload: str, db: sqlite3.Connection, ctx: Context) -> None:
        """Book it."""
        db.execute("INSERT INTO booked VALUES (?)", (payload,))
        ctx.emit("mail", payload)
        if failing:
            raise ValueError("not yet")

    train = Train("orders")
    train.on("orders")(book)
    train.on("mail")(lambda payload: None)

    def again() -> Any:
        ctx = Context(event("a"), 1, "orders", 1, "", train.handlers, 1000, time.time)
        book("a", ctx)
        return ctx.emitted

    with pytest.raises(ValueError, match="not yet"):
        again()
    assert booked(file) == []
    failing = False
    first, second = again(), again()
    assert booked(file) == ["a"]
    assert [(place, e.id, e.data) for place, e in first] == [(place, e.id, e.data) for place, e in second]
    assert first[0][0] == "mail"
    book("b", Context.fake(train=train))
    assert booked(file) == ["a", "b"]
    assert book.__doc__ == "Book it."


def test_it_handles_events_of_a_train(tmp_path: Path) -> None:
    file = tables(tmp_path / "shop.db")

    async def main() -> None:
        world, mailed = World(time.time), list[str]()
        train = Train("orders")

        @train.on("orders")
        @in_transaction(file)
        def book(payload: str, db: sqlite3.Connection, ctx: Context) -> None:
            db.execute("SAVEPOINT mine")
            db.execute("INSERT INTO booked VALUES (?)", (payload,))
            db.execute("RELEASE mine")
            ctx.emit("mail", payload)

        @train.on("mail")
        async def mail(payload: str) -> None:
            mailed.append(payload)

        async with world.running(train) as c:
            for name in ("a", "b", "a", "a"):
                await c.publish(event(name))
            await until(lambda: len(mailed) == 4)
        assert sorted(booked(file)) == ["a", "b"]
        assert sorted(mailed) == ["a", "a", "a", "b"]  # sent again with the same ids: for `once=` these are one

    asyncio.run(main())


@pytest.mark.parametrize("end", ["commit", "rollback", "COMMIT", "ROLLBACK", "END", "with", "script"])
def test_the_function_can_not_end_the_transaction(tmp_path: Path, end: str) -> None:
    file = tables(tmp_path / "shop.db")

    @in_transaction(file)
    def book(payload: str, db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO booked VALUES (?)", (payload,))
        match end:
            case "commit" | "rollback":
                getattr(db, end)()
            case "with":
                with db:
                    pass
            case "script":
                db.executescript("SELECT 1")
            case _:
                db.execute(end)

    with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
        book("a", Context.fake(event("a")))
    assert booked(file) == []


def test_it_is_forgotten_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, now = tables(tmp_path / "shop.db"), 1000.0
    monkeypatch.setattr(time, "time", lambda: now)

    @in_transaction(file, remember=60)
    def book(payload: str, db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO booked VALUES (?)", (payload,))

    for at in (1000.0, 1059.0, 1061.0):
        now = at
        book("a", Context.fake(event("a")))
        book("b", Context.fake(event("b")))
    assert booked(file) == ["a", "b", "a", "b"]
    now = 2000.0
    book("c", Context.fake(event("c")))
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("SELECT count(*) FROM eventwagon_once").fetchone() == (1,)


async def _waits(payload: str, db: sqlite3.Connection) -> None: ...


def _one(payload: str) -> None: ...


def _four(payload: str, db: object, ctx: object, more: object) -> None: ...


def _by_name(payload: str, *, db: object) -> None: ...


def _ctx(ctx: str, db: object) -> None: ...


@pytest.mark.parametrize("function", [_waits, _one, _four, _by_name, _ctx, int, 5, print])
def test_another_kind_of_function_is_refused(function: Any) -> None:
    with pytest.raises(UsageError, match="handler"):
        in_transaction("shop.db")(function)


@pytest.mark.parametrize("wrong", [5, None, b"", ""])
def test_another_kind_of_path_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="path of a file"):
        in_transaction(wrong)


@pytest.mark.parametrize("wrong", [0, -1, True, float("nan"), timedelta(0), "1 d"])
def test_a_wrong_window_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="remember"):
        in_transaction("shop.db", remember=wrong)


def test_killed_at_any_moment_it_happens_once(tmp_path: Path) -> None:
    """Real processes are killed in and around the transaction: each event's effect is there once."""
    file, url = tables(tmp_path / "shop.db"), f"sqlite:///{tmp_path}/trains"

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "eventwagon", "run", "tests.programs.bookings:bookings", "--url", url],
            cwd=ROOT,
            env={**os.environ, "BOOKINGS": str(file)},
            stderr=subprocess.DEVNULL,
        )

    async def main() -> None:
        from tests.programs.bookings import bookings

        names = new_ids(200, time.time())
        process = start()
        try:
            async with bookings.connect(url, listeners=()) as c:
                for name in names:
                    await c.publish(Event(name, "booking", "/test", time.time(), f'"{name}"'.encode()))
                for _ in range(5):
                    before = len(booked(file))
                    await until(lambda: len(booked(file)) > before + 10 or len(booked(file)) == 200)  # noqa: B023
                    process.kill()
                    await asyncio.to_thread(process.wait)
                    process = start()
                async with asyncio.timeout(60):
                    while len(set(booked(file))) < 200:
                        await asyncio.sleep(0.2)
                await asyncio.sleep(4.0)  # what a killed process had claimed comes again
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait)
        assert Counter(booked(file)) == Counter(names)

    asyncio.run(main())


def test_in_virtual_time_too(tmp_path: Path) -> None:
    file = tables(tmp_path / "shop.db")

    @in_transaction(file)
    def book(payload: str, db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO booked VALUES (?)", (payload,))

    async def main() -> None:
        world, train = World(), Train("orders")
        train.on("orders")(book)
        async with world.running(train) as c:
            await c.publish(event("a"))
            await until(lambda: booked(file) == ["a"])

    run(main())


def attempt(train: Train, function: Any, name: str = "a") -> Context:
    ctx = Context(event(name), 1, "orders", 1, "", train.handlers, 1000, time.time)
    function(name, ctx)
    return ctx


def _or_rollback(db: sqlite3.Connection) -> None:
    db.execute("INSERT OR ROLLBACK INTO booked VALUES ('taken')")


def _by_trigger(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO booked VALUES ('refused')")


def _closed(db: sqlite3.Connection) -> None:
    db.close()


@pytest.mark.parametrize("breaks", [_or_rollback, _by_trigger, _closed])
def test_a_transaction_that_sqlite_rolled_back_is_not_recorded(tmp_path: Path, breaks: Any) -> None:
    file = tables(tmp_path / "shop.db")
    with closing(sqlite3.connect(file)) as db:
        db.executescript(
            "CREATE UNIQUE INDEX one ON booked (id); INSERT INTO booked VALUES ('taken');"
            "CREATE TRIGGER no BEFORE INSERT ON booked WHEN NEW.id='refused' BEGIN SELECT RAISE(ROLLBACK, 'no'); END;"
        )
    broken = True

    @in_transaction(file)
    def book(payload: str, db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO booked VALUES (?)", (payload,))
        if broken:
            with suppress(sqlite3.Error):
                breaks(db)
            with suppress(sqlite3.Error):
                db.execute("INSERT INTO booked VALUES ('behind')")  # would be committed by itself

    with pytest.raises(sqlite3.OperationalError, match="was rolled back before the handler returned"):
        attempt(Train("orders"), book)
    assert booked(file) == ["taken"]
    broken = False
    attempt(Train("orders"), book)
    assert booked(file) == ["taken", "a"]


def test_what_is_emitted_around_it_is_emitted_once_and_has_ids_of_its_own(tmp_path: Path) -> None:
    train = Train("orders")
    train.on("mail")(lambda payload: None)

    @in_transaction(tmp_path / "shop.db")
    def book(payload: str, db: sqlite3.Connection, ctx: Context) -> None:
        ctx.emit("mail", "within")

    def ids() -> list[tuple[str, bytes]]:
        ctx = Context(event("a"), 1, "orders", 1, "", train.handlers, 1000, time.time)
        ctx.emit("mail", "before")
        book("a", ctx)
        ctx.emit("mail", "after")
        return [(e.id, e.data) for _, e in ctx.emitted]

    first, second = ids(), ids()
    assert first == second
    assert len({name for name, _ in first}) == 3


def test_databases_and_options_that_cannot_work_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def book(payload: Any, db: sqlite3.Connection) -> None: ...

    for wrong in (":memory:", "file:shop.db?mode=memory"):
        with pytest.raises(UsageError, match="no path of a file"):
            in_transaction(wrong)
    with pytest.raises(UsageError, match="in_transaction takes one event at a time: leave batch= out"):
        Train("orders").on("orders", batch=10)(in_transaction("shop.db")(book))
    with closing(sqlite3.connect(tmp_path / "once.db")) as db:
        db.execute("PRAGMA application_id=0x6576776F")
        db.commit()
    with pytest.raises(UsageError, match=r"once\.db is a file of eventwagon's own"):
        attempt(Train("orders"), in_transaction(tmp_path / "once.db")(book))
    monkeypatch.chdir(tmp_path)
    relative = in_transaction("shop.db")(book)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    attempt(Train("orders"), relative)
    assert (tmp_path / "shop.db").exists()


def test_a_database_in_use_puts_the_event_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventwagon.transactions._BUSY", 0.05)
    file = tables(tmp_path / "shop.db")
    book = in_transaction(file)(lambda payload, db: None)
    attempt(Train("orders"), book)
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(Snooze):
            attempt(Train("orders"), book, "b")
