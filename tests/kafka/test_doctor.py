"""What `doctor` says of a real Kafka, and that it leaves nothing there."""

from __future__ import annotations

import asyncio
import signal

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the package exports them without saying so
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)
from typer.testing import CliRunner

from eventwagon import Train
from eventwagon.cli.app import app
from eventwagon.cli.target import reached
from eventwagon.drivers.kafka.inspection import findings_of_server, findings_of_topic
from eventwagon.errors import Unavailable, UnknownTrain
from tests import doctors
from tests.servers.kafka import KafkaCluster
from tests.servers.ports import free_port
from tests.servers.server import Server
from tests.support import until

KEPT = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}


def admin(url: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": url.removeprefix("kafka://").partition("?")[0]})


def standing(url: str) -> object:
    client = admin(url)
    groups = client.list_consumer_groups().result()
    return sorted(client.list_topics(timeout=10).topics), sorted(group.group_id for group in groups.valid)


def of_prefix(url: str, prefix: str) -> list[str]:
    client = admin(url)
    return [topic for topic in client.list_topics(timeout=10).topics if topic.startswith(prefix)]


def alter(url: str, topic: str, name: str, value: str) -> None:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    client = admin(url)
    client.incremental_alter_configs([resource])[resource].result(10)


@pytest.mark.slow
def test_it_leaves_no_topic_and_no_group(kafka_server: Server) -> None:
    prefix, groups = "doctored.", standing(kafka_server.url)[1]  # type: ignore[index]
    url = f"{kafka_server.url}?topic_prefix={prefix}"
    doctors.leaves_nothing(url, lambda: of_prefix(url, prefix), doctors.FEW)
    assert standing(kafka_server.url)[1] == groups  # type: ignore[index]


def test_a_port_where_nobody_listens_is_told_once() -> None:
    """The driver opens without a server; nothing is made there that could be left behind."""
    done = CliRunner().invoke(app, ["doctor", f"kafka://127.0.0.1:{free_port()}?timeout=1"])
    assert done.exit_code == 1
    (told,) = (line for line in done.stdout.splitlines() if line.startswith(("✓", "✗")))
    assert told.startswith("✗ connect: ")
    assert "no server listens there: check host and port" in told
    assert "left behind" not in done.stdout
    assert done.stderr.startswith("eventwagon: the broker does not answer: is it running")


def test_nor_when_interrupted(kafka_server: Server) -> None:
    prefix = "interrupted."
    url = f"{kafka_server.url}?topic_prefix={prefix}"
    doctors.interrupt(url, lambda: bool(of_prefix(url, prefix)), signal.SIGINT)
    assert of_prefix(url, prefix) == []


def test_settings_of_the_server_and_of_new_topics(kafka_server: Server) -> None:
    """Under a prefix of its own: trains that other tests have left would be looked at, too."""
    found = doctors.findings(f"{kafka_server.url}?topic_prefix=settings.")
    assert (found["replication factor 1"].severity, found["Kafka 3.0 or later"].severity) == ("costs", "fine")
    for name in ("delete.topic.enable", "auto.create.topics.enable", "unclean.leader.election.enable", "retention.ms"):
        assert found[name].severity == "fine", name


def test_a_cluster_of_three(kafka_cluster: KafkaCluster) -> None:
    found = doctors.findings(f"{kafka_cluster.url}?replication=1")
    assert found["replication factor 1"].severity == "loses"
    found = doctors.findings(f"{kafka_cluster.url}?replication=3")
    assert found["replication factor 3"].severity == "fine"
    least = found["min.insync.replicas"]
    assert least.severity == ("fine" if least.what.endswith("=2") else "loses")


def test_a_trains_topics_that_were_changed_are_told_by_name(kafka_server: Server) -> None:
    prefix = "changed."
    url = f"{kafka_server.url}?topic_prefix={prefix}"

    async def found_it() -> None:
        async with Train("signups").connect(url) as connection:
            await connection.publish(1)

    asyncio.run(found_it())
    alter(url, f"{prefix}signups_v1", "retention.ms", "60000")
    alter(url, f"{prefix}signups.0manifest", "unclean.leader.election.enable", "true")
    found = doctors.look(url)
    (retention,) = (f for f in found["broker"].findings if f.severity == "loses")
    assert retention.what == f"retention.ms=60000 ({prefix}signups_v1)"
    assert "removes records by their age" in retention.means
    assert "--add-config retention.ms=-1" in retention.todo
    (unclean,) = (f for f in found["registry"].findings if f.severity == "loses")
    assert unclean.what == f"unclean.leader.election.enable=true ({prefix}signups.0manifest)"
    client = admin(url)
    for gone in client.delete_topics(of_prefix(url, prefix)).values():
        gone.result(10)


def test_a_manifest_that_was_deleted(kafka_server: Server) -> None:
    """`status` and `doctor` name what is left of the train; a process that starts anew handles it."""
    prefix = "headless."
    url = f"{kafka_server.url}?topic_prefix={prefix}"
    train, handled, client = Train("signups"), list[int](), admin(url)

    @train.on("signups")
    async def handle(n: int) -> None:
        handled.append(n)

    async def main() -> None:
        async with train.connect(url, listeners=()) as connection:
            await connection.publish(1)
            topic = f"{prefix}signups.0manifest"
            client.delete_topics([topic])[topic].result(10)
            while True:
                try:
                    await connection.refresh()
                except Unavailable as e:
                    assert f"topic {topic} of train signups was deleted: end" in str(e)  # noqa: PT017
                    break
        with pytest.raises(UnknownTrain, match=r"train 'signups' has no manifest .* 2 channels .* signups_v1, "):
            async with reached("signups", url):
                pass
        found = await doctors.examined(url)
        (missing,) = (f for f in found["registry"].findings if "0manifest" in f.what)
        assert (missing.what, missing.severity) == (f"no topic {topic}", "costs")
        assert "the events of 2 channels wait" in missing.means
        async with train.connect(url, listeners=()) as connection, connection.running():
            await until(lambda: handled == [1], seconds=60)
        assert not [f for f in (await doctors.examined(url))["registry"].findings if "0manifest" in f.what]

    asyncio.run(main())
    for gone in client.delete_topics(of_prefix(url, prefix)).values():
        gone.result(10)


@pytest.mark.parametrize(
    ("least", "copies", "severity"), [("1", 3, "loses"), ("2", 3, "fine"), ("2", 2, "costs"), ("3", 2, "costs")]
)
def test_copies_and_how_many_must_have_it(least: str, copies: int, severity: str) -> None:
    (found,) = (
        f
        for f in findings_of_topic({**KEPT, "min.insync.replicas": least}, {}, copies, copies, 3)
        if f.what.startswith("min.insync.replicas")
    )
    assert found.severity == severity


def test_what_a_server_may_be_set_to() -> None:
    found = {
        f.what: f.severity
        for f in findings_of_server({"delete.topic.enable": "false", "auto.create.topics.enable": "true"})
    }
    assert found == {"delete.topic.enable=false": "costs", "auto.create.topics.enable=true": "costs"}
    found = {f.what: f.severity for f in findings_of_topic({**KEPT, "cleanup.policy": "compact"}, {}, 3, 2, 3)}
    assert (found["cleanup.policy=compact"], found["replicas out of sync"]) == ("loses", "costs")


def test_rights_that_are_missing_are_lines() -> None:
    assert [f.severity for f in findings_of_server(None)] == ["unknown"]
    assert "unknown" in [f.severity for f in findings_of_topic(None, {}, 3, 3, 3)]


def test_an_unused_name(kafka_server: Server) -> None:
    """A topic of somebody else's is no business of doctor's."""
    client = admin(kafka_server.url)
    client.create_topics([NewTopic("somebody-elses", 1, 1)])["somebody-elses"].result(10)
    found = doctors.look(kafka_server.url)
    assert "somebody-elses" not in repr([each.findings for each in found.values()])
    client.delete_topics(["somebody-elses"])["somebody-elses"].result(10)
