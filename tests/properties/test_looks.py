"""A stored look is decided on as it was when it was made, and nothing that looks like one is taken for one."""

from __future__ import annotations

import base64
import json
import random
import tempfile
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from eventwagon import PauseOn, Pressure, Reading, Settings, Throughput, Volume, Wait, Workers
from eventwagon.cli.app import app
from eventwagon.contracts.lifecycle import LIVE, State
from eventwagon.contracts.manifest import Manifest, Request
from eventwagon.contracts.orchestrator import Deployment
from eventwagon.contracts.reading import Sample
from eventwagon.contracts.registry import Member
from eventwagon.display.text import as_line
from eventwagon.errors import UsageError
from eventwagon.event import Channel
from eventwagon.limits import Limit
from eventwagon.policy.latest_outcomes import Outcomes
from eventwagon.policy.plan import plan
from eventwagon.policy.record import decode_look, encode_look, find_looks
from eventwagon.policy.seen import Seen
from tests.fuzz import examples
from tests.unit.plans import NOW, look, manifest, wagon


class Own:
    """A user's limit, which is not at hand where its looks are run again."""

    bound = 60
    slo = 3.0

    def __repr__(self) -> str:
        return "Own()"

    def measure(self, reading: Reading) -> Pressure:
        return Pressure((reading.published or 0) / 60, "as the user says")


_TEXT = st.text(max_size=8) | st.sampled_from(
    ["mail", "reset_password", "\x1b[31m", "\u202e", "password=hunter2", "é" * 500]
)
_COUNT = st.none() | st.integers(0, 200)
_SECONDS = st.floats(0, 1e4)
_LIMITS: st.SearchStrategy[Limit] = st.sampled_from(
    [Volume(50), Wait(2.0) | Volume(100), Own(), Own() | Volume(70), Throughput(10.0, seconds=2.0)]
)
_DEPLOYMENTS = st.builds(
    Deployment,
    number=st.integers(1, 6),
    ready=st.booleans(),
    workers=st.integers(0, 3),
    trouble=_TEXT,
    channels=st.none() | st.tuples(_TEXT),
    missing=st.tuples() | st.tuples(_TEXT),
    open=st.dictionaries(_TEXT, _TEXT, max_size=1),
)
_MEMBERS = st.builds(
    Member,
    name=_TEXT,
    roles=st.just(("work", "publish")),
    publishing_to=st.integers(0, 5),
    attachments=st.tuples(_DEPLOYMENTS),
    channels=st.none() | st.tuples(_TEXT),
    trouble=_TEXT,
)


@st.composite
def _trains(draw: Any) -> Manifest:
    states = draw(st.lists(st.sampled_from(list(State)), max_size=5))
    if states.count(State.ACTIVE) > 1:
        states = [State.DRAINING if s is State.ACTIVE else s for s in states]
    wagons = [
        wagon(
            n + 1,
            state,
            channels=draw(st.tuples() | st.just(("mail", "reset_password"))),
            attempts=draw(st.integers(0, 5)),
        )
        for n, state in enumerate(states)
    ]
    request = draw(st.none() | st.builds(Request, _TEXT, st.just(NOW), st.none() | st.just("v2")))
    return manifest(
        *wagons, request=request, turns=len(wagons), channels=("mail",), failed_opens=draw(st.integers(0, 3))
    )


@st.composite
def _readings(draw: Any, number: int) -> Reading:
    return Reading(
        number=number,
        at=NOW,
        age=draw(_SECONDS),
        published=draw(_COUNT),
        settled=draw(_COUNT),
        waiting=draw(_COUNT),
        oldest_age=draw(st.none() | _SECONDS),
        settle_rate=draw(st.none() | _SECONDS),
        outstanding_in_all=draw(_COUNT),
        inner={"mail": draw(_COUNT), "reset_password": 1},
        empty=draw(st.booleans()),
        lost=draw(st.integers(0, 3)),
        missing=draw(st.tuples() | st.just(("",)) | st.just(("mail",))),
        vanished=draw(st.just({}) | st.just({"mail": None})),
        samples=tuple(Sample(NOW - 10 + n, 20 * n, 0, 0) for n in range(10)),
        crowding=draw(st.floats(0, 1)),
    )


@st.composite
def looks(draw: Any) -> Seen:
    m = draw(_trains())
    outcomes = {w.number: Outcomes(draw(st.integers(0, 9)), 3) for w in m.wagons if draw(st.booleans())}
    seen = look(
        m,
        [draw(_readings(w.number)) for w in m.wagons if draw(st.booleans())],
        {w.unit: draw(_DEPLOYMENTS) for w in m.in_state(*LIVE) if draw(st.booleans())},
        settings=Settings(
            limit=draw(_LIMITS),
            workers=Workers(each=2),
            spares=draw(st.integers(0, 1)),
            reuse=draw(st.booleans()),
            pause_on=draw(st.none() | st.just(PauseOn(0.3, 6))),
        ),
        members=draw(st.lists(_MEMBERS, max_size=2)),
        bounds=draw(st.booleans()),
        fences=draw(st.booleans()),
        ages={w.number: draw(_SECONDS) for w in m.wagons},
        leftovers=tuple(Channel("t", n, "mail") for n in draw(st.lists(st.integers(1, 9), max_size=2))),
        orchestrated=draw(st.booleans()),
        idle=draw(_SECONDS),
        unwanted=draw(_SECONDS),
    )
    return msgspec.structs.replace(seen, outcomes=outcomes)


def without_secrets(text: str) -> str:
    return text.replace("hunter2", "***")


@examples(150)
@given(looks())
def test_the_plan_of_a_stored_look_is_that_of_the_look(seen: Seen) -> None:
    word = encode_look(seen)
    again = plan(decode_look(word))
    decided = plan(seen)
    assert not decided.defects
    known = msgspec.json.encode((decided.manifest, decided.facts, decided.refusals, decided.tasks, decided.next_wanted))
    found = msgspec.json.encode((again.manifest, again.facts, again.refusals, again.tasks, again.next_wanted))
    assert found.decode() == without_secrets(known.decode())


def test_half_characters_are_written_out() -> None:
    seen = look(manifest(wagon(1, State.ACTIVE)), [], {1: Deployment(number=1, ready=False, trouble="a \ud800 b")})
    assert decode_look(encode_look(seen)).deployments[1].trouble == r"a \ud800 b"


@examples(50)
@given(looks())
def test_a_look_goes_through_a_log_as_it_is_and_holds_no_secret(seen: Seen) -> None:
    word = encode_look(seen)
    assert list(find_looks(as_line(f"12:00:01 DEBUG eventwagon t: a look: {word} {word}\n"))) == [word, word]
    assert "hunter2" not in repr(decode_look(word))


@examples(80)
@given(looks(), st.data())
def test_what_was_cut_or_changed_is_refused_in_words(seen: Seen, data: st.DataObject) -> None:
    word = encode_look(seen)
    for at in (0, 5, 18, data.draw(st.integers(0, len(word) - 1)), len(word) - 1):
        with pytest.raises(UsageError, match=r"cut short|no look|changed"):
            decode_look(word[:at])
    at = data.draw(st.integers(18, len(word) - 1))
    changed = word[:at] + data.draw(st.sampled_from("ABZaz09-_")) + word[at + 1 :]
    try:
        found = decode_look(changed)
    except UsageError:
        return
    assert encode_look(found) == encode_look(decode_look(word))  # bits of the last letter that mean nothing


@examples(300)
@given(st.text() | st.from_regex(r"eventwagon-look-1:[A-Za-z0-9_-]*", fullmatch=True))
def test_what_is_no_look_raises_nothing_else(text: str) -> None:
    for found in (text, *find_looks(text)):
        with pytest.raises(UsageError):
            decode_look(found)


_ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    2**64,
    10**400,
    1e300,
    -1e300,
    "",
    "\ud800",
    "\x1b[31m",
    [],
    {},
    [[]],
    {"1": 1},
    "active",
    "-5",
]


def _changed(document: Any, rng: random.Random) -> None:
    """One value somewhere in it is another one, or is gone."""
    within, key = document, rng.choice(list(document))
    while isinstance(within[key], dict | list) and within[key] and rng.random() < 0.85:
        within = within[key]
        key = rng.choice(list(within)) if isinstance(within, dict) else rng.randrange(len(within))
    if isinstance(within, dict) and rng.random() < 0.2:
        del within[key]
    else:
        within[key] = rng.choice(_ODD)


@examples(40)
@given(looks(), st.randoms(use_true_random=False))
def test_whatever_a_look_holds_it_is_refused_or_shown(seen: Seen, rng: random.Random) -> None:
    head, packed = encode_look(seen).split(":")
    document = json.loads(zlib.decompress(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4))))
    for _ in range(rng.choice([1, 1, 2, 4])):
        if document:
            _changed(document, rng)
    text = base64.urlsafe_b64encode(zlib.compress(json.dumps(document).encode())).decode().rstrip("=")
    with tempfile.NamedTemporaryFile("w", suffix=".log") as file:
        file.write(f"{head}:{text}\n")
        file.flush()
        for more in ([], ["--json"]):
            done = CliRunner().invoke(app, ["why", "--look", file.name, *more])
            assert done.exit_code in (0, 2)
            assert (done.exit_code == 0) == (done.stderr == "")
            assert "please report it" not in done.stderr
            assert "\x1b" not in done.output
