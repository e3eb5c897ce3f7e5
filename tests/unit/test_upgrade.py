"""Documents and programs of other versions: opened, or refused with what to do."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from eventwagon import Context, Train, Volume, Workers
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import (
    FORMAT,
    Manifest,
    Pause,
    Request,
    TrainRemoval,
    Wagon,
    Watch,
    decode,
    encode,
)
from eventwagon.contracts.registry import Member, decode_members, encode_member
from eventwagon.errors import BrokenManifest, DeclarationDiffers
from eventwagon.testing.virtual_time import run
from tests.support import World, until


def test_an_older_manifest_is_read_and_what_it_lacks_filled_in() -> None:
    old = b'{"train":"t","wagons":[{"number":1,"state":"active","opened_at":1.0,"created_at":1.0}],"next_number":2}'
    manifest = decode(old)
    assert manifest.active is not None
    assert manifest.format == FORMAT
    assert decode(encode(manifest)) == manifest


def test_fields_that_later_versions_may_add_are_no_harm() -> None:
    assert decode(b'{"train":"t","later":{"x":1}}') == Manifest(train="t")


def test_a_check_in_keeps_the_names_of_its_fields() -> None:
    """Processes of other versions read them, and `status --json` prints them."""
    member = Member(name="a", version=3, revision="v2")
    assert decode_members([b'{"name":"a","revision":3,"code":"v2"}']) == [member]
    assert b'"revision":3,"code":"v2"' in encode_member(member)


LATER = b"""{"train": "t", "format": %d, "next_number": 2, "later": {"x": [1]},
 "wagons": [{"number": 1, "state": "active", "opened_at": 1.0, "created_at": 1.0, "later": "x"}],
 "request": {"why": "w", "at": 1.0, "later": null}, "watch": {"number": 1, "back": "v1", "share": 0.1, "later": 1.5},
 "channels": ["mail"]}"""


def test_what_this_code_does_not_know_is_dropped_at_every_level_or_the_whole_is_refused() -> None:
    """The form says which: a field that must not be lost comes with a newer one."""
    for form in (3, 4, 5):
        manifest = decode(LATER % form)
        assert b"later" not in encode(manifest)
        assert decode(encode(manifest)) == manifest
        assert (manifest.request, manifest.watch) == (Request("w", 1.0), Watch(1, "v1", 0.1))
    with pytest.raises(BrokenManifest, match="upgrade this program"):
        decode(LATER % 6)


FORM_4: dict[type[Any], set[str]] = {Manifest: {"paused", "removal"}, Wagon: {"paused"}}
"""Fields that code of form 3 must not drop: while one is set the manifest is written in form 4."""
FORM_5: dict[type[Any], set[str]] = {
    Manifest: {"replays", "once_since"},
    Wagon: {"archive", "archive_digest", "archived", "replay", "undoes", "undo_channel"},
}
"""The same for code of form 4."""
MAY_BE_DROPPED: dict[type[Any], set[str]] = {
    Manifest: {
        *("epoch", "lost_wagons", "letters_lost", "letters_gone", "letters_taken"),
        *("stepped_back_at", "stepped_back_to", "at_risk", "replays_over", "recorded", "archived_in"),
    },
    Wagon: {
        *("letters_lost", "letters_taken", "workers", "grown_at", "remover", "letters_kept"),
        *("paused_seconds", "resumed_at"),
    },
}
"""Fields that came with no new form: where older code drops one, something is told twice, dead letters that were
retried are told as lost, `pause_on` pauses a wagon again that somebody has resumed, or a replay that is over begins
again after the registry stepped back, and nothing worse happens."""
FORM_3: dict[type[Any], str] = {
    Manifest: "train format wagons next_number turns declared channels revision request watch refusing "
    "failed_opens stops",
    Wagon: "number state channels capacity opened_because opened_at created_at attempts losses reuses revision "
    "asleep_at "
    "trouble ready_at active_at turn closed_because closed_at sealed_at found_sealed drained_at published settled lost",
    Request: "why at revision watch by",
    Watch: "number back share",
    Pause: "why at by publishing",
    TrainRemoval: "why at by",
}


@pytest.mark.parametrize("kind", FORM_3, ids=lambda kind: kind.__name__)
def test_of_each_field_it_was_decided_whether_older_code_may_drop_it(kind: type[Any]) -> None:
    decided = {*FORM_3[kind].split(), *FORM_4.get(kind, ()), *FORM_5.get(kind, ()), *MAY_BE_DROPPED.get(kind, ())}
    assert set(kind.__struct_fields__) == decided, (
        "a new field: may code that does not know it drop it? Then list it in MAY_BE_DROPPED. If not, raise FORMAT in "
        "contracts/manifest.py, and write the newer form while the field is set (docs/decisions/0025)"
    )


def test_what_must_not_be_dropped_is_written_in_a_form_that_older_code_refuses() -> None:
    wagon = Wagon(number=1, opened_at=1.0)
    plain = Manifest(train="t", wagons=(wagon,), next_number=2, letters_lost=1, epoch=1, lost_wagons=(7,))
    assert b'"format":3' in encode(plain)
    pause, replace = Pause(why="w", at=1.0), msgspec.structs.replace
    for m in (
        replace(plain, paused=pause),
        replace(plain, removal=TrainRemoval(why="w", at=1.0)),
        replace(plain, wagons=(replace(wagon, paused=pause),)),
    ):
        assert b'"format":4' in encode(m)
        with_archive = replace(m, wagons=(replace(m.wagons[0], archive="file:///var/archive"),))
        assert b'"format":5' in encode(with_archive)
    assert b'"format":5' in encode(replace(plain, once_since=1.0))


def test_a_newer_form_is_refused_with_what_to_do() -> None:
    with pytest.raises(BrokenManifest, match=r"newer eventwagon .*upgrade this program"):
        decode(b'{"train":"t","format":6,"wagons":"in another form"}')


def test_what_is_read_in_an_older_form_is_written_in_ours() -> None:
    """Revisions and reuse would be lost on programs that know form 1 only: they are to refuse it from then on."""
    wagon = b'{"number":1,"state":"active","opened_at":1.0,"created_at":1.0}'
    old = b'{"train":"t","format":1,"wagons":[%b],"next_number":2}' % wagon
    manifest = decode(old)
    assert (manifest.format, manifest.revision, manifest.wagons[0].unit) == (FORMAT, "", 1)
    active = b'{"number":3,"state":"active","opened_at":1.0,"created_at":1.0,"active_at":1.0}'
    manifest = decode(b'{"train":"t","format":1,"wagons":[' + active + b'],"next_number":5}')
    assert (manifest.wagons[0].turn, manifest.turns) == (3, 4)  # they had been active in the order of their numbers
    assert b'"format":3' in encode(manifest)


def test_a_drained_wagon_of_an_older_form_is_being_removed() -> None:
    """Older observers delete its channels in that state, some perhaps already: there is no way back to draining."""
    drained = b'{"number":1,"state":"drained","opened_at":1.0,"created_at":1.0,"sealed_at":1.0}'
    manifest = decode(b'{"train":"t","format":2,"wagons":[' + drained + b'],"next_number":2}')
    assert manifest.wagons[0].state is State.REMOVING
    assert decode(encode(manifest)) == manifest


def test_noise_is_refused() -> None:
    with pytest.raises(BrokenManifest, match="can't be read"):
        decode(b"\xff\x00")


def test_a_worker_serves_the_channels_that_it_has_handlers_for() -> None:
    """The stated rule for programs of different versions that have no revision: each serves what it can, and says what
    it lacks. The newer one serves the channel that the older one does not know."""

    def program(handled: list[str], *, newer: bool) -> Train:
        train = Train("t", limit=Volume(100), workers=Workers(total=4))

        @train.on("t")
        async def register(name: str, ctx: Context) -> None:
            handled.append(name)
            if newer:
                ctx.emit("mail", name)

        if newer:

            @train.on("mail")
            async def mail(name: str) -> None:
                handled.append(f"mail to {name}")

        return train

    async def main() -> None:
        world = World()
        by_old, by_new = list[str](), list[str]()
        async with world.running(program(by_old, newer=False)) as old:
            await old.publish("a")
            await until(lambda: by_old == ["a"])
            newer = world.connect(program(by_new, newer=True), redeclare=True)
            async with newer, newer.running():
                await asyncio.sleep(10)
                number = await newer.request_switch("the new version")
                await newer.wait_switched(number)
                await newer.publish_many(f"{n}" for n in range(20))
                await until(lambda: len({*by_old, *by_new} & {f"{n}" for n in range(20)}) == 20)
                await until(lambda: {f"mail to {n}" for n in by_new if n.isdigit()} <= set(by_new))
                (member,) = [m for m in await newer.members() if m.name == old.name]
                missing = {a.number: a.missing for a in member.attachments}
                assert missing[2] == ("mail",)

    run(main())


def test_a_train_that_was_declared_with_the_former_default_keeps_its_workers(caplog: pytest.LogCaptureFixture) -> None:
    """Served, not refused; redeclared, it has the present one."""

    def signups(**given: Any) -> tuple[Train, list[int]]:
        train, handled = Train("signups", limit=Volume(100), **given), list[int]()

        @train.on("signups")
        def handle(number: int, ctx: Context) -> None:
            handled.append(number)

        return train, handled

    async def main() -> None:
        world = World()
        async with world.connect(signups(workers=Workers(total=8, floor=1))[0]) as c, c.running():
            assert c.manifest.declared["workers"] == "Workers(total=8, floor=1)"
        train, handled = signups()
        async with world.connect(train) as c, c.running():
            await c.publish(1)
            await until(lambda: handled == [1])
            (member,) = await c.members()
            assert member.shared_workers == 8
            assert c.manifest.declared["workers"] == "Workers(total=8, floor=1)"
        async with world.connect(train, redeclare=True) as c, c.running():
            assert c.manifest.declared["workers"] == "Workers(each=8)"
            await until(lambda: [a.workers for a in c.attachments] == [8])
        with pytest.raises(DeclarationDiffers):
            async with world.connect(signups(workers=Workers(total=8, floor=1))[0]) as c, c.running():
                pass

    with caplog.at_level("INFO", "eventwagon"):
        run(main())
    assert caplog.text.count("was the default: it keeps them") == 1
