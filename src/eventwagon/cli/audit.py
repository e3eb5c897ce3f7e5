"""`audit`: the permanent records of a train's wagons."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from ..archives import difference, open_archive
from ..contracts.archive import ArchivedWagon
from ..contracts.ledger import Archived, ChannelRecord, Ledger, Times, WagonRecord, encode_record, ledger_of
from ..contracts.manifest import Manifest
from ..display.text import count, local_time, span
from ..drivers.opening import open_drivers, open_ledger
from ..errors import (
    BrokerError,
    EventwagonError,
    RegistryError,
    StorageBroken,
    Unavailable,
    UnknownTrain,
    UsageError,
)
from ..event import wagon_name
from ..policy.reconcile import covered, figure, summary
from ..policy.record_filter import RecordFilter
from ..runtime.recording import recover
from ..settings import NO_LEDGER
from ..values import shown
from .completion import NAMED
from .console import DEFAULT_URL, AsJson, Code, Ended, Url, beside, job, json_line, line, out, paragraph, say
from .target import check_wagon, load_train, registered, train_name, wagon_number
from .times import time_given


@job
async def audit(
    target: Annotated[str, NAMED],
    wagon: Annotated[
        str | None, typer.Argument(metavar="WAGON", help="Show this one in full, by name (orders_v7) or number.")
    ] = None,
    url: Url = DEFAULT_URL,
    ledger: Annotated[
        str | None,
        typer.Option(
            "--ledger",
            metavar="URL",
            help="Where the records are, say sqlite:///var/ledger; "
            "else as TARGET's program says, or beside the train's events.",
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="REVISION", help="Those of wagons that ran this code.")
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option(
            "--reason", metavar="TEXT", help="Those whose reason to open or close contains this, in either case."
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Those that lived at this time or later: 2027-01-31T18:00:00Z."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Those that were opened before this time.")
    ] = None,
    unreconciled: Annotated[bool, typer.Option("--unreconciled", help="Those whose figures do not reconcile.")] = False,
    recover_: Annotated[
        bool,
        typer.Option("--recover", help="First put records into the ledger that it could not take, from the journal."),
    ] = False,
    archive: Annotated[
        bool,
        typer.Option("--archive", help="Read the files of archived wagons, and compare them with the records."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the permanent records of a train's wagons, oldest first: why each was opened and closed, what went in and
    came out, who ran it, and how long events waited.

    A record is written before its wagon is removed, and never changes. It outlasts the train. With --json each is one
    line, complete. If none is found, or an archive differs, it exits with 1; if there is no such train or wagon, or no
    ledger, with 2. If --unreconciled finds none since all reconcile, it says so and exits with 0.
    """
    async with _opened(target, url, ledger) as (found, name, named):
        which = RecordFilter(
            wagon=wagon_number(wagon, name),
            revision=revision,
            reason=reason,
            since=time_given("--since", since),
            until=time_given("--until", until),
            unreconciled=unreconciled,
        )
        if recover_:
            async with registered(target, url) as (registry, _):
                recovered = await recover(registry, found, name)
            say(f"{count(recovered, 'record')} of the journal in the ledger")
        any_ = msgspec.structs.replace(which, unreconciled=False)
        told = reconciled = read = 0
        archived: list[tuple[ArchivedWagon, Archived]] = []
        async for record in found.records(name):
            read += 1
            if not which.takes(record):
                reconciled += any_.takes(record)
                continue
            told += 1
            if as_json:
                json_line(msgspec.Raw(encode_record(record)))
            elif wagon is not None:
                for each in _in_full(record):
                    paragraph(each)
            else:
                _print(record)
            if archive and record.archived is not None:
                wagon_ = ArchivedWagon(train=record.train, number=record.number, opened_at=record.opened_at)
                archived.append((wagon_, record.archived))
        if wrong := await _differences(archived):
            raise Ended(Code.FAILED, "; ".join(wrong))
        if not told and reconciled:  # it was asked for those that don't
            (say if as_json else line)(f"none is unreconciled: the figures of {count(reconciled, 'record')} reconcile")
            return
        if not told:
            raise await _nothing_found(target, url, name, which, read=bool(read), beside=named is None)
        if archive and not as_json:
            wagons = count(len(archived), "wagon")
            line(f"the archive agrees with the records of {wagons}" if archived else "none of these was archived")


@asynccontextmanager
async def _opened(target: str, url: str, ledger: str | None) -> AsyncIterator[tuple[Ledger, str, str | None]]:
    """The ledger, the train's name, and the ledger's URL; None: beside the events. The train itself may be gone. Raises
    UsageError."""
    named = ledger
    if ":" in target:
        train = load_train(target)
        name, named = train.name, ledger or train.settings.ledger
    else:
        name = train_name(target)
    if named == NO_LEDGER:
        raise UsageError(f"train {name!r} has no ledger: it says ledger='none'")
    found = open_ledger(named) if named is not None else ledger_of(open_drivers(url).broker)
    if found is None:
        raise await _none_here(target, url, name)
    async with found:
        yield found, name, named


_NO_LEDGER = (
    "train {0!r} has no ledger: Train(ledger='sqlite:///var/ledger') gives it one, for wagons that are removed from "
    "then on; `eventwagon why {0}` shows the journal"
)


_NAME_IT = "--ledger URL, or its program as TARGET: module:attribute"


async def _none_here(target: str, url: str, name: str) -> UsageError:
    """The error where no ledger can be beside the events: whether the train has one elsewhere."""
    say_where = "--ledger URL" if ":" in target else _NAME_IT
    try:
        manifest = await _manifest(target, url)
    except UnknownTrain as e:
        return UnknownTrain(f"{e}. If it was removed, name its ledger: {say_where}")
    if manifest is not None and not manifest.recorded:
        return UsageError(_NO_LEDGER.format(name))
    its = f"the ledger of train {name!r}" if manifest is not None else f"a ledger of train {name!r}, if it has one,"
    return UsageError(f"{its} is not beside its events at {shown(url)}: name it ({say_where})")


async def _nothing_found(
    target: str, url: str, name: str, which: RecordFilter, *, read: bool, beside: bool
) -> EventwagonError | Ended:
    """The error where the ledger has no such record. `read`: it has others of the train. `beside`: it is the one beside
    the events. Raises UnknownTrain."""
    try:
        manifest = await _manifest(target, url)
    except UnknownTrain:
        if not read:
            raise
        manifest = None
    if manifest is not None:
        if beside and not read and manifest.declared and not manifest.recorded:
            return UsageError(_NO_LEDGER.format(name))
        check_wagon(manifest, which.wagon)
    what = f"no record of train {name!r}" if which == RecordFilter() else f"no such record of train {name!r}"
    more = (
        f"; if it keeps its ledger elsewhere, name it ({_NAME_IT})" if beside and not read and ":" not in target else ""
    )
    return Ended(Code.FAILED, f"the ledger has {what}: a wagon's record is written when it is removed{more}")


async def _manifest(target: str, url: str) -> Manifest | None:
    """The train's manifest; None if it can't be read. Raises UnknownTrain."""
    with suppress(BrokerError, RegistryError):
        async with registered(target, url) as (registry, name):
            return (await registry.read(name)).manifest
    return None


async def _differences(archived: Sequence[tuple[ArchivedWagon, Archived]]) -> Sequence[str]:
    """In what the files of these wagons differ from their records. Each archive is listed once, after the records are
    read: the files of all of them are there by then."""
    wrong: list[str] = []
    for url in dict.fromkeys(record.url for _, record in archived):
        here = [(wagon, record) for wagon, record in archived if record.url == url]
        archive = open_archive(url)
        try:
            files = await archive.files(here[0][0].train)
        except Unavailable as e:
            wrong.append(str(e))
            continue
        for wagon, record in here:
            try:
                differs = await difference(archive, files, wagon, record.rows, record.digest)
            except (Unavailable, StorageBroken) as e:  # the other wagons are compared all the same
                differs = str(e)
            if differs:
                wrong.append(differs)
    return wrong


def _print(record: WagonRecord) -> None:
    name = wagon_name(record.train, record.number)
    code = f" ({record.revision})" if record.revision else ""
    undoes = f" undoing {wagon_name(record.train, record.undoes)}" if record.undoes else ""
    wrong = f"; UNRECONCILED: {record.unreconciled}" if record.unreconciled else ""
    why = f" (closed: {record.closed_because})" if record.closed_because else ""
    text = f"{name}{code}{undoes} {record.ended}{why}; {summary(record)}{wrong}"
    console = out()
    if console.is_terminal:
        console.print(beside(Text(local_time(record.recorded_at), "dim"), text))
    else:
        line(f"{local_time(record.recorded_at)}  {text}")


def _in_full(record: WagonRecord) -> Iterator[str]:
    yield f"{wagon_name(record.train, record.number)} {record.ended}; recorded by {record.recorded_by}"
    if record.revision:
        yield f"  revision  {record.revision}"
    if record.undoes:
        yield f"  undoes    {wagon_name(record.train, record.undoes)}"
    for what, at, why in _times(record):
        if at is not None:
            yield f"  {what:<9} {local_time(at)}{': ' + why if why else ''}"
    yield f"  figures   {summary(record)}"
    taken = f"{record.letters_taken:,} retried or dropped"
    yield f"  letters   {figure(record.letters_kept)} kept, {taken}, {record.letters_lost:,} lost"
    if record.archived is not None:
        kept = record.archived
        yield f"  archived  {count(kept.rows, 'row')} at {kept.url}, digest {kept.digest}"
    if record.unreconciled:
        yield f"  UNRECONCILED  {record.unreconciled}"
    else:
        yield "  reconciled: of each channel, published = settled + lost + left"
    yield f"  digests and percentiles cover {covered(record)}"
    for channel in record.channels:
        yield from _of_channel(channel, record.train)
    for ran in record.ran:
        yield f"  ran by {ran.name}{' (' + ran.revision + ')' if ran.revision else ''}: settled {ran.settled:,}"
    for hold in record.holds:
        what = "train" if hold.train else "wagon"
        end = f"until {local_time(hold.until)}" if hold.until is not None else "still held"
        by, resumed = (f" by {who}" if who else "" for who in (hold.by, hold.resumed_by))
        yield f"  {what} held from {local_time(hold.since)}{by} {end}{resumed}: {hold.why or 'not known why'}"
    for done in record.by_hand:
        who = "" if f" by {done.by}" in done.what else f"{done.by}: "
        yield f"  {local_time(done.at)}  {who}{done.what}"
    if record.journal_from is not None:
        yield f"  (the journal had nothing any more from before {local_time(record.journal_from)})"


def _times(record: WagonRecord) -> Sequence[tuple[str, float | None, str]]:
    return (
        ("opened", record.opened_at, record.opened_because),
        ("ready", record.ready_at, ""),
        ("active", record.active_at, ""),
        ("closed", record.closed_at, record.closed_because),
        ("sealed", record.sealed_at, ""),
        ("drained", record.drained_at, ""),
        ("recorded", record.recorded_at, ""),
    )


def _of_channel(channel: ChannelRecord, train: str) -> Iterator[str]:
    more = f", lost {channel.lost:,}" if channel.lost else ""
    more += f", left {channel.left:,}" if channel.left else ""
    yield (
        f"  channel {channel.name or train}: published {figure(channel.published)}, settled "
        f"{figure(channel.settled)}{more}; counted {channel.counted:,}, of these dead {channel.dead:,}; "
        f"retried {channel.retried:,}, put off {channel.snoozed:,}"
    )
    yield f"    waits      {_percentiles(channel.waits)}"
    yield f"    handlings  {_percentiles(channel.handlings)}"
    yield f"    digest     {channel.digest}"


def _percentiles(times: Times) -> str:
    if not times.count:
        return "none"
    parts = (("p50", times.p50), ("p90", times.p90), ("p99", times.p99), ("longest", times.most))
    return ", ".join(f"{name} {_short(each)}" for name, each in parts) + f" ({times.count:,})"


def _short(seconds: float | None) -> str:
    if seconds is not None and seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return span(seconds)
