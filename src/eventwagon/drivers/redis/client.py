"""One driver's calls to a server or a cluster: scripts, and the errors for all failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from hashlib import sha1
from typing import Any, Self, TypeVar

from redis import exceptions

from ...background import Background
from ...errors import PublishUncertain, StorageBroken, Unavailable
from .errors import Lost, NotSent, code, explain
from .link import Argument, Lane, Link, linked, pack
from .notifier import Notifier
from .server import Server
from .wire import Answers

T = TypeVar("T")

_WAIT = 0.1
"""The longest time (s) for which the server is asked to wait for replicas, before it is asked again."""
_OLDEST = (7, 0)


class Script:
    """A Lua script, and the name by which the server knows it. https://redis.io/docs/latest/develop/programmability/

    `when_full`: it runs even if the server's memory is full, because it helps to free memory, or writes little. The
    server then checks the rights to write before it starts: not for scripts that only read.
    """

    def __init__(self, source: str, *, when_full: bool = False) -> None:
        self.source = ("#!lua flags=allow-oom\n" if when_full else "") + source
        self.sha = sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class Client:
    """The server of a URL, or the cluster that it belongs to, for one driver; its connections are shared. Entered
    once."""

    def __init__(self, server: Server, lane: Lane = "events") -> None:
        self.server = server
        self._lane: Lane = lane
        self._link: Link | None = None
        """While it is entered."""
        self._stores: Link | None = None
        """The same, for publishing."""
        self._stack = AsyncExitStack()
        self._background = Background()
        self._unconfirmed: dict[object, str] = {}
        """The calls that wait for replicas, and what is to be said of each."""

    async def __aenter__(self) -> Self:
        """Connect, and check whether the server is suitable. Raises Unavailable, StorageBroken."""
        try:
            self._link = self._stores = await self._stack.enter_async_context(linked(self.server, self._lane))
            if self.server.wait:  # else one train's publishing would wait for the replicas of all others'
                self._stores = Link(self.server)
                self._stack.push_async_callback(self._stores.close)
            await self._check(self._link)
        except (NotSent, Lost) as e:
            await self.__aexit__()
            raise self.explain(e, "connecting") from e.__cause__
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._background.wait()
        self._link = self._stores = None
        await self._stack.aclose()

    @property
    def notifier(self) -> Notifier:
        """Tells of changes, while the client is entered. Raises Unavailable."""
        if self._link is None:
            raise self.explain(NotSent("the connection is closed"), "waiting for changes")
        return self._link.notifier

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task of the client, which a caller's cancelling does not end; leaving the client waits for it."""
        return self._background.start(work)

    async def run(self, what: str, script: Script, keys: Sequence[str], arguments: Sequence[Argument] = ()) -> Any:
        """Run the script on the node of its keys (all of one slot) and return its answer. `what` describes the call in
        messages. The script may run twice: if the connection breaks it is tried once more, on a new one. Raises
        Unavailable, StorageBroken."""
        return await self._answer(what, lambda: self.send(script, keys, arguments))

    async def command(self, what: str, key: str, *arguments: Argument) -> Any:
        """Run one command on the node of `key`, like `run`. Raises Unavailable, StorageBroken."""
        packed = pack(*arguments)
        return await self._answer(what, lambda: self._send(key, [packed]))

    async def each(self, what: str, *arguments: Argument) -> dict[str, Any]:
        """Each server's answer to the command, by its address; a server's errors are among them, not raised. Raises
        Unavailable."""
        packed, found = pack(*arguments), dict[str, Any]()
        try:
            if self._link is None:
                raise NotSent("the connection is closed")
            for place, wire in (await self._link.wires()).items():
                (found[place],) = await wire.call(packed)
        except (NotSent, Lost) as e:
            raise self.explain(e, what) from e.__cause__
        return found

    async def _answer(self, what: str, call: Callable[[], Awaitable[Answers]]) -> Any:
        try:
            try:
                (answer,) = await call()
            except Lost as e:
                if isinstance(e.__cause__, TimeoutError):  # its time is over
                    raise
                (answer,) = await call()
        except (NotSent, Lost) as e:
            raise self.explain(e, what) from e.__cause__
        if isinstance(answer, Exception):
            raise self.explain(answer, what)
        return answer

    async def surely(self, what: str, script: Script, keys: Sequence[str], arguments: Sequence[Argument] = ()) -> Any:
        """Like `run`, and confirmed by as many replicas as the URL requires. Safe to repeat. Raises Unavailable (also
        if too few replicas confirm it in time), StorageBroken, EventTooLarge."""
        try:
            answers = await self.send(script, keys, arguments, stores=True)
        except (NotSent, Lost) as e:
            raise self.explain(e, what) from e.__cause__
        if isinstance(answers[0], Exception):
            raise self.explain(answers[0], what)
        try:
            async with asyncio.timeout(self.server.timeout / 2):
                await self.confirmed(answers, what)
        except PublishUncertain as e:
            raise Unavailable(str(e)) from e
        except TimeoutError:
            few = f"fewer than wait={self.server.wait} replicas confirmed it in time"
            raise Unavailable(f"{self.server.where}: {what}: done, but {few}") from None
        return answers[0]

    async def pair(
        self, what: str, first: bytes, script: Script, keys: Sequence[str], arguments: Sequence[Argument]
    ) -> tuple[Any, Any]:
        """The answers of a packed command (empty: none) and of the script right after it, which sees its effect. If the
        script says `gone`, the command may have failed: it answers None. Raises Unavailable, StorageBroken, and
        ChannelGone if a stream lacks its consumer group."""
        if not first:
            return None, await self.run(what, script, keys, arguments)
        second = pack("EVALSHA", script.sha, len(keys), *keys, *arguments)
        try:
            head, answer = await self._send(keys[0], [first, second])
        except (NotSent, Lost) as e:
            raise self.explain(e, what) from e.__cause__
        if isinstance(answer, Exception):  # its script is not there, or (in a cluster) its keys are just being moved
            answer = await self.run(what, script, keys, arguments)
        if isinstance(head, Exception):
            if answer[0] != b"gone":
                raise self.explain(head, what)
            head = None
        return head, answer

    async def send(
        self, script: Script, keys: Sequence[str], arguments: Iterable[Argument] = (), *, stores: bool = False
    ) -> Answers:
        """The script's answer. With `stores` it uses the wire for publishing, and the number of replicas that have
        confirmed it follows if the server's `wait` requires some; `confirmed` must wait for more if there are fewer.
        The server's errors are returned. Raises NotSent, Lost."""
        rest = (len(keys), *keys, *arguments)
        wire = "stores" if stores else "calls"
        after = []
        if stores and self.server.wait:
            after = [self._wait()]
        answers = await self._send(keys[0], [pack("EVALSHA", script.sha, *rest), *after], wire)
        if isinstance(answers[0], exceptions.NoScriptError):  # the server was restarted, or its scripts were flushed
            answers = await self._send(keys[0], [pack("EVAL", script.source, *rest), *after], wire)
        return answers

    def _wait(self) -> bytes:
        """Only for a short time, since it delays every call behind it."""
        return pack("WAIT", self.server.wait, max(1, int(min(_WAIT, self.server.timeout / 10) * 1000)))

    async def _confirm(self, answers: Answers) -> int:
        """How many replicas have confirmed that call of `send`. The server counts per connection, not per call: if the
        connection is gone, the number can't be known. Raises NotSent, Lost."""
        if answers.wire is None:
            raise Lost("the connection broke before the replicas were asked")
        (count,) = await answers.wire.call(self._wait(), only=answers.connection)
        if isinstance(count, int):
            return count
        raise Lost(str(count)) from count

    async def confirmed(self, answers: Answers, what: str) -> None:
        """Wait, as long as the caller does, until as many replicas as the URL requires have confirmed that call of
        `send`; a repeated publish goes on waiting here. Raises PublishUncertain if the outcome can no longer be
        known."""
        call = object()
        count: object = answers[1] if len(answers) > 1 else self.server.wait
        try:
            while not isinstance(count, int) or count < self.server.wait:
                why = (
                    f"{self.server.where}: {what}: stored, but {count} of wait={self.server.wait} replicas confirmed "
                    "it in time"
                )
                self._unconfirmed[call] = why
                try:
                    count = await self._confirm(answers)
                except (NotSent, Lost) as e:
                    raise PublishUncertain(f"{why}, and the connection broke") from e
        finally:
            self._unconfirmed.pop(call, None)

    @property
    def unconfirmed(self) -> str:
        """Why one of the calls waits for replicas; empty: none does."""
        return next(iter(self._unconfirmed.values()), "")

    def explain(self, error: BaseException, what: str) -> Exception:
        """The error to raise for a failure of `what`."""
        server = self.server
        return explain(error, server.where, server.prefix, what, cluster=server.cluster)

    async def _send(self, key: str, commands: list[bytes], wire: str = "calls") -> Answers:
        """See Link.send."""
        link = self._stores if wire == "stores" else self._link
        if link is None:
            raise NotSent("the connection is closed")
        return await link.send(key, commands, wire)

    async def _check(self, link: Link) -> None:
        """Check whether the server is new enough; one that does not say so is taken to be."""
        wire = next(iter((await link.wires()).values()))
        (answer,) = await wire.call(pack("INFO", "server"))
        if isinstance(answer, Exception):
            if code(answer) == "NOPERM":
                return
            raise self.explain(answer, "connecting")
        facts = dict(line.split(":", 1) for line in answer.decode().splitlines() if ":" in line)
        version = facts.get("redis_version", "")
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
        if numbers and numbers < _OLDEST:
            raise StorageBroken(f"{self.server.where}: it is Redis {version}; 7.0 or later is needed, or Valkey")
        if facts.get("redis_mode") == "cluster" and not self.server.cluster:
            raise StorageBroken(f"{self.server.where}: the server is a node of a cluster: add cluster=true to the URL")
