"""Calls to a server or a cluster: scripts, routing by slot, and the errors for all failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from hashlib import sha1
from typing import Any, Self, TypeVar

from hiredis import pack_command
from redis import exceptions
from redis.crc import key_slot

from ...background import Background
from ...errors import PublishUncertain, StorageBroken, Unavailable
from .errors import Lost, NotSent, code, explain
from .server import Server
from .wire import Answers, Wire

T = TypeVar("T")
Argument = str | bytes | int

_HOPS = 12
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


def pack(*words: Argument) -> bytes:
    """A command in the server's protocol."""
    packed: bytes = pack_command(words)  # type: ignore[arg-type]  # its stub takes a tuple of one
    return packed


_ASKING = pack("ASKING")


class _Node:
    """One server: a wire for calls that must not wait behind a large publish, and one for publishing."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.calls = Wire(server)
        self.stores = Wire(server)

    async def close(self) -> None:
        await self.calls.close()
        await self.stores.close()


class Client:
    """The server of a URL, or the cluster that it belongs to. Entered once."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._nodes: dict[tuple[str, int], _Node] = {}
        self._slots: dict[int, _Node] = {}
        self._background = Background()
        self._turn = 0
        self._unconfirmed: dict[object, str] = {}
        """The calls that wait for replicas, and what is to be said of each."""

    async def __aenter__(self) -> Self:
        """Connect, and check whether the server is suitable. Raises Unavailable, StorageBroken."""
        try:
            if self.server.cluster:
                await self._learn()
            await self._check()
        except (NotSent, Lost) as e:
            await self.__aexit__()
            raise self.explain(e, "connecting") from e.__cause__
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._background.wait()
        for node in list(self._nodes.values()):
            await node.close()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task of the client, which a caller's cancelling does not end; leaving the client waits for it."""
        return self._background.start(work)

    def some(self) -> Server:
        """One of the known servers, a different one each time: PUBLISH reaches all nodes of a cluster."""
        self._turn += 1
        places = list(self._nodes) or [(self.server.host, self.server.port)]
        return self.server.at(*places[self._turn % len(places)])

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
        if self.server.cluster:
            await self._learn()
            nodes = list(dict.fromkeys(self._slots.values()))
        else:
            nodes = [self._node(self.server.host, self.server.port)]
        packed, found = pack(*arguments), dict[str, Any]()
        for node in nodes:
            try:
                (found[f"{node.server.host}:{node.server.port}"],) = await node.calls.call(packed)
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
        """The answers of a packed command (empty: none) and of the script right after it, which sees its effect. A
        command that failed because its key is gone answers None. Raises Unavailable, StorageBroken."""
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
            if code(head) != "NOGROUP":
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
        """The answers of these commands, all on the node of `key`. The first answer says if the key is on another
        node."""
        packed = b"".join(commands)
        if not self.server.cluster:
            one: Wire = getattr(self._node(self.server.host, self.server.port), wire)
            answers = await one.call(packed, len(commands))
            if any(isinstance(answer, exceptions.ReadOnlyError) for answer in answers):
                one.renew()  # a failover: the address may lead to the new primary
            return answers
        slot = key_slot(key.encode())
        node = await self._node_of(slot)
        asking = False
        answers = Answers()
        for hop in range(_HOPS):
            if hop > 1:
                await asyncio.sleep(0.02 * hop)  # nodes may disagree for a moment about who has the slot
            there: Wire = getattr(node, wire)
            try:
                if asking:
                    both = await there.call(b"".join(_ASKING + c for c in commands), 2 * len(commands))
                    answers = Answers(both[1::2], wire=both.wire, connection=both.connection)
                else:
                    answers = await there.call(packed, len(commands))
            except NotSent:  # the node may be gone: another has taken over its slots
                if hop:
                    raise
                await self._learn()
                node = await self._node_of(slot)
                continue
            first = answers[0]
            if isinstance(first, exceptions.MovedError):
                node, asking = self._node(first.host or node.server.host, first.port), False
                self._slots[slot] = node
            elif isinstance(first, exceptions.AskError):  # after MovedError, which redis-py derives from it
                node, asking = self._node(first.host or node.server.host, first.port), True
            elif not isinstance(first, exceptions.TryAgainError):
                return answers
        return answers

    def _node(self, host: str, port: int) -> _Node:
        node = self._nodes.get((host, port))
        if node is None:
            node = self._nodes[host, port] = _Node(self.server.at(host, port))
        return node

    async def _node_of(self, slot: int) -> _Node:
        if slot not in self._slots:
            await self._learn()
        try:
            return self._slots[slot]
        except KeyError:
            raise NotSent(f"no node of the cluster serves slot {slot}") from None

    async def _learn(self) -> None:
        """Ask any node which node serves which slots. Raises NotSent, or the error that explains the failure."""
        known = list(dict.fromkeys([*self._nodes, *self.server.places]))
        trouble: BaseException = NotSent("no node")
        for host, port in known:
            try:
                (answer,) = await self._node(host, port).calls.call(pack("CLUSTER", "SLOTS"))
            except (NotSent, Lost) as e:
                trouble = e
                continue
            if isinstance(answer, Exception):
                if "cluster support disabled" in str(answer):
                    raise StorageBroken(f"{self.server.where}: it is no cluster: leave cluster=true out of the URL")
                trouble = answer
                continue
            if not answer:
                trouble = NotSent("the cluster serves no slots yet")
                continue
            slots: dict[int, _Node] = {}
            for first, last, primary, *_ in answer:
                node = self._node(primary[0].decode() or host, primary[1])
                slots.update(dict.fromkeys(range(first, last + 1), node))
            self._slots = slots
            gone = [place for place, node in self._nodes.items() if node not in set(slots.values())]
            for place in gone:
                if place not in self.server.places:
                    self.spawn(self._nodes.pop(place).close())
            return
        raise NotSent(str(trouble)) from (trouble.__cause__ or trouble)

    async def _check(self) -> None:
        """Check whether the server is new enough; one that does not say so is taken to be."""
        node = (
            next(iter(self._slots.values())) if self.server.cluster else self._node(self.server.host, self.server.port)
        )
        (answer,) = await node.calls.call(pack("INFO", "server"))
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
