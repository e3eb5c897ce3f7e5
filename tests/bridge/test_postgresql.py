"""An outbox in a real PostgreSQL, bridged into a train: transactions, crashes, other people's tables."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from secrets import token_hex
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from eventwagon import outbox
from eventwagon.bridge.sources.postgresql import open_postgresql
from eventwagon.contracts.address import Address
from eventwagon.errors import StorageBroken, UsageError
from eventwagon.testing.conformance import Check, SourceHarness, source_checks
from tests.bridge.support import (
    CrashesBeforeCommit,
    OutboxFlow,
    bridging,
    crashing,
    letters,
    numbered,
    outbox_flow,
    shop,
    stored,
    until,
)
from tests.servers.postgresql import PostgresServer


@pytest.mark.parametrize("check", source_checks(), ids=str)
def test_conformance(check: Check[SourceHarness], postgresql_server: PostgresServer) -> None:
    asyncio.run(check.run(lambda: outbox_flow(postgresql_server)))


def test_what_is_rolled_back_is_never_published(postgresql_server: PostgresServer, tmp_path: Path) -> None:
    async def main() -> None:
        async with outbox_flow(postgresql_server) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
            with psycopg.connect(flow.database) as connection:
                outbox.add(connection, {"n": 1}, table=flow.table)
                connection.rollback()
                first = outbox.add(connection, {"n": 2}, subject="k", event_type="placed", table=flow.table)
                connection.commit()
                with connection.cursor() as cursor:
                    second = outbox.add(cursor, {"n": 3}, id="own", table=flow.table)
            async with bridging(flow.open(), c) as bridge:
                await until(lambda: bridge.passed == 2, "both")
            found = {event.id: event for event in await stored(c)}
            assert found.keys() == {first, second}
            assert (found[first].subject, found[first].type, found[first].data) == ("k", "placed", b'{"n":2}')
            assert second == "own"
            assert await flow.left() == 0

    asyncio.run(main())


def test_an_insert_whose_transaction_commits_late_is_not_passed_over(
    postgresql_server: PostgresServer, tmp_path: Path
) -> None:
    async def main() -> None:
        async with outbox_flow(postgresql_server) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
            async with await psycopg.AsyncConnection.connect(flow.database) as late:
                await outbox.add_async(late, {"n": 1}, table=flow.table)
                await flow.write([b'{"n": 2}'])
                async with bridging(flow.open(), c) as bridge:
                    await until(lambda: bridge.passed == 1, "the one that is committed")
                    await late.commit()
                    await until(lambda: bridge.passed == 2, "the other")
            assert [event.data for event in await stored(c)] == [b'{"n": 2}', b'{"n":1}']

    asyncio.run(main())


def test_a_commit_wakes_the_bridge(postgresql_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the trigger: it does not wait for the next look."""
    monkeypatch.setattr("eventwagon.bridge.sources.postgresql._POLL", 1000.0)

    async def main() -> None:
        async with outbox_flow(postgresql_server) as flow, flow.open() as source:
            reading = asyncio.create_task(source.read(10, 60.0))
            await asyncio.sleep(0.3)
            name, payload = uuid4(), b'{"n": 1}'
            await flow.execute(
                f"INSERT INTO {flow.table} (id, type, payload) VALUES (%s, 'placed', %s)",  # noqa: S608
                name,
                payload,
            )
            async with asyncio.timeout(30):
                (record,) = await reading
            assert record.value == payload
            await source.commit([record])

    asyncio.run(main())


@pytest.mark.slow
def test_two_bridges_killed_again_and_again_lose_nothing(postgresql_server: PostgresServer, tmp_path: Path) -> None:
    async def main() -> None:
        async with outbox_flow(postgresql_server) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
            values = numbered(3000)
            await flow.write(values)

            async def some(commits: int) -> None:
                while await flow.left():
                    try:
                        async with asyncio.timeout(3):
                            await crashing(CrashesBeforeCommit(flow.open(), commits), c)
                    except (UsageError, TimeoutError):
                        pass

            await asyncio.gather(some(1), some(2))
            found = await stored(c)
            assert {event.data for event in found} == set(values)
            assert len({event.id for event in found}) == len(values)  # what came twice has the same id

    asyncio.run(main())


def test_a_table_of_debezium(postgresql_server: PostgresServer, tmp_path: Path) -> None:
    """With uuid and jsonb, and none of our own columns."""

    async def main() -> None:
        async with outbox_flow(postgresql_server) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
            await flow.execute(f"DROP TABLE {flow.table}")
            await flow.execute(
                f"CREATE TABLE {flow.table} (id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, "
                "aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, payload jsonb)"
            )
            good, bad = uuid4(), uuid4()
            insert = f"INSERT INTO {flow.table} VALUES (%s, 'orders', '7', 'placed', %s)"  # noqa: S608
            await flow.execute(insert, good, '{"n": 1}')
            await flow.execute(insert, bad, None)
            async with bridging(flow.open(), c) as bridge:
                await until(lambda: bridge.passed + bridge.buried == 2, "both")
            (event,) = await stored(c)
            assert (event.id, event.subject, event.type, event.data) == (str(good), "7", "placed", b'{"n": 1}')
            (letter,) = await letters(c)
            assert "its payload is NULL" in letter.extensions["deadbecause"]
            assert await flow.left() == 0

    asyncio.run(main())


async def remade(flow: OutboxFlow, columns: str) -> None:
    await flow.execute(f"DROP TABLE {flow.table}")
    await flow.execute(f"CREATE TABLE {flow.table} ({columns})")


def test_only_the_rows_that_were_published_are_deleted(postgresql_server: PostgresServer, tmp_path: Path) -> None:
    """Neither `seq` nor `id` need be unique in a table of others: others' rows with equal ones stay."""

    async def main() -> None:
        async with outbox_flow(postgresql_server) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
            await remade(flow, "seq bigint, id text, type text, payload text")
            await flow.execute(
                f"INSERT INTO {flow.table} SELECT 1, 'a' || n % 2, 't', '{{}}' FROM generate_series(1, 6) n"  # noqa: S608
            )
            async with await psycopg.AsyncConnection.connect(flow.database) as other:
                await other.execute(f"SELECT FROM {flow.table} WHERE ctid > '(0,3)' FOR UPDATE")
                async with bridging(flow.open(), c) as bridge:
                    await until(lambda: bridge.passed == 3, "those that nobody holds")
                    await asyncio.sleep(0.3)
                    assert await flow.left() == 3
                    await other.rollback()
                    await until(lambda: bridge.passed == 6, "the others")
            assert await flow.left() == 0

    asyncio.run(main())


def test_an_id_in_two_batches_locks_nobody_out(postgresql_server: PostgresServer, tmp_path: Path) -> None:
    async def main() -> None:
        async with outbox_flow(postgresql_server) as flow:
            await remade(flow, "id text, type text, payload text")
            await flow.execute(
                f"INSERT INTO {flow.table} SELECT (n % 1499)::text, 't', '{{}}' FROM generate_series(1, 2000) n"  # noqa: S608
            )
            async with (
                shop(publish_batch=300).connect(f"sqlite:///{tmp_path}") as c,
                bridging(flow.open(), c) as bridge,
            ):
                await until(lambda: bridge.passed == 2000, "all")
            assert await flow.left() == 0

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["bigint", "text", "date"])
def test_another_type_of_created_at_is_passed_over(kind: str, postgresql_server: PostgresServer) -> None:
    async def main() -> None:
        async with outbox_flow(postgresql_server) as flow:
            await remade(flow, f"id text, type text, payload text, created_at {kind}")
            value = {"bigint": "7", "text": "'soon'", "date": "'2026-01-01'"}[kind]
            await flow.execute(f"INSERT INTO {flow.table} VALUES ('a', 't', '{{}}', {value})")  # noqa: S608
            async with flow.open() as source:
                (record,) = await source.read(10, 1.0)
                assert abs(record.time - time.time()) < 60
                await source.commit([record])
            assert await flow.left() == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("NULL, 't', '{}', now()", "it has no id"),
        ("'a', 't', '{}', 'infinity'", "is no time"),
        ("'a', 't', NULL, now()", "NULL"),
    ],
)
def test_a_bad_row_is_a_dead_letter_once(row: str, why: str, postgresql_server: PostgresServer, tmp_path: Path) -> None:
    async def main() -> None:
        async with outbox_flow(postgresql_server) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
            await remade(flow, "id text, type text, payload text, created_at timestamptz")
            await flow.execute(f"INSERT INTO {flow.table} VALUES ({row}), ('good', 't', '{{}}', now())")  # noqa: S608
            async with bridging(flow.open(), c) as bridge:
                await until(lambda: bridge.passed == bridge.buried == 1, "both")
                await asyncio.sleep(0.5)
            (letter,) = await letters(c)
            assert why in letter.extensions["deadbecause"]
            assert await flow.left() == 0

    asyncio.run(main())


def test_rows_that_stay_are_told_and_not_published_again_and_again(
    postgresql_server: PostgresServer, tmp_path: Path
) -> None:
    async def main() -> None:
        async with outbox_flow(postgresql_server) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
            await flow.execute(
                f"CREATE FUNCTION {flow.table}_keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
                f"CREATE TRIGGER keep BEFORE DELETE ON {flow.table} FOR EACH ROW EXECUTE FUNCTION {flow.table}_keep()"
            )
            await flow.write(numbered(1))
            async with bridging(flow.open(), c) as bridge:
                await until(lambda: "does a trigger or a policy keep them" in bridge.trouble, "that it is told")
                await asyncio.sleep(3)
                assert bridge.passed <= 6

    asyncio.run(main())


def test_a_missing_right_is_told_at_the_start(postgresql_server: PostgresServer) -> None:
    async def main() -> None:
        async with outbox_flow(postgresql_server) as flow:
            role = f"role_{token_hex(4)}"
            await flow.execute(f"CREATE ROLE {role} LOGIN; GRANT SELECT, UPDATE ON {flow.table} TO {role}")
            flow.url = flow.url.replace("tests@", f"{role}@")
            with pytest.raises(StorageBroken, match="the user needs SELECT"):
                async with flow.open():
                    pass
            await flow.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")

    asyncio.run(main())


def test_large_rows_are_read_few_at_a_time(postgresql_server: PostgresServer) -> None:
    async def main() -> None:
        async with outbox_flow(postgresql_server) as flow:
            for _ in range(30):
                await flow.write([b'"' + b"x" * 2_000_000 + b'"'])
            sizes, left = list[int](), 30
            async with flow.open() as source:
                while left:
                    records = await source.read(1000, 1.0)
                    assert records is not None
                    sizes.append(len(records))
                    left -= len(records)
                    await source.commit(records)
            assert sizes[0] == 10
            assert max(sizes[1:]) <= 8

    asyncio.run(main())


def test_a_table_that_is_altered_meanwhile(postgresql_server: PostgresServer, tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            outbox_flow(postgresql_server) as flow,
            shop().connect(f"sqlite:///{tmp_path}") as c,
            bridging(flow.open(), c) as bridge,
        ):
            await flow.write(numbered(3))
            await until(lambda: bridge.passed == 3, "the first three")
            await flow.execute(f"ALTER TABLE {flow.table} DROP COLUMN contenttype")
            await flow.execute(f"INSERT INTO {flow.table} (id, type, payload) VALUES ('x', 't', '7')")  # noqa: S608
            await until(lambda: bridge.passed == 4, "the one after it")

    asyncio.run(main())


def test_a_locked_table_holds_up_no_end(
    postgresql_server: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("eventwagon.bridge.sources.postgresql._LOCKED", "300ms")

    async def main() -> None:
        async with (
            outbox_flow(postgresql_server) as flow,
            shop().connect(f"sqlite:///{tmp_path}") as c,
            await psycopg.AsyncConnection.connect(flow.database) as other,
        ):
            async with bridging(flow.open(), c) as bridge:
                await other.execute(f"LOCK TABLE {flow.table}")
                await until(lambda: bridge.trouble, "that it is told")
            await other.rollback()

    asyncio.run(main())


def test_sqlalchemy(postgresql_server: PostgresServer) -> None:
    async def main() -> None:
        async with outbox_flow(postgresql_server) as flow:
            engine = create_engine(flow.database.replace("postgresql:", "postgresql+psycopg:"))
            with Session(engine) as session:
                session.execute(text("SELECT 1"))
                first = outbox.add(session, {"n": 1}, table=flow.table)
                session.commit()
                outbox.add(session, {"n": 2}, table=flow.table)
                session.rollback()
            with engine.begin() as connection:
                second = outbox.add(connection, {"n": 3}, table=flow.table)
            engine.dispose()
            aengine = create_async_engine(flow.database.replace("postgresql:", "postgresql+psycopg:"))
            async with AsyncSession(aengine) as asession:
                third = await outbox.add_async(asession, {"n": 4}, table=flow.table)
                await asession.commit()
            await aengine.dispose()
            async with flow.open() as source:
                records = await source.read(10, 1.0)
                assert [dict(record.headers)["ce_id"] for record in records] == [first, second, third]

    asyncio.run(main())


def test_the_server_goes_and_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        with PostgresServer() as server:
            async with outbox_flow(server) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
                async with bridging(flow.open(), c) as bridge:
                    await flow.write(numbered(5))
                    await until(lambda: bridge.passed == 5, "the first five")
                    await asyncio.to_thread(server.kill)
                    await until(lambda: bridge.trouble, "that it is told")
                    await asyncio.to_thread(server.start)
                    await flow.write(numbered(5, 5))
                    await until(lambda: bridge.passed >= 10, "the others")
                assert {event.data for event in await stored(c)} == set(numbered(10))

    asyncio.run(main())


def test_no_table_says_how_to_make_it(postgresql_server: PostgresServer) -> None:
    async def main() -> None:
        source = open_postgresql(Address.of(f"{postgresql_server.url}?table=nowhere"), None)
        with pytest.raises(UsageError, match="there is no table nowhere; make it with the SQL"):
            async with source:
                pass

    asyncio.run(main())


@pytest.mark.parametrize("table", ["", "a b", 'a"; DROP TABLE x; --', "A", "a.b.c", "x" * 80])
def test_names_that_are_no_table(table: str) -> None:
    with pytest.raises(UsageError, match="give a name"):
        outbox.create_table(table)


@pytest.mark.parametrize(
    ("connection", "why"),
    [(object(), "is no connection"), (None, "is no connection")],
)
def test_no_connection(connection: object, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        outbox.add(connection, {})


def test_sync_and_async_are_told_apart(postgresql_server: PostgresServer) -> None:
    class Stranger:
        async def execute(self, *_: object) -> None:
            """Never runs."""

    async def main() -> None:
        engine = create_async_engine(postgresql_server.url.replace("postgresql:", "postgresql+psycopg:"))
        scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
        for stranger in (Stranger(), scoped):
            with pytest.raises(UsageError, match=r"await outbox\.add_async"):
                outbox.add(stranger, {})
        with pytest.raises(UsageError, match="is no connection"):
            await outbox.add_async(engine, {})
        await scoped.remove()
        await engine.dispose()
        async with await psycopg.AsyncConnection.connect(postgresql_server.url) as connection:
            with pytest.raises(UsageError, match=r"await outbox\.add_async"):
                outbox.add(connection, {})
        with psycopg.connect(postgresql_server.url) as plain, pytest.raises(UsageError, match=r"use outbox\.add"):
            await outbox.add_async(plain, {})

    asyncio.run(main())


def test_nothing_of_a_row_is_run_as_sql(postgresql_server: PostgresServer) -> None:
    async def main() -> None:
        async with outbox_flow(postgresql_server) as flow:
            nasty = "'); DROP TABLE x; -- %s :id {}"
            with psycopg.connect(flow.database) as connection:
                outbox.add(connection, {"a": nasty}, subject=nasty, event_type=nasty, id=nasty, table=flow.table)
            async with flow.open() as source:
                (record,) = await source.read(10, 1.0)
                assert dict(record.headers)["ce_id"] == nasty
                assert record.key == nasty.encode()

    asyncio.run(main())
