"""Replays by order: counted, requested, cancelled. `connection.replays` is one of these; observers do the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing

import msgspec

from ..contracts.manifest import Manifest
from ..contracts.replay import EventSource, Kind, NothingKeptError, PastEvents, Replay
from ..errors import Unavailable, UsageError
from ..event import legible, wagon_name
from ..policy.edits import Edit
from ..policy.letters import moment
from ..policy.replays import MOST_WAITING, cancelled, requested
from ..values import check_revision, is_a, items, plain, real, shown, whole
from .feeding import meant
from .runtime import Runtime
from .train_state import TrainState

_MOST_IDS = 1000
"""The most ids in one request: they are kept in the manifest, which every process reads."""
_MOST_LONG = 1000
"""Longer texts are cut where the manifest is stored."""
_MOST_TEXT = 60_000
"""The most characters in the ids of a request, and in those of all that wait before one is refused."""
_SLOWEST, _FASTEST = 0.01, 1e6
_OUTCOMES = ("handled", "dead")


class Replays:
    """The replays of a train: past events, handled once more in wagons of their own. All its methods raise UsageError,
    Unavailable and StorageBroken."""

    def __init__(
        self,
        runtime: Runtime,
        state: TrainState,
        source: EventSource | None,
        *,
        here: Callable[[], object],
        asked: Callable[[str, str | None], tuple[str, str]],
        answering: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self._runtime = runtime
        self._train = runtime.train
        self._state = state
        self._source = source
        self._here = here
        self._asked = asked
        """The checked reason, and who asks."""
        self._answering = answering

    async def preview(self, of: PastEvents) -> int:
        """How many events are meant. Reads all that are kept of that channel of the wagon. Changes nothing."""
        _, _, count = await self._counted(of)
        return count

    async def _counted(self, of: PastEvents) -> tuple[PastEvents, tuple[str, ...], int]:
        """The checked filter, where the events are kept, and how many there are."""
        self._here()
        of = checked(of)
        if self._source is None:
            raise Unavailable(f"train {self._train} has no archive: past events are kept only with archive=")
        name, now = wagon_name(self._train, of.wagon), self._state.snapshot.manifest
        try:
            parts = await self._source.parts(of.wagon, of.channel)
        except NothingKeptError as e:
            if now.wagon(of.wagon) is None:
                raise
            raise UsageError(f"{name} is not gone yet: its events can be replayed once they are archived") from e
        if not parts and of.channel not in ("", *now.channels):
            kept = filter(None, await self._source.channels(of.wagon))
            raise UsageError(f"{name} has no channel {shown(of.channel)}: it has {', '.join(kept)}")
        count = 0
        async with aclosing(meant(self._source, of, parts)) as batches:
            async for events in batches:
                count += len(events)
        return of, parts, count

    async def request(
        self,
        of: PastEvents,
        why: str = "by hand",
        *,
        revision: str | None = None,
        rate: float | None = None,
        by: str | None = None,
    ) -> Replay:
        """Have these events handled once more: observers open a wagon for them, publish them to it, and remove it in
        the end. The wagon never takes new events. One replay runs at a time; the others wait for it. This process may
        end: the train goes on with it until it is over or cancelled.

        The events keep their ids, times, data and attributes. `revision`: the code that handles them; default: that of
        new wagons. `rate`: the most events per second that are published. `why` and `by` are for the journal. Raises
        UsageError if there are no such events, or 10 replays wait already. Not idempotent: each call is a replay of its
        own. After Unavailable look at `standing`: it may have been stored.
        """
        why, by = self._asked(why, by)
        if revision is not None:
            check_revision(revision)
        if rate is not None:
            rate = real("rate", rate)
            if not _SLOWEST <= rate <= _FASTEST:
                raise UsageError(f"rate={shown(rate)}: give events per second, from {_SLOWEST:g} to {_FASTEST:,.0f}")
        of, parts, count = await self._counted(of)
        if of.channel not in ("", *self._state.snapshot.manifest.channels):
            raise UsageError(
                f"train {self._train} has no channel {shown(of.channel)} now: let it run with code that has it"
            )
        if not count:
            raise UsageError(
                f"nothing to replay: {wagon_name(self._train, of.wagon)} has no such events ({words(of)}); what was "
                "skipped, only passed on, or undone there is never replayed"
            )
        made = Replay(
            number=0,
            of=of,
            count=count,
            parts=parts,
            why=why,
            at=self._runtime.clock(),
            by=by,
            revision=revision,
            rate=rate,
        )
        return await self.add(made, words(of))

    async def add(self, made: Replay, which: str, check: Callable[[Manifest], None] = lambda _: None) -> Replay:
        """Let a replay or an undo wait for its turn. Returns it with its number. `check` is called with the manifest to
        which it is added, and may raise UsageError. Not idempotent. Not for users."""
        number = 0

        def edit(m: Manifest) -> Edit:
            nonlocal number
            if m.removal is not None:
                raise UsageError(f"train {m.train} is being removed")
            check(m)
            if len(m.replays) >= MOST_WAITING or sum(len(i) for r in m.replays for i in r.of.ids) > _MOST_TEXT:
                raise UsageError(f"{len(m.replays)} replays and undos wait already: request this when some are over")
            number = m.next_number
            return requested(m, made, which)

        async with self._answering():
            await self._state.apply(edit)
        return msgspec.structs.replace(made, number=number)

    async def cancel(self, number: int, why: str = "by hand", *, by: str | None = None) -> bool:
        """Publish nothing more of this replay; what was published is handled. Returns False if it is over already.
        Idempotent. Raises UsageError if it is an undo."""
        return await self.cancel_any(number, why, by, kind="replay")

    async def cancel_any(self, number: int, why: str, by: str | None, *, kind: Kind) -> bool:
        """The same for a replay or an undo, whichever is meant."""
        why, by = self._asked(why, by)
        number = whole("number", number)
        self._here()
        async with self._answering():
            before = (await self._state.refresh()).manifest
            self.check(before, number, kind)
            found = before.replay(number)
            if found is not None and found.kind != kind:
                article = "an" if found.kind == "undo" else "a"
                raise UsageError(
                    f"{number} is {article} {found.kind}, and no {kind}: "
                    f"`eventwagon {found.kind} {self._train} --cancel {number}` cancels it"
                )
            await self._state.apply(lambda m: cancelled(m, number, why, by))
        return found is not None

    @property
    def standing(self) -> Sequence[Replay]:
        """Those that are not over: the first one runs, the others wait. As this process last saw them."""
        self._here()
        return self._state.snapshot.manifest.replays

    async def wait(self, number: int) -> None:
        """Return once this replay is over: its events are handled or dead, its wagons removed."""
        number = whole("number", number)
        self._here()
        async with self._answering():
            self.check((await self._state.refresh()).manifest, number, "replay")
        await self._state.until(lambda m: number < m.next_number and m.replay(number) is None)

    def check(self, manifest: Manifest, number: int, kind: Kind) -> None:
        """Refuse a number that no replay or undo can have. Not for users."""
        if number >= manifest.next_number:
            raise UsageError(f"train {self._train} has had no {kind} {number}")
        of = next((r for r in manifest.replays if r.of.wagon == number), None)
        if manifest.wagon(number) is not None or of is not None:
            does = "undoes" if of is not None and of.undo is not None else "replays"
            hint = "" if of is None else f": {of.kind} {of.number} {does} it"
            what = "an undo" if kind == "undo" else "a replay"
            raise UsageError(f"{number} is the number of {wagon_name(self._train, number)}, not of {what}{hint}")


def checked(of: PastEvents) -> PastEvents:
    """The filter as it is stored. Raises UsageError for what can't be stored and read back as it is."""
    if type(of) is not PastEvents:
        raise UsageError("say which events are meant with a PastEvents, such as PastEvents(wagon=7)")
    given: dict[str, object] = {"wagon": whole("wagon", of.wagon), "channel": _text("channel", of.channel)}
    if is_a(of.ids, str):
        raise UsageError(f"ids={shown(of.ids)}: give a list of ids")
    ids = tuple(_text("ids", each) for each in items("ids", of.ids))
    if len(ids) > _MOST_IDS or sum(map(len, ids)) > _MOST_TEXT:
        raise UsageError(
            f"{len(ids):,} ids are more than {_MOST_IDS:,}, or {_MOST_TEXT:,} characters: replay them in parts, or by "
            "time"
        )
    given["ids"] = ids
    for name in ("type", "subject", "outcome"):
        if (value := getattr(of, name)) is not None:
            given[name] = _text(name, value)
            if not given[name]:
                raise UsageError(f"{name} is empty: leave it out, or give what to look for")
    if given.get("outcome") not in (None, *_OUTCOMES):
        raise UsageError(f"outcome={shown(of.outcome)}: give one of {', '.join(_OUTCOMES)}")
    for name in ("since", "until"):
        if (value := getattr(of, name)) is not None:
            given[name] = moment(name, value)
    return msgspec.structs.replace(of, **given)


def _text(what: str, value: object) -> str:
    given = plain(value)
    if given is None:
        raise UsageError(f"{what}={shown(value)}: give text")
    if len(given) > _MOST_LONG or legible(given) != given:
        raise UsageError(f"{what}={shown(given)}: give at most {_MOST_LONG:,} characters that UTF-8 can encode")
    return given


def words(of: PastEvents) -> str:
    """The filter in words."""
    given = {name: getattr(of, name) for name in of.__struct_fields__ if name != "ids"}
    said = [f"{name}={shown(value)}" for name, value in given.items() if value not in (None, "")]
    if of.ids:
        said.append(f"id={shown(of.ids[0])}" if len(of.ids) == 1 else f"{len(of.ids):,} ids")
    return ", ".join(said)
