"""Archiving: writing a wagon's rows against pyarrow writing the same ones, and what it costs the whole path."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from eventwagon.archives import open_archive
from eventwagon.archives.columns import SCHEMA
from eventwagon.contracts.facts import Fact
from eventwagon.contracts.manifest import Manifest, opened
from eventwagon.contracts.rows import Row, in_parts, packed, row_of
from eventwagon.drivers.sqlite import SQLiteBroker
from eventwagon.event import ARCHIVE, Channel, Event, new_ids
from eventwagon.runtime.archiving import Archiver
from eventwagon.runtime.bulkhead import Bulkhead
from eventwagon.runtime.publish_settings import PublishSettings
from eventwagon.runtime.runtime import Runtime
from eventwagon.settings import Settings

from .kit import Aim, Benchmark, Line, Run, Stopwatch, in_turn, orders, unused
from .path import whole


async def run(how: Run) -> list[Line]:
    lines = []
    with how.scratch() as directory:
        rows = _rows(how.pick(100_000, 20_000))
        ours, bare = await in_turn(
            how.pick(15, 5), partial(_archived, directory, rows), partial(_bare, directory, rows)
        )
        for unit, aim in (("rows/s", 0.5), ("rows/CPU s", 0.65)):
            lines.append(
                Line(
                    what="a wagon's rows: read from SQLite, written, read back",
                    against="pyarrow: the same columns to one file, closed",
                    unit=unit,
                    ours=[speeds[unit] for speeds in ours],
                    theirs=[speeds[unit] for speeds in bare],
                    aim=Aim("ratio", least=aim),
                )
            )
        for what, count, url in (
            ("memory", how.pick(60_000, 20_000), lambda: "memory://"),
            ("SQLite, FULL", how.pick(24_000, 8_000), lambda: f"sqlite:///{directory}/{unused('archive')}"),
        ):
            archive = f"file://{directory}/archive"
            on, off = await in_turn(
                how.pick(7, 3),
                partial(_path, url, count, archive),
                partial(_path, url, count, None),
            )
            lines.append(
                Line(
                    what=f"{what}: the whole path with an archive",
                    against="without",
                    unit="events/s",
                    ours=on,
                    theirs=off,
                )
            )
    return lines


def _rows(count: int) -> list[Row]:
    now = time.time()
    return [
        row_of(Event(name, "Order", "/eventwagon/bench", now, msgspec.json.encode(order)), "", "handled", 1, now)
        for name, order in zip(new_ids(count, now), orders(count), strict=True)
    ]


async def _archived(directory: Path, rows: Sequence[Row]) -> Mapping[str, float]:
    """From the wagon's channel to a file that was read back."""
    place = f"file://{directory}/{unused('rows')}"
    manifest = opened(Manifest(train="bench"), now=1.0, because="", capacity=None, archive=place)
    await open_archive(place).prepare()
    async with SQLiteBroker(directory / unused("broker")) as broker:
        channel = Channel("bench", 1, ARCHIVE)
        await broker.create(Channel("bench", 1))
        await broker.create(channel)
        for part in in_parts(rows, 131_072):
            await broker.publish(channel, [packed(part, "bench")])
        runtime = Runtime(
            train="bench",
            settings=Settings(),
            publishing=PublishSettings(Settings()),
            broker=broker,
            clock=time.time,
            tell=_nothing,
            bulkhead=Bulkhead("bench"),
            archives=open_archive,
        )
        state = _State(manifest)
        watch = Stopwatch()
        await Archiver(runtime, state).archive(manifest.wagons[0])  # type: ignore[arg-type]
        speeds = _speeds(len(rows), watch)
        assert state.snapshot.manifest.wagons[0].archived == len(rows)
    return speeds


def _speeds(count: int, watch: Stopwatch) -> Mapping[str, float]:
    return {"rows/s": count / watch.seconds, "rows/CPU s": count / watch.cpu_seconds}


def _nothing(fact: Fact) -> None:
    pass


class _Snapshot(msgspec.Struct):
    manifest: Manifest


class _State:
    """In the place of the registry."""

    def __init__(self, manifest: Manifest) -> None:
        self.snapshot = _Snapshot(manifest)

    async def apply(self, edit):  # type: ignore[no-untyped-def]
        self.snapshot = _Snapshot(edit(self.snapshot.manifest).manifest)


async def _bare(directory: Path, rows: Sequence[Row]) -> Mapping[str, float]:
    """The same values, in row groups of the same size."""
    watch = Stopwatch()
    writer = None
    for start in range(0, len(rows), 25_000):
        some = rows[start : start + 25_000]
        columns = {
            "id": [row.id for row in some],
            "type": [row.type for row in some],
            "source": [row.source for row in some],
            "subject": [row.subject for row in some],
            "time": [int(row.time * 1e6) for row in some],
            "datacontenttype": [row.content_type for row in some],
            "data": [row.data for row in some],
            "extensions": [list(row.extensions.items()) for row in some],
            "wagon": [1 for row in some],
            "channel": [row.channel for row in some],
            "outcome": [row.outcome for row in some],
            "attempts": [row.attempts for row in some],
            "settled_at": [int(row.settled_at * 1e6) for row in some],
            "because": [row.because for row in some],
            "cut": [row.cut for row in some],
        }
        table = pa.table(columns, schema=SCHEMA)
        if writer is None:
            writer = pq.ParquetWriter(directory / unused("bare.parquet"), table.schema, compression="zstd")
        writer.write_table(table)
    assert writer is not None
    writer.close()
    return _speeds(len(rows), watch)


async def _path(url: object, count: int, archive: str | None) -> float:
    assert callable(url)
    return await whole(url(), count, archive=archive)


BENCHMARK = Benchmark("archive", "a wagon's rows to its archive, against bare pyarrow; and the whole path", run)
