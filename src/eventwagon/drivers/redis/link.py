"""The connections of this process to one server or cluster: all trains of an event loop that name it share them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Literal

import msgspec
from hiredis import pack_command
from redis import exceptions
from redis.crc import key_slot

from ...background import Background
from ...errors import StorageBroken
from ...sharing import Shared
from .errors import Lost, NotSent
from .notifier import Notifier
from .server import Server
from .wire import Answers, Wire

Argument = str | bytes | int
Lane = Literal["events", "registry"]
"""What a link is for: a check-in does not wait behind the events of a busy train."""

_HOPS = 12


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


class Link:
    """One connection for calls, one for publishing and one for notifications, to each server that is used; opened when
    they are first needed, and again after they broke. For one event loop."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._nodes: dict[tuple[str, int], _Node] = {}
        self._slots: dict[int, _Node] = {}
        self._background = Background()
        self._turn = 0
        self.notifier = Notifier(self._some)

    async def close(self) -> None:
        """Close all connections; unanswered calls are Lost. Idempotent."""
        await self._background.wait()
        for node in list(self._nodes.values()):
            await node.close()
        await self.notifier.close()

    def _some(self) -> Server:
        """One of the known servers, a different one each time: PUBLISH reaches all nodes of a cluster."""
        self._turn += 1
        places = list(self._nodes) or [(self._server.host, self._server.port)]
        return self._server.at(*places[self._turn % len(places)])

    async def wires(self) -> dict[str, Wire]:
        """The wire for calls to each server, by its address. Raises NotSent, StorageBroken."""
        if self._server.cluster:
            await self.learn()
            nodes = list(dict.fromkeys(self._slots.values()))
        else:
            nodes = [self._node(self._server.host, self._server.port)]
        return {f"{node.server.host}:{node.server.port}": node.calls for node in nodes}

    async def send(self, key: str, commands: list[bytes], wire: str = "calls") -> Answers:
        """The answers of these commands, all on the node of `key`. The first answer says if the key is on another
        node. The server's errors are returned. Raises NotSent, Lost."""
        packed = b"".join(commands)
        if not self._server.cluster:
            one: Wire = getattr(self._node(self._server.host, self._server.port), wire)
            answers = await one.call(packed, len(commands))
            if any(isinstance(answer, exceptions.ReadOnlyError) for answer in answers):
                one.renew(answers.connection)  # a failover: the address may lead to the new primary
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
                await self.learn()
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
            node = self._nodes[host, port] = _Node(self._server.at(host, port))
        return node

    async def _node_of(self, slot: int) -> _Node:
        if slot not in self._slots:
            await self.learn()
        try:
            return self._slots[slot]
        except KeyError:
            raise NotSent(f"no node of the cluster serves slot {slot}") from None

    async def learn(self) -> None:
        """Ask any node which node serves which slots. Raises NotSent, StorageBroken."""
        known = list(dict.fromkeys([*self._nodes, *self._server.places]))
        trouble: BaseException = NotSent("no node")
        for host, port in known:
            try:
                (answer,) = await self._node(host, port).calls.call(pack("CLUSTER", "SLOTS"))
            except (NotSent, Lost) as e:
                trouble = e
                continue
            if isinstance(answer, Exception):
                if "cluster support disabled" in str(answer):
                    raise StorageBroken(f"{self._server.where}: it is no cluster: leave cluster=true out of the URL")
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
                if place not in self._server.places:
                    self._background.start(self._nodes.pop(place).close())
            return
        raise NotSent(str(trouble)) from (trouble.__cause__ or trouble)


_links: Shared[Link] = Shared()


@asynccontextmanager
async def linked(server: Server, lane: Lane) -> AsyncIterator[Link]:
    """This event loop's link to the server, named by the same URL."""
    async with _links.use((lane, *_told_apart(server)), lambda: Link(server)) as link:
        yield link


def _told_apart(server: Server) -> tuple[Hashable, ...]:
    tls = None if server.tls is None else tuple(sorted(server.tls.items()))
    return type(server), *msgspec.structs.astuple(msgspec.structs.replace(server, tls=None)), tls
