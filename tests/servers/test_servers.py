"""The servers that the other tests rely on."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.servers.elasticmq import ElasticMQServer
from tests.servers.fixtures import given
from tests.servers.install import redis_server as redis_binary
from tests.servers.kafka import KafkaCluster, KafkaServer, login, sasl
from tests.servers.mosquitto import MosquittoServer
from tests.servers.pulsar import PulsarServer
from tests.servers.redis import RedisCluster, RedisServer, ask
from tests.servers.server import Server, StartFailed


def test_redis_keeps_what_it_acknowledged(own_redis: RedisServer) -> None:
    assert ask(own_redis.port, "SET", "a", "1") == b"+OK\r\n"
    time.sleep(0.05)
    own_redis.kill()
    with pytest.raises(ConnectionRefusedError):
        ask(own_redis.port, "GET", "a")
    own_redis.start()
    assert ask(own_redis.port, "GET", "a") == b"$1\r\n1\r\n"
    own_redis.stop()
    own_redis.start()
    assert ask(own_redis.port, "GET", "a") == b"$1\r\n1\r\n"


def test_redis_comes_back_with_an_older_copy(own_redis: RedisServer) -> None:
    """And keeps from then on what it acknowledges."""
    ask(own_redis.port, "SET", "a", "1")
    own_redis.save()
    ask(own_redis.port, "SET", "a", "2")
    ask(own_redis.port, "SET", "b", "1")
    own_redis.kill()
    own_redis.restore()
    assert ask(own_redis.port, "MGET", "a", "b") == b"*2\r\n$1\r\n1\r\n$-1\r\n"
    ask(own_redis.port, "SET", "c", "1")
    own_redis.stop()
    own_redis.start()
    assert ask(own_redis.port, "MGET", "a", "c") == b"*2\r\n$1\r\n1\r\n$1\r\n1\r\n"


def test_a_paused_server_does_not_answer(own_valkey: RedisServer) -> None:
    own_valkey.pause()
    with pytest.raises(TimeoutError):
        ask(own_valkey.port, "PING", timeout=0.2)
    own_valkey.resume()
    assert ask(own_valkey.port, "PING") == b"+PONG\r\n"


def test_a_redis_with_a_password_and_without(tmp_path: Path) -> None:
    with RedisServer(tmp_path, config=["requirepass secret"]) as server:
        assert ask(server.port, "GET", "a").startswith(b"-NOAUTH")


def test_a_start_that_fails_shows_the_log(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="no-such-directive"), RedisServer(tmp_path, config=["no-such-directive yes"]):
        pass


def test_a_redis_cluster_is_whole_and_heals(redis_cluster: RedisCluster) -> None:
    answers = [ask(node.port, "SET", "a", "1") for node in redis_cluster.nodes]
    assert sorted(answer[:6] for answer in answers) == [b"+OK\r\n", b"-MOVED", b"-MOVED"]
    redis_cluster.nodes[0].kill()
    redis_cluster.heal()
    assert [ask(node.port, "SET", "a", "1") for node in redis_cluster.nodes] == answers


def test_mosquitto_keeps_a_session_over_a_restart(own_mosquitto: MosquittoServer) -> None:
    mqtt = importlib.import_module("paho.mqtt.client")
    v2 = importlib.import_module("paho.mqtt.enums").CallbackAPIVersion.VERSION2

    def visit(*, waits: bool) -> list[bytes]:
        """A session subscribes, or hears what came while it was away."""
        heard: list[bytes] = []
        client = mqtt.Client(v2, client_id="listener", clean_session=False)
        client.on_message = lambda _client, _data, message: heard.append(message.payload)
        client.connect(own_mosquitto.host, own_mosquitto.port)
        until = time.monotonic() + 10
        client.loop()
        client.subscribe("a/b", qos=1)
        while waits and not heard and time.monotonic() < until:
            client.loop(0.1)
        client.disconnect()
        return heard

    visit(waits=False)
    sender = mqtt.Client(v2)
    sender.connect(own_mosquitto.host, own_mosquitto.port)
    sender.loop_start()
    sender.publish("a/b", b"kept", qos=1).wait_for_publish(10)
    sender.disconnect()
    sender.loop_stop()
    assert _listens_on(own_mosquitto) == {own_mosquitto.host}
    own_mosquitto.stop()
    own_mosquitto.start()
    assert visit(waits=True) == [b"kept"]


@pytest.mark.soak
def test_elasticmq_listens_to_this_machine_alone(elasticmq_server: ElasticMQServer) -> None:
    host = elasticmq_server.host
    assert {host, f"::ffff:{host}"} >= _listens_on(elasticmq_server)


def test_nothing_survives_the_tests_process(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time; from tests.servers.redis import RedisServer\n"
        "server = RedisServer(pathlib.Path(sys.argv[1])); server.start(); print(server.pid, flush=True); "
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        server = psutil.Process(int(tests.stdout.readline()))
        assert Path(server.exe()).resolve() == redis_binary().resolve()
        tests.kill()
        server.wait(10)


def test_a_server_given_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTWAGON_TEST_PULSAR", "pulsar://user@there:6650/public/default?admin=http://there:8080")
    server = given("pulsar")
    assert server is not None
    assert (server.host, server.port, server.admin_port) == ("there", 6650, 8080)
    assert server.url == os.environ["EVENTWAGON_TEST_PULSAR"]
    with pytest.raises(RuntimeError, match="EVENTWAGON_TEST_PULSAR"):
        server.kill()
    monkeypatch.setenv("EVENTWAGON_TEST_KAFKA", "kafka://one:1,two:2?security.protocol=PLAINTEXT")
    server = given("kafka")
    assert server is not None
    assert (server.host, server.port) == ("one", 1)
    assert given("redis") is None or os.environ.get("EVENTWAGON_TEST_REDIS")


def _listens_on(server: Server) -> set[str]:
    return {c.laddr.ip for c in psutil.Process(server.pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN}


@pytest.mark.slow
def test_kafka_keeps_what_it_acknowledged(own_kafka: KafkaServer) -> None:
    from confluent_kafka import Consumer, Producer, TopicPartition
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    settings: dict[str, str | int | float | bool] = {"bootstrap.servers": own_kafka.bootstrap, "log_level": 0}
    admin = AdminClient(settings)
    admin.create_topics([NewTopic("t", 1)])["t"].result(10)
    producer = Producer({**settings, "acks": "all"})
    for _ in range(100):
        producer.produce("t", b"x" * 100)
    assert producer.flush(10) == 0
    assert {own_kafka.host, f"::ffff:{own_kafka.host}"} >= _listens_on(own_kafka)
    own_kafka.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((own_kafka.host, own_kafka.port)).close()
    own_kafka.start()
    consumer = Consumer({**settings, "group.id": "g"})
    assert consumer.get_watermark_offsets(TopicPartition("t", 0), timeout=20) == (0, 100)
    consumer.close()
    own_kafka.stop()


@pytest.mark.slow
def test_a_kafka_with_passwords(tmp_path: Path) -> None:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    users = {"admin": "sesame", "bob": "builder"}
    with KafkaServer(tmp_path, config=sasl(users), client=login("admin", "sesame")) as server:
        settings: dict[str, str | int | float | bool] = {"bootstrap.servers": server.bootstrap, "log_level": 0}
        boss = AdminClient({**settings, **login("admin", "sesame")})
        boss.create_topics([NewTopic("t", 1)])["t"].result(10)
        bob = AdminClient({**settings, **login("bob", "builder")})
        with pytest.raises(KafkaException, match="AUTHORIZATION_FAILED"):
            bob.create_topics([NewTopic("u", 1)])["u"].result(10)
        with pytest.raises(KafkaException):
            AdminClient({**settings, **login("bob", "wrong")}).list_topics(timeout=1)
        assert "sasl.username=admin" in server.url


@pytest.mark.slow
def test_three_kafka_nodes_outlive_one(kafka_cluster: KafkaCluster) -> None:
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    settings: dict[str, str | int | float | bool] = {"bootstrap.servers": kafka_cluster.bootstrap, "log_level": 0}
    admin = AdminClient(settings)
    admin.create_topics([NewTopic("t", 1)])["t"].result(20)
    until = time.monotonic() + 20
    while not (partitions := admin.list_topics("t", timeout=10).topics["t"].partitions):  # not every node knows it yet
        assert time.monotonic() < until
        time.sleep(0.05)
    partition = partitions[0]
    assert sorted(partition.replicas) == [1, 2, 3]
    kafka_cluster.nodes[partition.leader - 1].kill()
    producer = Producer({**settings, "acks": "all", "message.timeout.ms": 30_000})
    producer.produce("t", b"x")
    assert producer.flush(30) == 0


@pytest.mark.slow
def test_pulsar_keeps_what_it_acknowledged(own_pulsar: PulsarServer) -> None:
    httpx, pulsar = importlib.import_module("httpx"), importlib.import_module("pulsar")
    topic = "persistent/public/default/t"
    with httpx.Client(base_url=f"{own_pulsar.admin_url}/admin/v2", timeout=30.0) as admin:
        assert admin.put(f"/{topic}").status_code == 204
        client = pulsar.Client(
            f"pulsar://{own_pulsar.host}:{own_pulsar.port}",
            logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, os.devnull),
        )
        producer = client.create_producer("persistent://public/default/t")
        for _ in range(100):
            producer.send_async(b"x" * 100, None)
        producer.flush()
        client.close()
        assert {own_pulsar.host, f"::ffff:{own_pulsar.host}"} >= _listens_on(own_pulsar)
        own_pulsar.kill()
        own_pulsar.start()
        assert admin.get(f"/{topic}/internalStats").json()["numberOfEntries"] >= 1
        assert admin.put("/persistent/public/default/t").status_code == 409
    own_pulsar.stop()
