"""What a URL may say."""

from __future__ import annotations

import pytest

from eventwagon._redis import Server
from eventwagon.brokers.redis import RedisBroker
from eventwagon.drivers import open_drivers
from eventwagon.errors import UsageError
from eventwagon.registries.redis import RedisRegistry


def test_all_of_it() -> None:
    server = Server.from_url("redis://me:p%40ss@[::1]:7000/3?prefix=shop&timeout=2.5&wait=2")
    assert (server.host, server.port, server.db) == ("::1", 7000, 3)
    assert (server.username, server.password) == ("me", "p@ss")
    assert (server.prefix, server.timeout, server.wait, server.cluster, server.tls) == ("shop", 2.5, 2, False, None)
    assert "p@ss" not in f"{server.where} {server!r}"
    assert Server.from_url("redis://") == Server()
    assert Server.from_url("redis://node/?cluster=true").cluster
    tls = Server.from_url("rediss://host?ssl_ca_certs=/ca.pem&ssl_cert_reqs=none").tls
    assert tls == {"ssl_ca_certs": "/ca.pem", "ssl_cert_reqs": "none", "ssl_check_hostname": False}


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://h?perfix=x", "unknown option perfix; redis knows db, prefix, timeout, wait, cluster"),
        ("redis://h?ssl_ca_certs=x", "unknown option ssl_ca_certs"),
        ("redis://h/zero", "database 'zero'"),
        ("redis://h/0?db=1", "not both"),
        ("redis://h:99999", "port"),
        ("redis://h?timeout=soon", "timeout=soon: give seconds"),
        ("redis://h?wait=all", "wait=all"),
        ("redis://h?cluster=perhaps", "cluster=perhaps: true or false"),
        ("redis://h/2?cluster=true", "database 0 only"),
        ("redis://h?prefix={x}", "without braces"),
        ("rediss://h?ssl_cert_reqs=maybe", "required, optional or none"),
        ("rediss://h?ssl_check_hostname=maybe", "true or false"),
        ("redis://me:hunter2@h?x=1", "unknown option x"),
    ],
)
def test_refused(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as refused:
        open_drivers(url)
    assert "hunter2" not in str(refused.value)


def test_drivers() -> None:
    drivers = open_drivers("redis://somewhere:7000/2?prefix=shop")
    assert isinstance(drivers.broker, RedisBroker)
    assert isinstance(drivers.registry, RedisRegistry)
    assert drivers.broker.server == drivers.registry.server == Server(host="somewhere", port=7000, db=2, prefix="shop")
