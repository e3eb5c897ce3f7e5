"""Drivers, orchestrators and listeners that raise what they never should: no long task ends by it. In virtual time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from eventwagon import Event, Train, Volume
from eventwagon.contracts.broker import Depth
from eventwagon.contracts.facts import DefectFound, Fact, StepFailed, Switched, log
from eventwagon.contracts.lifecycle import TRANSITIONS, IllegalMove, State
from eventwagon.contracts.orchestrator import Deployment, WagonSpec
from eventwagon.contracts.registry import Member, Snapshot
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.drivers.memory.registry import MemoryRegistry
from eventwagon.errors import Defect, EventwagonError, PublishError, Unavailable
from eventwagon.event import Channel
from eventwagon.policy.plan import Draft
from eventwagon.runtime.bulkhead import Bulkhead, is_ours
from eventwagon.runtime.in_process import InProcess
from eventwagon.runtime.listeners import Telling
from eventwagon.testing.virtual_time import run
from tests.support import SignUp, World, runtime_of, signups, until


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class OfNobody(BaseException):
    """No Exception: what nobody catches by accident."""


ODD: list[Callable[[], BaseException]] = [
    lambda: TypeError("rubbish"),
    Unprintable,
    lambda: SystemExit(1),
    lambda: asyncio.CancelledError(),
    lambda: BaseExceptionGroup("all", [ValueError("a"), SystemExit()]),
    lambda: ValueError("half \ud800 a character"),
    lambda: StopAsyncIteration(),
    lambda: GeneratorExit(),
    lambda: OfNobody(),
]


class Hostile:
    """Raises what it is told, at the calls of one kind, as often as it is told."""

    def __init__(self) -> None:
        self.error: Callable[[], BaseException] | None = None
        self.calls = set[str]()
        self.raised = 0

    def meet(self, call: str) -> None:
        if self.error is not None and call in self.calls:
            self.raised += 1
            raise self.error()


class Broker(MemoryBroker):
    hostile = Hostile()

    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        self.hostile.meet("depth")
        return await super().depth(channels)

    async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
        self.hostile.meet("create")
        await super().create(channel, capacity=capacity)

    async def unbound(self, channel: Channel) -> None:
        self.hostile.meet("create")
        await super().unbound(channel)

    async def warm(self, channel: Channel) -> None:
        self.hostile.meet("publish")
        await super().warm(channel)

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        self.hostile.meet("publish")
        await super().publish(channel, events)

    async def seal(self, channel: Channel) -> None:
        self.hostile.meet("seal")
        await super().seal(channel)

    async def delete(self, channel: Channel) -> None:
        self.hostile.meet("delete")
        await super().delete(channel)

    async def channels(self, train: str) -> Sequence[Channel]:
        self.hostile.meet("channels")
        return await super().channels(train)


class Registry(MemoryRegistry):
    hostile = Hostile()

    async def read(self, train: str) -> Snapshot:
        self.hostile.meet("read")
        return await super().read(train)

    async def members(self, train: str) -> Sequence[Member]:
        self.hostile.meet("members")
        return await super().members(train)

    async def check_in(self, train: str, member: Member, *, ttl: float) -> None:
        self.hostile.meet("check_in")
        await super().check_in(train, member, ttl=ttl)

    async def append(self, train: str, entries: Any, *, keep: int = 10_000) -> None:
        self.hostile.meet("append")
        await super().append(train, entries, keep=keep)


def hostile_world() -> tuple[World, Hostile]:
    world, hostile = World(), Hostile()
    world.broker, world.registry = Broker(clock=world.clock), Registry(clock=world.clock)
    world.broker.hostile = world.registry.hostile = hostile
    return world, hostile


@pytest.mark.parametrize("error", ODD)
def test_observer_and_membership_go_on_whatever_is_raised(
    error: Callable[[], BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        world, hostile = hostile_world()
        handled = list[str]()
        async with world.running(signups(handled)) as c:
            await c.publish(SignUp("a"))
            for call in ("depth", "create", "seal", "delete", "channels", "members", "check_in", "append", "read"):
                hostile.raised, hostile.calls, hostile.error = 0, {call}, error
                if call != "read":
                    at = await c.request_switch()
                if call == "append":  # a switch that has to wait is noted
                    await c.wait_switched(at)
                    await c.request_switch()
                await asyncio.sleep(40)
                assert hostile.raised, call
                hostile.error = None
                await c.wait_answered()
                await asyncio.sleep(10)
            old = await c.request_switch()
            await c.publish(SignUp("b"))
            await c.wait_drained(old)
            assert len(await c.members()) == 1
            (me,) = await c.members()
            assert me.caught > 0
        assert handled == ["a", "b"]
        assert await world.registry.members("signups") == []

    with caplog.at_level(logging.ERROR, "eventwagon"):
        run(main())
    told = [r for r in caplog.records if r.exc_info]
    assert told
    assert len(told) < 60, "rate-limited"


class Odd:
    """An orchestrator of somebody's: `InProcess`, until it raises or says rubbish."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.error: Callable[[], BaseException] | None = None
        self.bad = set[int]()
        self.rubbish: Any = None

    async def __aenter__(self) -> Odd:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def ensure(self, spec: WagonSpec) -> None:
        if self.error and (not self.bad or spec.number in self.bad):
            raise self.error()
        await self._inner.ensure(spec)

    async def deployments(self, train: str) -> Mapping[int, Deployment]:
        if self.error and not self.bad:
            raise self.error()
        return self.rubbish or await self._inner.deployments(train)  # type: ignore[no-any-return]

    async def remove(self, train: str, unit: int, *, grace: float) -> None:
        if self.error:
            raise self.error()
        await self._inner.remove(train, unit, grace=grace)


@pytest.mark.parametrize("error", ODD)
def test_an_orchestrator_may_raise_anything(error: Callable[[], BaseException]) -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        train = signups(handled)
        from eventwagon.runtime.membership import wagon_workers

        runtime = runtime_of(train, world.broker, clock=world.clock, tell=world.facts.append)
        async with wagon_workers(runtime, shared=False) as (_, inner):
            odd = Odd(inner)
            async with world.connect(train, orchestrator=odd) as c, c.running():
                await c.publish(SignUp("a"))
                await until(lambda: handled == ["a"])
                for rubbish in ({1: None}, {1: "ready"}, [1], 7):
                    odd.rubbish = rubbish
                    await asyncio.sleep(2)
                odd.rubbish = None
                odd.error = error
                await asyncio.sleep(30)
                odd.bad = {2}
                await c.request_switch()
                await c.publish(SignUp("b"))
                await until(lambda: handled == ["a", "b"])
                await asyncio.sleep(30)
                odd.error = None
                old = await c.request_switch()
                await c.wait_switched(1)
                await c.wait_drained(max(old, 1))

    run(main())


class Served:
    workers, handled, failed, uncounted, skipped, in_hand, missing = 1, 0, 0, 0, 0, 0, ()
    trouble, channels, paused, work = "", (), False, None
    open: ClassVar[dict[str, str]] = {}
    at_budget: ClassVar[dict[str, str]] = {}

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
        self.ended = False
        self.state = SimpleNamespace()

    async def update(self, spec: WagonSpec) -> None: ...

    async def end(self, grace: float, *, drained: bool = False) -> None:
        if self.error:
            raise self.error
        self.ended = True


@pytest.mark.parametrize("error", ODD)
def test_in_process_workers_start_and_end_for_themselves(error: Callable[[], BaseException]) -> None:
    async def main() -> None:
        served: dict[int, Served] = {}
        tries = 0

        async def start(spec: WagonSpec) -> Any:
            nonlocal tries
            if spec.number == 2 and tries < 3:
                tries += 1
                raise error()
            served[spec.number] = Served(error() if spec.number == 1 else None)
            return served[spec.number]

        async with InProcess(start, grace=1.0) as local:
            for n in (1, 2, 3):
                await local.ensure(
                    WagonSpec(
                        train="t",
                        number=n,
                        unit=n,
                        channels=(Channel("t", n),),
                        dead_letters=Channel("t", n, "dead"),
                        workers=1,
                    )
                )
            await asyncio.sleep(0.01)
            assert not (await local.deployments("t"))[2].ready
            assert (await local.deployments("t"))[2].trouble
            await asyncio.sleep(10)
            assert (await local.deployments("t"))[2].ready
        assert served[2].ended
        assert served[3].ended

    run(main())


# --- defects --------------------------------------------------------------------------------


def test_defects_stand_outside_the_tree_of_errors() -> None:
    assert not issubclass(Defect, EventwagonError)
    assert issubclass(IllegalMove, Defect)


def test_an_impossible_move_is_told_once_and_the_rest_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        async with world.running(signups(handled, limit=Volume(10), spares=1)) as c:
            await c.publish(SignUp("a"))
            await until(lambda: bool(c.manifest.ready))
            at = {key: value for key, value in TRANSITIONS.items() if key[0] is State.DRAINING}
            for key in at:
                monkeypatch.delitem(TRANSITIONS, key)
            for n in range(12):
                await c.publish(SignUp(str(n)))
            await c.wait_switched(1)
            await asyncio.sleep(120)
            assert len(handled) == 13, "switching and handling go on"
            found = [e.fact async for e in c.journal() if isinstance(e.fact, DefectFound)]
            assert len(found) == 1
            assert "draining" in found[0].step
            assert "can't be proven empty" in found[0].because
            assert "defect" in c.trouble
            await until(lambda: True)
            await asyncio.sleep(5)
            (member,) = await c.members()
            assert "defect" in member.trouble
            for key, value in at.items():
                monkeypatch.setitem(TRANSITIONS, key, value)
            await c.wait_drained(1)
        assert not any("tried again" in repr(f) for f in world.of(DefectFound))

    with caplog.at_level(logging.ERROR, "eventwagon"):
        run(main())
    told = [r for r in caplog.records if r.exc_info]
    assert 1 <= len(told) <= 5
    assert all(r.levelno == logging.ERROR for r in told)


@pytest.mark.parametrize("error", [SystemExit(1), asyncio.CancelledError("nobody's"), TypeError("no")], ids=repr)
def test_a_wagon_that_can_not_be_read_keeps_no_other_from_being_looked_at(error: BaseException) -> None:
    class Broken(MemoryBroker):
        breaks = False

        async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
            if self.breaks and any(channel.wagon == 1 for channel in channels):
                raise error
            return await super().depth(channels)

    async def main() -> None:
        world, handled = World(), list[str]()
        broker = world.broker = Broken(clock=world.clock)
        async with world.running(signups(handled, limit=Volume(3), spares=1)) as c:
            await c.publish(SignUp("a"))
            await c.request_switch()
            await c.wait_switched(1)
            broker.breaks = True
            number = await c.request_switch()
            await c.wait_switched(number)
            await until(lambda: c.manifest.wagon(number) is None)
            assert c.manifest.wagon(1) is not None

    run(main())


def test_whatever_policy_raises_is_a_defect_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """It calls nothing but itself: this is no weather."""

    async def main() -> None:
        world, handled = World(), list[str]()
        monkeypatch.setattr(Draft, "drain", lambda self: [][0])
        async with world.running(signups(handled)) as c:
            await c.publish(SignUp("a"))
            await until(lambda: bool(handled))
            await asyncio.sleep(5)
            found = [e.fact async for e in c.journal() if isinstance(e.fact, DefectFound)]
            assert [(f.step, f.because) for f in found] == [("draining", "Defect: IndexError: list index out of range")]
            assert "IndexError" in c.trouble
        assert not world.of(StepFailed)

    run(main())


# --- publishing -----------------------------------------------------------------------------


@pytest.mark.parametrize("error", ODD)
def test_what_a_driver_raises_at_a_publish_fails_that_call_alone(error: Callable[[], BaseException]) -> None:
    async def main() -> None:
        world, hostile = hostile_world()
        async with world.connect(Train("signups")) as c:
            await c.publish(1)
            for _ in range(3):
                hostile.raised, hostile.calls, hostile.error = 0, {"publish"}, error
                first = asyncio.create_task(c.publish(2))
                await until(lambda: hostile.raised)
                hostile.error = None
                if isinstance(error(), asyncio.CancelledError):
                    await first  # something that the driver waited for was cancelled: tried again
                else:
                    with pytest.raises(PublishError, match="may have been stored"):
                        await first
                await c.publish(3)
            assert c.trouble == ""

    run(main())


# --- listeners ------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [*ODD, lambda: KeyError("x")])
def test_listeners_cant_hurt(error: Callable[[], BaseException], caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        heard = list[Fact]()

        def hurts(fact: Fact) -> None:
            raise error()

        train = signups(handled)
        async with (
            train.connect(
                broker=world.broker, registry=world.registry, clock=world.clock, listeners=[hurts, heard.append]
            ) as c,
            c.running(),
        ):
            await c.publish(SignUp("a"))
            await until(lambda: handled == ["a"])
            old = await c.request_switch()
            await c.wait_drained(old)
        assert any(isinstance(f, Switched) for f in heard)

    with caplog.at_level(logging.ERROR, "eventwagon"):
        run(main())
    by_kind = [r for r in caplog.records if "hurts" in r.getMessage()]
    assert len(by_kind) == 1
    assert by_kind[0].exc_info


def test_a_listener_that_would_have_to_be_awaited_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def listen(fact: Fact) -> None: ...

    Telling("t", [listen])(StepFailed(train="t", step="", because=""))  # type: ignore[list-item]
    assert "nobody awaits" in caplog.messages[0]


def test_interrupting_a_listener_interrupts() -> None:
    def interrupted(fact: Fact) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Telling("t", [interrupted])(StepFailed(train="t", step="", because=""))


def test_a_bulkhead_logs_one_kind_once_a_minute_and_counts_all(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    bulkhead = Bulkhead("t", clock=lambda: now)
    for _ in range(5):
        bulkhead.report("a step", TypeError("a"))
    bulkhead.report("a step", ValueError("b"))
    now = 61.0
    bulkhead.report("a step", TypeError("c"))
    assert [line.partition(" raised ")[2] for line in caplog.messages] == [
        "TypeError: a",
        "ValueError: b",
        "TypeError: c (4 more of this kind since the last line)",
    ]
    assert (bulkhead.caught, bulkhead.trouble) == (7, "")
    bulkhead.report("a step", IllegalMove("no"))
    assert "IllegalMove: no" in bulkhead.trouble


async def met_by_closing() -> bool:
    """What a coroutine of ours meets that is closed while it waits, beneath a context manager."""
    found = list[bool]()
    code = """
import asyncio, contextlib

@contextlib.contextmanager
def going_on():
    try:
        yield
    except BaseException as e:
        found.append(is_ours(e))
        raise

async def wait():
    with going_on():
        await asyncio.Event().wait()
"""
    names: dict[str, Any] = {"__name__": "eventwagon.long", "found": found, "is_ours": is_ours}
    exec(code, names)  # noqa: S102 - as a module of the package
    waiting = names["wait"]()
    waiting.send(None)
    waiting.close()
    return found == [True]


def raised_by_others() -> BaseException:
    try:
        raise GeneratorExit
    except GeneratorExit as e:
        return e


def test_what_a_long_task_must_end_by() -> None:
    assert is_ours(ValueError()), "no loop runs: the task is being collected"

    async def main() -> None:
        assert is_ours(KeyboardInterrupt())
        assert is_ours(BaseExceptionGroup("", [KeyboardInterrupt()]))
        assert is_ours(GeneratorExit())
        assert await met_by_closing()
        assert not is_ours(raised_by_others())
        assert not is_ours(SystemExit())
        assert not is_ours(asyncio.CancelledError())

    run(main())


def test_every_fact_can_be_logged_whatever_its_text(caplog: pytest.LogCaptureFixture) -> None:
    log(DefectFound(train="t", step="a", because="b"))
    assert caplog.records[0].levelno == logging.ERROR


def test_unavailable_is_weather() -> None:
    async def main() -> None:
        world, hostile = hostile_world()
        async with world.running(signups([])) as c:
            await c.publish(SignUp("a"))
            hostile.calls, hostile.error = {"check_in", "members"}, lambda: Unavailable("away")
            await asyncio.sleep(30)
            hostile.error = None
            await asyncio.sleep(5)
            (me,) = await c.members()
            assert me.caught == 0
            assert c.trouble == ""
        steps = [f.step for f in world.of(StepFailed)]
        assert len(steps) == len(set(steps)), "each told once while it lasts"

    run(main())


def test_a_listener_that_hurts_when_it_is_asked_for_its_name() -> None:
    class Hostile:
        def __getattr__(self, name: str) -> object:
            raise SystemExit(name)

        def __call__(self, fact: Fact) -> None:
            raise SystemExit("a listener")

    heard: list[Fact] = []
    fact = StepFailed(train="t", step="", because="")
    Telling("t", [Hostile(), heard.append])(fact)
    assert heard == [fact]
