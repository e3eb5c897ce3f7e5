"""Policies of a server that drop data: seen at every level, told, and what they take counts as lost, never as
settled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from eventwagon import Train, Volume
from eventwagon.contracts.broker import Depth, Subscription
from eventwagon.contracts.facts import ChannelThreatened, EventsLost, WagonRemoved
from eventwagon.drivers.pulsar import PulsarBroker, broker
from eventwagon.errors import ChannelGone, StorageBroken
from eventwagon.event import Channel
from eventwagon.views.train import look
from tests.pulsar.support import a_channel, events
from tests.servers.fixtures import missing
from tests.servers.install import Missing
from tests.servers.pulsar import PulsarServer

_CONFIG = {
    "systemTopicEnabled": "true",
    "topicLevelPoliciesEnabled": "true",
    "messageExpiryCheckIntervalInMinutes": "1",
    "backlogQuotaCheckIntervalInSeconds": "1",
    "brokerDeleteInactiveTopicsEnabled": "true",
    "brokerDeleteInactiveTopicsFrequencySeconds": "1",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PulsarServer]:
    """One that carries out its policies soon."""
    try:
        made = PulsarServer(tmp_path_factory.mktemp("pulsar"), config=_CONFIG)
    except Missing as why:
        raise missing(why) from None
    with made:
        yield made


@pytest.fixture(autouse=True)
def closely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "_POLICIES", 0.2)


class Place:
    """A namespace of its own, and what its admin may do to it."""

    def __init__(self, server: PulsarServer, http: httpx.AsyncClient, name: str) -> None:
        self.url = server.url.replace("public/default", name)
        self.name = name
        self._http = http

    async def put(self, path: str, body: object = None, *, method: str = "POST") -> None:
        (await self._http.request(method, path, json=body)).raise_for_status()

    async def set(self, policy: str, value: object) -> None:
        await self.put(f"namespaces/{self.name}/{policy}", value)

    async def set_own(self, channel: Channel, policy: str, value: object = None, **params: Any) -> None:
        """A policy of one topic; returns when the server has it."""
        path = f"persistent/{self.name}/{channel}/{policy}"
        (await self._http.post(path, json=value, params=params)).raise_for_status()
        async with asyncio.timeout(20):
            while (await self._http.get(path)).text in ("", "{}"):
                await asyncio.sleep(0.05)

    async def expire(self, channel: Channel) -> None:
        """By hand, as the message TTL does: all that is older than a second."""
        await asyncio.sleep(1.5)
        await self.put(f"persistent/{self.name}/{channel}/all_subscription/expireMessages/1")


@asynccontextmanager
async def a_place(server: PulsarServer) -> AsyncIterator[Place]:
    name = f"public/{a_channel().train}"
    async with httpx.AsyncClient(base_url=f"{server.admin_url}/admin/v2/", timeout=30) as http:
        (await http.put(f"namespaces/{name}", json={"bundles": {"numBundles": 1}})).raise_for_status()
        yield Place(server, http, name)


async def take(consumer: Subscription, count: int) -> list[Any]:
    got: list[Any] = []
    async with asyncio.timeout(20):
        while len(got) < count:
            got += await consumer.receive(count - len(got), 1.0)
    return got


async def until_threatened(broker: PulsarBroker, channel: Channel, what: str) -> None:
    """Policies are asked for behind the figures' back, each half minute."""
    async with asyncio.timeout(60):
        while what not in (await broker.depth([channel]))[0].trouble:
            await asyncio.sleep(0.2)


async def until(b: PulsarBroker, channel: Channel, **figures: object) -> Depth:
    """The depth, when it has these."""
    async with asyncio.timeout(100):
        while True:
            (depth,) = await b.depth([channel])
            if all(getattr(depth, name) == value for name, value in figures.items()):
                return depth
            await asyncio.sleep(0.2)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and r.name == "eventwagon.pulsar"]


QUOTA = {"limitSize": 10_000, "limitTime": -1, "policy": "consumer_backlog_eviction"}
INACTIVE = {
    "inactiveTopicDeleteMode": "delete_when_subscriptions_caught_up",
    "maxInactiveDurationSeconds": 1,
    "deleteWhileInactive": True,
}
POLICIES = [
    ("messageTTL", 3600, "message TTL of 3600 s", "set-message-ttl --messageTTL 0"),
    (
        "subscriptionExpirationTime",
        60,
        "subscriptions expire after 60 min",
        "set-subscription-expiration-time --time 0",
    ),
    ("backlogQuota", QUOTA, "backlog quota of 10000 bytes", "remove-backlog-quota --type destination_storage"),
    ("inactiveTopicPolicies", INACTIVE, "deleted when they are caught up", "remove-inactive-topic-policies"),
]


def test_a_namespace_that_drops_events(server: PulsarServer, caplog: pytest.LogCaptureFixture) -> None:
    """It takes no new channel, and what stands there can be drained; each policy is named, with what to do."""

    async def main() -> None:
        for policy, value, what, todo in POLICIES:
            async with a_place(server) as place:
                async with PulsarBroker.from_url(place.url) as ours:
                    assert [f.severity for f in await ours.inspect([])] == ["fine"]
                    await ours.create(channel := a_channel())
                    await ours.publish(channel, events(2))
                    (depth,) = await ours.depth([channel])
                    assert depth.trouble == ""
                await place.set(policy, value)
                caplog.clear()
                async with PulsarBroker.from_url(place.url) as ours:
                    assert what in warnings(caplog)[0]
                    with pytest.raises(StorageBroken, match=what) as refused:
                        await ours.create(a_channel())
                    assert f"namespaces {todo} {place.name}" in str(refused.value)
                    (finding,) = await ours.inspect([channel])
                    assert (finding.severity, what in finding.what, todo in finding.todo) == ("loses", True, True)
                    async with ours.consume(channel, visibility=30.0) as consumer:
                        await consumer.settle(await take(consumer, 2))
                    depth = await until(ours, channel, settled=2, published=2, lost=0)
                    assert what in depth.trouble

    asyncio.run(main())


def test_a_topic_that_drops_events(server: PulsarServer) -> None:
    """Its own policies count before the namespace's; a topic that is there already is taken only if it keeps all."""

    async def main() -> None:
        async with a_place(server) as place, PulsarBroker.from_url(place.url) as ours:
            await ours.create(channel := a_channel())
            await place.set_own(channel, "messageTTL", messageTTL=3600)
            await until(ours, channel, published=0)
            (depth,) = await ours.depth([channel])
            assert "topic: message TTL of 3600 s" in depth.trouble
            assert f"topicPolicies remove-message-ttl persistent://{place.name}/{channel}" in depth.trouble
            assert [f.severity for f in await ours.inspect([])] == ["fine"]
            findings = await ours.inspect([channel, a_channel()])
            assert [f.what for f in findings if f.severity == "loses"] == [
                f"channel {channel}, topic: message TTL of 3600 s"
            ]
            with pytest.raises(StorageBroken, match="topic: message TTL"):
                await ours.create(channel)
            await ours.create(a_channel())
            await place.set("messageTTL", 60)
            await place.set_own(channel, "messageTTL", messageTTL=0)
            await until(ours, channel, trouble="")

    asyncio.run(main())


def test_a_server_that_drops_events(server: PulsarServer) -> None:
    """Its defaults hold where neither the topic nor the namespace says otherwise."""

    async def main() -> None:
        async with a_place(server) as place, PulsarBroker.from_url(place.url) as ours:
            setting = "brokers/configuration/brokerDeleteInactiveTopicsMode"
            await place.put(f"{setting}/delete_when_subscriptions_caught_up")
            try:
                async with asyncio.timeout(20):
                    while (found := await ours.inspect([]))[0].severity != "loses":
                        await asyncio.sleep(0.1)
                assert found[0].what == "server: inactive topics are deleted when they are caught up"
                with pytest.raises(StorageBroken, match="or change the server's configuration"):
                    await ours.create(a_channel())
                await place.set("inactiveTopicPolicies", INACTIVE | {"deleteWhileInactive": False})
                await ours.create(a_channel())
            finally:
                await place.put(f"{setting}/delete_when_no_subscriptions")

    asyncio.run(main())


def test_what_expired_by_hand_is_lost(server: PulsarServer, caplog: pytest.LogCaptureFixture) -> None:
    """Exactly what nobody had settled, told once; who comes later knows the same; the rest drains."""

    async def main() -> None:
        async with a_place(server) as place, PulsarBroker.from_url(place.url) as ours:
            await ours.create(channel := a_channel())
            await ours.publish(channel, events(10))
            async with PulsarBroker.from_url(place.url) as other, other.consume(channel, visibility=30.0) as consumer:
                got = await take(consumer, 10)
                await consumer.settle([got[0], got[5], got[6]])
                await until(ours, channel, settled=3)
            await place.expire(channel)
            await until(ours, channel, published=3, settled=3, lost=7)  # the server expires after it has answered
            assert len(told := [w for w in warnings(caplog) if "lost" in w]) == 1
            assert f"channel {channel} at " in told[0]
            assert "lost 7 events" in told[0]
            await ours.publish(channel, more := events(4))
            await place.put(f"persistent/{place.name}/{channel}/unload", method="PUT")
            async with PulsarBroker.from_url(place.url) as later:
                await until(later, channel, published=7, settled=3, lost=7)
                assert [event.id async for event in later.read(channel)] == [event.id for event in more]
                async with later.consume(channel, visibility=30.0) as consumer:
                    await consumer.settle((await take(consumer, 4))[:3])
                    await until(later, channel, settled=6)
                await place.expire(channel)
                await until(later, channel, published=6, settled=6, lost=8)
            await until(ours, channel, published=6, settled=6, lost=8)
            assert "lost 1 event that" in warnings(caplog)[-1]
            # both have passed the first ledger: it is no more, and counts all the same
            await place.put(f"persistent/{place.name}/{channel}/unload", method="PUT")
            async with PulsarBroker.from_url(place.url) as later:
                await until(later, channel, published=6, settled=6, lost=8)

    asyncio.run(main())


def test_what_was_evicted_from_a_long_backlog_is_lost(server: PulsarServer) -> None:
    async def main() -> None:
        async with a_place(server) as place, PulsarBroker.from_url(place.url) as ours:
            await ours.create(channel := a_channel())
            await ours.publish(channel, events(10, b"x" * 1000))
            async with ours.consume(channel, visibility=30.0) as consumer:
                await consumer.settle(await take(consumer, 5))
                await until(ours, channel, settled=5)
            await place.set("backlogQuota", QUOTA | {"limitSize": 20_000})
            await ours.publish(channel, events(50, b"x" * 1000))
            async with asyncio.timeout(60):
                while not (depth := (await ours.depth([channel]))[0]).lost:
                    await asyncio.sleep(0.1)
            assert "consumer_backlog_eviction" in depth.trouble
            await asyncio.sleep(3)  # it looks each second
            (depth,) = await ours.depth([channel])
            assert depth.published is not None
            assert (depth.published + depth.lost, depth.settled) == (60, 5)
            left = [event async for event in ours.read(channel)]
            assert len(left) == depth.published - 5 <= 20
            async with ours.consume(channel, visibility=30.0) as consumer:
                await consumer.settle(await take(consumer, len(left)))
                await until(ours, channel, settled=depth.published, published=depth.published, lost=depth.lost)

    asyncio.run(main())


def test_a_topic_that_is_deleted_when_it_is_caught_up(server: PulsarServer) -> None:
    """One that holds events stays; one that is empty vanishes, as was told before."""

    async def main() -> None:
        async with a_place(server) as place, PulsarBroker.from_url(place.url) as ours:
            await ours.create(empty := a_channel())
            await ours.create(full := a_channel())
            async with PulsarBroker.from_url(place.url) as other:
                await other.publish(full, events(1))
            for channel in (empty, full):
                await place.set_own(channel, "inactiveTopicPolicies", INACTIVE | {"maxInactiveDurationSeconds": 3})
            (depth,) = await ours.depth([empty])
            assert "topic: inactive topics are deleted when they are caught up" in depth.trouble
            await until(ours, empty, published=None)
            with pytest.raises(ChannelGone):
                await ours.publish(empty, events(1))
            async with ours.consume(full, visibility=30.0) as consumer:
                await consumer.settle(await take(consumer, 1))
                await until(ours, full, published=1, settled=1, lost=0)

    asyncio.run(main())


def test_the_subscription_of_totals_is_made_anew(server: PulsarServer, caplog: pytest.LogCaptureFixture) -> None:
    """Where it expired, having no consumers, before that of the events."""

    async def main() -> None:
        async with a_place(server) as place, PulsarBroker.from_url(place.url) as ours:
            await ours.create(channel := a_channel())
            await ours.publish(channel, events(5))
            async with ours.consume(channel, visibility=30.0) as consumer:
                await consumer.settle(await take(consumer, 2))
                await until(ours, channel, settled=2)
                path = f"persistent/{place.name}/{channel}/subscription/eventwagon-totals"
                await place.put(f"{path}?force=true", method="DELETE")
                await until(ours, channel, published=5, settled=2, lost=0)
                assert "made anew" in warnings(caplog)[-1]
                await consumer.settle(await take(consumer, 3))
                await until(ours, channel, published=5, settled=5, lost=0)

    asyncio.run(main())


def test_a_channel_whose_subscriptions_expired(server: PulsarServer, caplog: pytest.LogCaptureFixture) -> None:
    """They are made anew: what still stands comes again, what went meanwhile is lost, and the channel drains."""

    async def main() -> None:
        async with a_place(server) as place, PulsarBroker.from_url(place.url) as ours:
            await ours.create(channel := a_channel())
            await ours.publish(channel, events(5))
            async with PulsarBroker.from_url(place.url) as other, other.consume(channel, visibility=30.0) as consumer:
                await consumer.settle((await take(consumer, 5))[1:3])
                await until(ours, channel, settled=2)
            await place.put(f"persistent/{place.name}/{channel}/unload", method="PUT")  # and so a new ledger
            await ours.publish(channel, more := events(3))
            await until(ours, channel, published=8, settled=2)
            path = f"persistent/{place.name}/{channel}"
            for name in ("eventwagon-totals", "eventwagon"):
                await place.put(f"{path}/subscription/{name}?force=true", method="DELETE")
            await asyncio.sleep(1)  # the first ledger goes
            await until(ours, channel, published=5, settled=2, lost=3)
            assert any("has no subscription eventwagon any more" in w and "made anew" in w for w in warnings(caplog))
            async with ours.consume(channel, visibility=30.0) as consumer:
                got = await take(consumer, 3)
                assert [d.event.id for d in got] == [e.id for e in more]
                await consumer.settle(got)
            await until(ours, channel, published=5, settled=5, lost=3)
            for name in ("eventwagon-totals", "eventwagon"):
                await place.put(f"{path}/subscription/{name}?force=true", method="DELETE")
            async with ours.consume(channel, visibility=30.0) as consumer:  # who attaches makes them anew, too
                await consumer.settle(await consumer.receive(5, 1.0))
            (depth,) = await ours.depth([channel])
            assert depth.published == depth.settled

    asyncio.run(main())


def test_a_train_tells_what_it_lost(server: PulsarServer, tmp_path: Path) -> None:
    """Threat and loss stand in the journal and in status, once each; the wagon drains and goes all the same."""

    async def main() -> None:
        async with a_place(server) as place:
            train = Train(a_channel().train, limit=Volume(50), observe_every=0.2)
            ingress = Channel(train.name, 1)
            handled: list[int] = []

            @train.on(train.name)
            async def handle(payload: dict[str, int]) -> None:
                handled.append(payload["n"])

            url = f"{place.url}&registry={quote(f'sqlite:///{tmp_path}', safe='')}"
            async with train.connect(url) as connection:
                await connection.publish_many([{"n": n} for n in range(6)])
                async with PulsarBroker.from_url(place.url) as other:
                    await other.depth([ingress])
                    await place.expire(ingress)
                    await until(other, ingress, published=0, lost=6)
                await connection.publish_many([{"n": n} for n in range(6, 8)])
                await place.set("messageTTL", 3600)
                view = await look(connection, url)
                assert [w.lost for w in view.wagons] == [6]
                async with asyncio.timeout(60):  # it is asked for each half minute
                    while not (view := await look(connection, url)).threatened:
                        await asyncio.sleep(0.5)
                assert "message TTL of 3600 s" in view.threatened[0]
                async with asyncio.timeout(60), connection.running():
                    facts: list[object] = []
                    while len(handled) < 2 or not any(isinstance(f, ChannelThreatened) for f in facts):
                        await asyncio.sleep(0.2)
                        facts = [entry.fact async for entry in connection.journal()]
                    await place.set("messageTTL", 0)
                    await connection.request_switch("by hand")
                    while not any(isinstance(f, WagonRemoved) for f in facts):
                        await asyncio.sleep(0.2)
                        facts = [entry.fact async for entry in connection.journal()]
                assert [(f.number, f.count, f.total) for f in facts if isinstance(f, EventsLost)] == [(1, 6, 6)]
                assert "message TTL" in next(f.because for f in facts if isinstance(f, ChannelThreatened))
                (removed,) = (f for f in facts if isinstance(f, WagonRemoved))
                assert (removed.wagon.published, removed.wagon.settled, removed.wagon.lost) == (2, 2, 6)
                assert sorted(handled) == [6, 7]

    asyncio.run(main())


@pytest.mark.slow
def test_what_the_message_ttl_takes_is_lost(server: PulsarServer, caplog: pytest.LogCaptureFixture) -> None:
    """By the server's own doing, which looks each minute."""

    async def main() -> None:
        async with a_place(server) as place, PulsarBroker.from_url(place.url) as ours:
            await ours.create(channel := a_channel())
            await ours.publish(channel, events(10))
            async with ours.consume(channel, visibility=30.0) as consumer:
                await consumer.settle((await take(consumer, 10))[2:5])
                await until(ours, channel, settled=3)
            await place.set("messageTTL", 1)
            depth = await until(ours, channel, lost=7)
            assert (depth.published, depth.settled) == (3, 3)
            assert "message TTL of 1 s" in depth.trouble
            assert "lost 7 events" in warnings(caplog)[-1]
            await place.set("messageTTL", 0)
            await ours.publish(channel, events(2))
            async with ours.consume(channel, visibility=30.0) as consumer:
                await consumer.settle(await take(consumer, 2))
            await until(ours, channel, published=5, settled=5, lost=7, trouble="")

    asyncio.run(main())
