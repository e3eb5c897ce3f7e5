"""The shipped IAM policies: with them each role does its work, and nothing that is another's. See iam.py for who
judges."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from contextvars import copy_context
from secrets import token_hex
from typing import Any

import pytest
from msgspec.structs import replace

from eventwagon import Connection, Context, Train, Volume, Workers
from eventwagon.contracts.facts import Entry, StopRequested, WagonRemoved
from eventwagon.contracts.manifest import Manifest
from eventwagon.contracts.orchestrator import WagonSpec
from eventwagon.contracts.registry import Member
from eventwagon.drivers.aws import SQSBroker
from eventwagon.drivers.aws.errors import AWSRefused
from eventwagon.drivers.aws.place import Place, parse
from eventwagon.drivers.aws.registry import DynamoDBRegistry
from eventwagon.errors import StorageBroken, TrainRemoved, UsageError
from eventwagon.event import DEAD, Channel
from eventwagon.orchestrators.aws import ECSServices, LambdaMappings
from tests.aws import iam
from tests.aws.agent import a_cluster
from tests.aws.instance import Clock
from tests.aws.poller import a_function
from tests.aws.support import QUICK, a_channel, clients_of, events, queues_of
from tests.aws.test_handler import Mapping
from tests.aws.test_mappings import READY, answers, tell
from tests.servers.moto import MotoServer
from tests.support import Silence, journal, until

ROLES = ("publisher", "worker", "observer", "function")
_SELDOM = {  # what each role may do and did not have to, with its reason
    "publisher": {
        ("publisher:Counters", "dynamodb:BatchGetItem"),  # a publish that is refused, or warms up
        ("publisher:Removals", "dynamodb:GetItem"),  # it slept while its train was removed
        ("publisher:Removals", "dynamodb:Query"),
    },
    "worker": {
        ("worker:Members", "dynamodb:BatchWriteItem"),  # members long gone are removed by who lists them
        ("worker:Journal", "dynamodb:BatchWriteItem"),  # a breaker has opened
        ("worker:Journal", "dynamodb:Query"),
        ("worker:JournalHead", "dynamodb:UpdateItem"),
        ("worker:JournalHead", "dynamodb:GetItem"),  # it slept while its train was removed
    },
    "observer": {
        ("observer:Members", "dynamodb:BatchWriteItem"),
        ("observer:Manifest", "dynamodb:Query"),  # `status` of all trains
    },
    "function": {  # what Lambda's own polling needs
        ("function:Queues", "sqs:ReceiveMessage"),
        ("function:Queues", "sqs:GetQueueAttributes"),
        ("function:Counters", "dynamodb:BatchGetItem"),  # an emit to a channel that is gone
    },
}


def a_place(server: MotoServer, prefix: str = "") -> str:
    return server.url.replace("/ew?", f"/{prefix or f'p{token_hex(4)}'}?") + "&resend=3&poll=0.3"


def policies(*names: str, url: str, **words: str) -> list[dict[str, object]]:
    place = parse(url)
    return [dict(s) for s in iam.statements(*names, PREFIX=place.prefix, TABLE=place.table, **words)]


def account(url: str) -> iam.Iam:
    """Where each role has its own policy, and a role without a name may do everything."""
    judge = iam.Iam()
    judge.policies = {role: policies(role, url=url) for role in ROLES}
    return judge


async def as_role(role: str, step: Callable[[], Awaitable[None]]) -> None:
    with iam.acting(role):
        await step()


def the_train(name: str, handled: Counter[int], *, later: int | None = None) -> Train:
    train = Train(name, limit=Volume(10), workers=Workers(total=2), spares=0, backoff=0.1, attempts=2, **QUICK)

    @train.on(name)
    async def first(number: int, ctx: Context) -> None:
        if number == 3:
            raise RuntimeError("never")
        await ctx.emit("mail", number, after=1.0 if number == later else None)

    @train.on("mail")
    async def mail(number: int) -> None:
        handled[number] += 1

    return train


def test_each_role_does_its_work_with_its_own_rights_and_needs_them_all(moto_server: MotoServer) -> None:
    """Observer, worker and publisher through a switch, a retry, a dead letter and a wagon's removal."""
    url, name = a_place(moto_server), f"train_{token_hex(4)}"
    judge, handled = account(url), Counter[int]()
    made, over = asyncio.Event(), asyncio.Event()

    async def observe() -> None:
        train = the_train(name, handled)

        @train.every(2.0)
        def tick() -> int:
            return 21

        async with train.connect(url) as connection, connection.running(work=False):
            made.set()
            async with asyncio.timeout(100):
                while not any(isinstance(entry.fact, WagonRemoved) for entry in await journal(connection)):
                    await asyncio.sleep(0.5)
                await until(lambda: handled.keys() >= {1, 20, 21}, step=0.2)
            assert {letter.data async for letter in connection.dead_letters()} == {b"3"}
            over.set()

    async def work() -> None:
        await made.wait()
        train = the_train(name, handled, later=1)
        async with train.connect(url) as connection, connection.running(observe=False):
            await over.wait()
            await until(lambda: handled.keys() >= {1, 20, 21})

    async def publish() -> None:
        await made.wait()
        async with the_train(name, handled).connect(url) as connection:
            await connection.publish(20, after=3.0)
            assert await connection.cancel(await connection.publish(30, after=600.0))
            for number in range(14):
                await connection.publish(number)
            await over.wait()

    async def run() -> None:
        async with SQSBroker.from_url(url):
            pass  # the table is there before its users
        async with asyncio.TaskGroup() as group:
            for role, step in (("observer", observe), ("worker", work), ("publisher", publish)):
                group.create_task(as_role(role, step))

    with judge.enforced():
        asyncio.run(run())
    assert not judge.denied
    assert handled.keys() >= set(range(10)) - {3}
    for role in ROLES[:3]:
        assert judge.unused(role) <= _SELDOM[role], role


class DeafRegistry(DynamoDBRegistry):
    """Of a process that sleeps until it asks by itself."""

    def watch(self, train: str) -> Any:
        return Silence()


@pytest.mark.parametrize("role", ["publisher", "worker"])
def test_one_that_slept_through_a_removal_is_told_with_its_own_rights(moto_server: MotoServer, role: str) -> None:
    """It learns it from the journal that all trains share; a publisher reads no other."""
    url, name = a_place(moto_server), f"train_{token_hex(4)}"
    judge, handled = account(url), Counter[int]()

    async def run() -> None:
        async with AsyncExitStack() as stack:
            async with the_train(name, handled).connect(url) as hand:
                await hand.found()
            with iam.acting(role):
                asleep = the_train(name, handled).connect(
                    broker=SQSBroker.from_url(url), registry=DeafRegistry.from_url(url)
                )
                sleeper = await stack.enter_async_context(asleep)
                await sleeper.publish(1)
            async with Train(name).connect(url) as hand:
                await hand.remove(force=True, by="somebody")
            with iam.acting(role), pytest.raises(TrainRemoved, match="is removed by somebody"):
                await sleeper.refresh()
            async with DynamoDBRegistry(parse(url)) as registry:
                with iam.acting("publisher"), pytest.raises(StorageBroken, match="AWS does not allow it"):
                    assert [entry async for entry in registry.entries(name)]

    with judge.enforced():
        asyncio.run(run())
    assert [(who, right.action) for who, right in judge.denied] == [("publisher", "dynamodb:GetItem")]


def test_a_function_works_with_its_own_rights(moto_server: MotoServer) -> None:
    url, handled = a_place(moto_server), Counter[int]()
    judge, train = account(url), the_train(f"train_{token_hex(4)}", handled, later=2)
    first, mail, dead = Channel(train.name, 1), Channel(train.name, 1, "mail"), Channel(train.name, 1, DEAD)

    async def run() -> None:
        async with SQSBroker.from_url(url) as broker, Mapping(train, url, broker) as mapping:
            for channel in (first, mail, dead):
                await broker.create(channel)
            await broker.publish(first, [replace(event, data=b"%d" % n) for n, event in enumerate(events(3), 2)])

            async def call(channel: Channel) -> None:
                records = await mapping.batch(channel)
                with iam.acting("function"):
                    context = copy_context()
                await asyncio.get_running_loop().run_in_executor(
                    mapping.thread, context.run, mapping.function, {"Records": records}, Clock(20.0)
                )

            async with asyncio.timeout(60):
                while len(handled) < 1 or not [1 async for _ in broker.read(dead)]:
                    await call(first)
                    await call(mail)
            message = (await mapping.batch(first) or await mapping.batch(mail))[:1]
            assert message == []  # nothing is left
            assert [event.data async for event in broker.timetable.entries(train.name)] == [b"2"]

    with judge.enforced():
        asyncio.run(run())
    assert not judge.denied
    assert handled.keys() == {4}
    assert judge.unused("function") <= _SELDOM["function"]


def a_spec(train: str, *, workers: int = 2) -> WagonSpec:
    dead = Channel(train, 1, DEAD)
    return WagonSpec(train=train, number=1, unit=1, channels=(Channel(train, 1),), dead_letters=dead, workers=workers)


def test_an_observer_maps_queues_to_a_function_with_its_own_rights(moto_server: MotoServer) -> None:
    url, function = a_place(moto_server), f"f_{token_hex(4)}"
    judge, spec = account(url), a_spec(f"train_{token_hex(4)}")
    judge.policies["observer"] = policies("observer", "lambda-orchestrator", url=url, FUNCTION=function)
    tell(moto_server, "config", {"lambda": {"use_docker": False}})
    answers(moto_server, READY)

    async def run() -> None:
        mappings = LambdaMappings(function, parse(url))
        async with SQSBroker.from_url(url) as broker, mappings:
            await a_function(clients_of(broker), function, timeout=20)
            iam.know_mappings(clients_of(mappings))
            with iam.acting("observer"):
                await broker.create(spec.channels[0])
                await mappings.ensure(spec)
                assert (await mappings.deployments(spec.train))[1].ready
                await mappings.ensure(a_spec(spec.train, workers=5))
                await mappings.remove(spec.train, 1, grace=1.0)
                other = LambdaMappings("another", parse(url))
                async with other:
                    with pytest.raises(StorageBroken, match=r"AWS does not allow it.*GetFunctionConfiguration"):
                        await other.ensure(spec)
                    assert len(judge.denied) == 1

    with judge.enforced():
        asyncio.run(run())
    assert not {each for each in judge.unused("observer") if each[0].startswith("lambda")}


def test_an_observer_makes_services_with_its_own_rights(moto_server: MotoServer) -> None:
    url, cluster = a_place(moto_server), f"c{token_hex(4)}"
    judge, spec = account(url), a_spec(f"train_{token_hex(4)}")
    roles = {"TASK_ROLE_ARN": "arn:aws:iam::1:role/task", "EXECUTION_ROLE_ARN": "arn:aws:iam::1:role/execution"}
    judge.policies["observer"] = policies("observer", "ecs-orchestrator", url=url, CLUSTER=cluster, **roles)

    async def run() -> None:
        place = parse(url)
        services = ECSServices(
            "app:signups",
            cluster=cluster,
            task=f"{cluster}-task",
            container="worker",
            registry=DynamoDBRegistry(place),
            place=place,
        )
        async with SQSBroker.from_url(url) as broker, services:
            made = await a_cluster(clients_of(broker), cluster, {})
            content = {k: made["taskDefinition"][k] for k in ("family", "containerDefinitions", "cpu", "memory")}
            arns = dict(zip(("taskRoleArn", "executionRoleArn"), roles.values(), strict=True))
            await clients_of(broker).call("ecs", "register_task_definition", **content, **arns)
            with iam.acting("observer"):
                await services.ensure(spec)
                await services.ensure(a_spec(spec.train, workers=3))
                assert not (await services.deployments(spec.train))[1].ready
                await services.remove(spec.train, 1, grace=1.0)

    with judge.enforced():
        asyncio.run(run())
    assert not judge.denied
    assert not {each for each in judge.unused("observer") if each[0].startswith("ecs")}


_ENTRIES = [Entry(0.0, "x", StopRequested(train="t", because=""))]
FORBIDDEN: dict[str, Callable[[SQSBroker, DynamoDBRegistry, Channel], Awaitable[object]]] = {
    "make a channel": lambda broker, _, channel: broker.create(channel),
    "delete a channel": lambda broker, _, channel: broker.delete(channel),
    "switch": lambda _, registry, channel: registry.replace(channel.train, Manifest(train=channel.train), expect=0),
    "list the channels": lambda broker, _, channel: broker.channels(channel.train),
    "browse events": lambda broker, _, channel: _browse(broker, channel),
    "receive": lambda broker, _, channel: _receive(broker, channel),
    "write the journal": lambda _, registry, channel: registry.append(channel.train, _ENTRIES),
    "read who is alive": lambda _, registry, channel: registry.members(channel.train),
}


async def _browse(broker: SQSBroker, channel: Channel) -> None:
    assert [event async for event in broker.read(channel)]


async def _receive(broker: SQSBroker, channel: Channel) -> None:
    async with broker.consume(channel, visibility=1) as consumer:
        await consumer.receive(1, 0.0)


@pytest.mark.parametrize(
    ("role", "deeds"),
    [
        ("publisher", sorted(FORBIDDEN)),
        ("worker", ["browse events", "delete a channel", "list the channels", "make a channel", "switch"]),
        ("observer", ["receive"]),
        ("function", [each for each in sorted(FORBIDDEN) if each not in ("receive", "list the channels")]),
    ],
)
def test_what_is_anothers_work_is_refused_and_told(moto_server: MotoServer, role: str, deeds: list[str]) -> None:
    url, channel = a_place(moto_server), a_channel()
    judge = account(url)

    async def run() -> None:
        place = parse(url)
        async with SQSBroker(place) as broker, DynamoDBRegistry(place) as registry:
            await broker.create(channel)
            await broker.publish(channel, events(1))
            for deed in deeds:
                with iam.acting(role), pytest.raises(StorageBroken, match="AWS does not allow it") as refused:
                    await FORBIDDEN[deed](broker, registry, channel)
                assert "docs/brokers/sqs.md" in str(refused.value), deed
            assert (await broker.depth([channel]))[0].published == 1
            await broker.delete(channel)

    with judge.enforced():
        asyncio.run(run())


@pytest.mark.parametrize("role", ROLES)
def test_no_role_reaches_another_installation(moto_server: MotoServer, role: str) -> None:
    """In one account and one table, with another prefix: even one that begins with the same letters."""
    url = a_place(moto_server)
    others = Place(region="eu-west-1", prefix=f"{parse(url).prefix}x", endpoint=moto_server.endpoint)
    judge, channel = account(url), a_channel()

    async def run() -> None:
        async with SQSBroker(others) as broker, DynamoDBRegistry(others) as registry:
            await broker.create(channel)
            await broker.publish(channel, events(1))
            me = Member(name="me")
            deeds: list[Callable[[], Awaitable[object]]] = [
                lambda: broker.publish(channel, events(1)),
                lambda: registry.read(channel.train),
                lambda: registry.check_in(channel.train, me, ttl=5.0),
                *(lambda deed=deed: deed(broker, registry, channel) for deed in FORBIDDEN.values()),
            ]
            for deed in deeds:
                with iam.acting(role), pytest.raises(StorageBroken, match="AWS does not allow it"):
                    await deed()
            assert (await broker.depth([channel]))[0].published == 1
            await broker.delete(channel)

    with judge.enforced():
        asyncio.run(run())


def test_two_installations_of_one_train_never_meet(moto_server: MotoServer) -> None:
    """The same train at the same time, in one account and table, with two prefixes."""
    name, urls = f"train_{token_hex(4)}", [a_place(moto_server), a_place(moto_server)]
    handled = [Counter[int](), Counter[int]()]

    async def run() -> None:
        trains = [the_train(name, each) for each in handled]
        async with trains[0].connect(urls[0]) as a, trains[1].connect(urls[1]) as b, a.running(), b.running():
            for number in range(4, 16):
                await (a, b)[number % 2].publish(number)
            await until(lambda: sum(map(len, handled)) == 12, seconds=60, step=0.2)
            channels = [set(await each.broker.channels(name)) for each in (a, b)]
            assert channels[0] & channels[1]  # the same names in the pattern, other queues
            for each in channels[1]:
                await _broker(b).delete(each)
            await a.publish(16)
            await until(lambda: handled[0][16] == 1, seconds=60, step=0.2)

    asyncio.run(run())
    assert handled[0].keys() == {*range(4, 16, 2), 16}
    assert handled[1].keys() == set(range(5, 16, 2))


def _broker(connection: Connection) -> SQSBroker:
    assert isinstance(connection.broker, SQSBroker)
    return connection.broker


@pytest.mark.parametrize(
    ("mine", "theirs", "says"),
    [
        (("a", "eventwagon", "b-{}"), ("a-b", "eventwagon", "{}"), "with prefix a-b and table eventwagon"),
        (("a", "eventwagon", "{}"), ("a", "another", "{}"), "with prefix a and table another"),
    ],
)
def test_names_that_meet_are_refused_and_nothing_is_taken(
    moto_server: MotoServer, mine: tuple[str, str, str], theirs: tuple[str, str, str], says: str
) -> None:
    word = f"t{token_hex(3)}"

    def there(who: tuple[str, str, str]) -> tuple[Place, Channel]:
        place = Place(region="eu-west-1", prefix=who[0], table=who[1], endpoint=moto_server.endpoint)
        return place, Channel(who[2].format(word), 1)

    async def run() -> None:
        (place, channel), (other, taken) = there(mine), there(theirs)
        assert place.queue(channel) == other.queue(taken)
        async with SQSBroker(place) as broker, SQSBroker(other) as others:
            await others.create(taken)
            await others.publish(taken, events(1))
            with pytest.raises(StorageBroken, match=says):
                await broker.create(channel)
            await broker.delete(channel)  # as a sweep would: it is listed
            assert await broker.channels(channel.train) == []
            async with others.consume(taken, visibility=5) as consumer:
                assert len(await consumer.receive(1, 5.0)) == 1
            await others.delete(taken)

    asyncio.run(run())


def test_a_queue_that_eventwagon_did_not_make_is_not_taken(moto_server: MotoServer) -> None:
    async def run() -> None:
        channel = a_channel()
        async with SQSBroker.from_url(moto_server.url) as broker:
            name = broker.name_of(channel)
            await clients_of(broker).call("sqs", "create_queue", QueueName=name)
            with pytest.raises(StorageBroken, match="was not made by eventwagon; choose another"):
                await broker.create(channel)
            await broker.delete(channel)
            await clients_of(broker).call("sqs", "get_queue_url", QueueName=name)

    asyncio.run(run())


def test_a_queue_of_an_earlier_release_is_known_by_its_train(moto_server: MotoServer) -> None:
    async def run() -> None:
        channel = a_channel()
        async with SQSBroker.from_url(moto_server.url) as broker:
            tags = {"eventwagon-train": channel.train, "eventwagon-wagon": "1"}
            await clients_of(broker).call("sqs", "create_queue", QueueName=broker.name_of(channel), tags=tags)
            await broker.create(channel)
            await broker.delete(channel)
            with pytest.raises(AWSRefused):
                await queues_of(broker).in_sight(channel)

    asyncio.run(run())


def test_a_service_of_somebody_else_is_left_alone(moto_server: MotoServer) -> None:
    """One that has the very name, and a family of task definitions that has it."""

    async def run() -> None:
        cluster, place = f"c{token_hex(4)}", parse(a_place(moto_server))
        spec = a_spec(f"train_{token_hex(4)}")
        services = ECSServices(
            "app:signups",
            cluster=cluster,
            task=f"{cluster}-task",
            container="worker",
            registry=DynamoDBRegistry(place),
            place=place,
        )
        async with services:
            clients, name = clients_of(services), services.name(spec.train, 1)
            await a_cluster(clients, cluster, {})
            task = {"containerDefinitions": [{"name": "theirs", "image": "theirs:1", "memory": 64}]}
            await clients.call("ecs", "register_task_definition", family=name, **task)
            with pytest.raises(UsageError, match=f"the task definitions {name} was not made by eventwagon"):
                await services.ensure(spec)
            await services.remove(spec.train, 1, grace=0.0)
            given = {"cluster": cluster, "serviceName": name, "taskDefinition": name, "desiredCount": 0}
            await clients.call("ecs", "create_service", **given)
            await clients.call("ecs", "deregister_task_definition", taskDefinition=f"{name}:1")
            with pytest.raises(UsageError, match=f"the service {name} in cluster {cluster} was not made by eventwagon"):
                await services.ensure(spec)
            deployment = (await services.deployments(spec.train))[1]
            assert not deployment.ready
            assert "was not made by eventwagon" in deployment.trouble
            await services.remove(spec.train, 1, grace=0.0)
            found = await clients.call("ecs", "describe_services", cluster=cluster, services=[name])
            assert [each["status"] for each in found["services"]] == ["ACTIVE"]
            assert await services.deployments(spec.train) == {}

    asyncio.run(run())
