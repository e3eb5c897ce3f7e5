"""`connect_blocking`: publishing from threads, scripts and forking servers, without an event loop of one's own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from eventwagon import BlockingConnection, Connection, Event, Fact, Train, Volume
from eventwagon.errors import EventTooLarge, EventwagonError, PublishTimeout, Unavailable, UsageError
from eventwagon.train import URL

ROOT = Path(__file__).parents[2]


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return "sqlite:///trains"


def stored(train: Train, url: str) -> list[Event]:
    """What the first wagon's ingress holds."""

    async def read() -> list[Event]:
        from eventwagon.event import Channel

        async with train.connect(url) as c:
            return [event async for event in c.broker.read(Channel(train.name, 1))]

    return asyncio.run(read())


def hanging(**settings: Any) -> BlockingConnection:
    """To a broker that does not answer where an event says "hang"."""
    from eventwagon.drivers.memory.broker import MemoryBroker
    from eventwagon.drivers.memory.registry import MemoryRegistry

    class Hanging(MemoryBroker):
        async def publish(self, channel: Any, events: Any) -> None:
            if any(event.data == b'"hang"' for event in events):
                await asyncio.sleep(60)
            await super().publish(channel, events)

    train, broker, registry = Train("t", **settings), Hanging(), MemoryRegistry()
    return BlockingConnection("t", lambda: train.connect(broker=broker, registry=registry))


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("eventwagon-publish")]


def test_it_publishes_and_closes(url: str) -> None:
    train = Train("t")
    with train.connect_blocking(url) as c:
        name = c.publish({"n": 1}, subject="ada", event_type="Told")
        assert c.publish_many([1, 2, 3], subject=lambda n: f"s{n}", id=lambda n: f"id-{n}") == 3
        assert "open" in repr(c)
    assert "closed" in repr(c)
    assert not threads()
    one, *others = stored(train, url)
    assert (one.id, one.subject, one.type, one.data) == (name, "ada", "Told", b'{"n":1}')
    assert [(event.id, event.subject) for event in others] == [(f"id-{n}", f"s{n}") for n in (1, 2, 3)]


def test_it_opens_at_the_first_call_and_closing_is_idempotent(url: str) -> None:
    c = Train("t").connect_blocking(url)
    assert not threads()
    assert "new" in repr(c)
    c.publish(1)
    for _ in range(3):
        c.close()
    assert not threads()
    for call in (lambda: c.publish(1), lambda: c.publish_many([1]), c.__enter__):
        with pytest.raises(Unavailable, match="make another one with `connect_blocking`"):
            call()
    never = Train("t").connect_blocking(url)
    never.close()
    with pytest.raises(Unavailable):
        never.publish(1)


def test_thirty_two_threads_share_one(url: str) -> None:
    train = Train("t", limit=Volume(10_000))
    c = train.connect_blocking(url)
    with ThreadPoolExecutor(32) as pool:
        ids = list(pool.map(c.publish, range(640)))
    c.close()
    assert len(set(ids)) == 640
    assert {event.id for event in stored(train, url)} == set(ids)
    assert not threads()


def test_its_errors_are_those_of_connect_and_show_the_callers_line(url: str) -> None:
    train = Train("t", max_event_bytes=1024)

    @train.on("t")
    def handle(n: int) -> None: ...

    with train.connect_blocking(url) as c:
        for payload, kind in (("text", UsageError), (float("nan"), UsageError)):
            with pytest.raises(kind) as error:
                c.publish(payload)
        with pytest.raises(EventTooLarge):
            c.publish(Event("1", "t", "/s", 0.0, b"1" * 2000))
        with pytest.raises(UsageError):
            c.publish(1, timeout=-1)
        with pytest.raises(UsageError):
            c.publish(1, id="")
        with pytest.raises(UsageError):
            c.publish(Event("1", "t", "/s", 0.0, b"1"), subject="x")
        with pytest.raises(UsageError, match="asynchronous"):
            c.publish_many(numbers())
        with pytest.raises(UsageError, match="one str"):
            c.publish_many("text")
    assert "test_blocking.py" in "".join(traceback.format_exception(error.value))

    with hanging(publish_batch=2) as c:
        with pytest.raises(PublishTimeout) as late:
            c.publish_many([1, 2, 3, "hang"], timeout=0.5)
        assert late.value.accepted == 2
        frames = traceback.extract_tb(late.value.__traceback__)
        assert [Path(frame.filename).name for frame in frames] == ["test_blocking.py", *["blocking.py"] * 2]


async def numbers() -> Any:
    yield 1


def test_what_an_iterable_or_a_function_raises(url: str) -> None:
    train = Train("t", publish_batch=3)
    with train.connect_blocking(url) as c:

        def breaks() -> Iterator[int]:
            yield from range(7)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError) as error:
            c.publish_many(breaks())
        assert error.value.accepted == 7  # type: ignore[attr-defined]
        with pytest.raises(KeyError) as missing:
            c.publish_many([{"id": "a"}, {"id": "b"}, {}], id=lambda each: each["id"])
        assert missing.value.accepted == 2  # type: ignore[attr-defined]
        assert "payload 2" in missing.value.__notes__[0]
    assert len(stored(train, url)) == 9


def test_an_iterable_is_read_in_the_calling_thread(url: str) -> None:
    places: list[str] = []

    def read() -> Iterator[int]:
        for n in range(3):
            places.append(threading.current_thread().name)
            yield n

    with Train("t").connect_blocking(url) as c:
        c.publish_many(read())
    assert set(places) == {threading.current_thread().name}


def test_it_is_refused_where_an_event_loop_runs(url: str) -> None:
    c = Train("t").connect_blocking(url)

    async def main() -> None:
        for call in (lambda: c.publish(1), lambda: c.publish_many([1]), c.__enter__):
            with pytest.raises(UsageError, match="async with"):
                call()
        assert await asyncio.to_thread(c.publish, 1)

    asyncio.run(main())
    c.close()


def test_the_url_is_that_of_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URL, raising=False)
    c = Train("t").connect_blocking()  # as a module does that is loaded without the environment
    with pytest.raises(UsageError, match=URL):
        c.publish(1)
    monkeypatch.setenv(URL, url)
    c.publish(1)
    c.close()
    assert len(stored(Train("t"), url)) == 1
    for wrong in ("nothing", "unknown://", 7):
        with pytest.raises(UsageError):
            Train("t").connect_blocking(wrong)  # type: ignore[arg-type]


def test_a_connection_that_could_not_be_opened_is_opened_at_the_next_call(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL, "redis://127.0.0.1:9/0?timeout=0.2")
    c = Train("t", publish_timeout=1.0).connect_blocking()
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(c.publish, 1) for _ in range(4)]:
            assert isinstance(future.exception(), EventwagonError)
    monkeypatch.setenv(URL, url)
    assert c.publish(1)
    c.close()


def test_its_timeout_includes_opening(url: str) -> None:
    class Slow(Connection):
        async def __aenter__(self) -> Any:
            await asyncio.sleep(60)

    train = Train("t")

    def connect() -> Connection:
        c = train.connect(url)
        return Slow(train, c.broker, c.registry, None, (), time.time, False)

    c = BlockingConnection("t", connect)
    began = time.monotonic()
    with pytest.raises(PublishTimeout, match="no event was stored"):
        c.publish(1, timeout=0.2)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(c.publish, 1)
        time.sleep(0.1)
        c.close()
        assert isinstance(waits.exception(5), Unavailable)
    assert time.monotonic() - began < 5
    assert not threads()


def test_a_blocked_loop_is_told(url: str) -> None:
    gate = threading.Event()

    def blocks(fact: Fact) -> None:
        gate.wait(30)

    c = Train("t").connect_blocking(url, listeners=[blocks])
    with pytest.raises(PublishTimeout, match="blocked"):
        c.publish(1, timeout=0.3)
    gate.set()
    c.close()


def test_closing_ends_calls_of_other_threads() -> None:
    c = hanging()
    c.publish(1)
    with ThreadPoolExecutor(8) as pool:
        waits = [pool.submit(c.publish, "hang") for _ in range(8)]
        time.sleep(0.3)
        c.close()
        assert all(isinstance(wait.exception(10), EventwagonError) for wait in waits)
    assert not threads()


def test_one_that_is_dropped_leaves_no_thread(url: str) -> None:
    Train("t").connect_blocking(url).publish(1)
    deadline = time.monotonic() + 5
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads()


FORKS = """
import os, sys
from eventwagon import Train, UsageError

train = Train("t")
before, opened = train.connect_blocking("sqlite:///trains"), train.connect_blocking("sqlite:///trains")
opened.publish("parent")
pid = os.fork()
if pid == 0:
    try:
        before.publish("child")
        try:
            opened.publish("never")
        except UsageError as e:
            print(e, flush=True)
        opened.close()
        before.close()
    finally:
        sys.stdout.flush()
        os._exit(0)
os.waitpid(pid, 0)
opened.publish("parent again")
"""


def python(code: str, tmp_path: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "dev", "-W", "error", "-W", "ignore::DeprecationWarning", "-c", code]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False, **options)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_uses_what_was_not_opened_before(tmp_path: Path, url: str) -> None:
    done = python(FORKS, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "is a fork of it" in done.stdout
    assert [event.data for event in stored(Train("t"), url)] == [b'"parent"', b'"child"', b'"parent again"']


@pytest.mark.parametrize("ending", ["", "import sys; sys.exit(3)", "raise ValueError", "1/0"])
def test_a_program_that_does_not_close_it_ends(tmp_path: Path, url: str, ending: str) -> None:
    code = f"from eventwagon import Train\nc = Train('t').connect_blocking('sqlite:///trains')\nc.publish(1)\n{ending}"
    began = time.monotonic()
    done = python(code, tmp_path)
    assert time.monotonic() - began < 15
    assert len(stored(Train("t"), url)) == 1
    if not ending:
        assert (done.returncode, done.stderr) == (0, "")


HANGING = "from tests.scenarios.test_blocking import hanging\nc = hanging()\n"


def test_interrupted_at_the_terminal_it_ends() -> None:
    code = f"{HANGING}c.publish(1)\nprint('waits', flush=True)\nc.publish('hang')"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        try:
            _, said = process.communicate(timeout=15)
        finally:
            process.kill()
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode != 0


SIGNALS = """
import signal

c.publish(1)
for raised in (KeyboardInterrupt, SystemExit):
    def interrupt(number, frame):
        raise raised

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        c.publish_many(["hang"])
    except raised as e:
        print(e.accepted)
signal.signal(signal.SIGALRM, lambda number, frame: c.close())
signal.setitimer(signal.ITIMER_REAL, 1.0)
try:
    c.publish('hang')
except Exception as e:
    print(type(e).__name__)
"""


def test_a_signals_exception_ends_the_wait() -> None:
    done = python(HANGING + SIGNALS, ROOT)
    assert (done.returncode, done.stderr, done.stdout.split()) == (0, "", ["0", "0", "PublishTimeout"])


def test_events_for_later_and_their_end(url: str) -> None:
    with Train("t").connect_blocking(url) as c:
        name = c.publish(1, after=3600)
        assert c.cancel(name)
        assert not c.cancel(name)
        assert c.publish(2, after=0)
        with pytest.raises(UsageError):
            c.publish(3, after=-1)
    assert [event.data for event in stored(Train("t"), url)] == [b"2"]


def test_publish_middleware_runs_in_the_callers_context(url: str) -> None:
    who: ContextVar[str] = ContextVar("who", default="nobody")
    seen: list[str] = []
    train = Train("t")

    @train.publish_middleware
    async def marked(events: Any, call_next: Any) -> None:
        seen.append(who.get())
        await call_next(events)

    with train.connect_blocking(url) as c:
        who.set("ada")
        c.publish(1)
    assert seen == ["ada"]


LATE = """
import atexit, threading, time
from eventwagon import Train
from eventwagon.errors import Unavailable

c = Train("t").connect_blocking("sqlite:///trains")

def publish():
    try:
        c.publish(1)
    except Unavailable as e:
        print(e)
    else:
        print("published")
"""


@pytest.mark.parametrize(
    "when",
    ["atexit.register(publish)", "threading.Thread(target=lambda: (time.sleep(1), publish(), publish())).start()"],
)
def test_the_first_call_after_the_main_thread_has_ended_is_told_so(tmp_path: Path, url: str, when: str) -> None:
    done = python(f"{LATE}\n{when}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the program is ending" in done.stdout
    assert all("can't be opened any more" in line for line in done.stdout.splitlines())
