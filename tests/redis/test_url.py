"""What a URL may say."""

from __future__ import annotations

import pytest

from eventwagon.drivers.opening import open_drivers
from eventwagon.drivers.redis import RedisBroker
from eventwagon.drivers.redis.registry import RedisRegistry
from eventwagon.drivers.redis.server import SCHEMES, Server
from eventwagon.errors import UsageError


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
        (
            "redis://h?perfix=x",
            "perfix .did you mean prefix.*; redis knows db, prefix, timeout, wait, cluster, client_name",
        ),
        ("redis://h:1,h:x", "port"),
        ("redis://h:1,,h2", "write host:port,host2:port"),
        ("redis://h?sentinel_password=hunter2", "unknown option sentinel_password"),
        ("redis://h?client_name=two words", "without blanks"),
        ("redis+sentinel://h1,h2", "the name of the primary"),
        ("redis+sentinel:///mymaster/x", "database 'x'"),
        ("redis+sentinel://h1/mymaster?cluster=true", "a cluster is found by"),
        ("redis+unix://host/path", "three slashes"),
        ("redis+unix://", "three slashes"),
        ("unix:///path?db=x", "database 'x'"),
        ("valkeys://h?ssl_cert_reqs=maybe", "required, optional or none"),
        ("redis+sentinel://me:hunter2@h/m?sentinel_password=hunter2&x=1", "unknown option x"),
        ("redis://h?ssl_ca_certs=x", "unknown option ssl_ca_certs"),
        ("redis://h/zero", "database 'zero'"),
        ("redis://h/0?db=1", "not both"),
        ("redis://h:99999", "port"),
        ("redis://h?timeout=soon", "timeout='soon': give a number of seconds"),
        ("redis://h?wait=all", "wait='all': give a whole number of 0 or more"),
        ("redis://h?cluster=perhaps", "cluster='perhaps': give true or false"),
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


def test_sentinels() -> None:
    server = Server.from_url("rediss+sentinel://me:p%40ss@s1,s2:7000,[::1]/my%2Fmaster/3?sentinel_password=hunter2")
    assert server.places == (("s1", 26379), ("s2", 7000), ("::1", 26379))
    assert (server.sentinel, server.db, server.username, server.password) == ("my/master", 3, "me", "p@ss")
    assert (server.sentinel_username, server.sentinel_password) == (None, "hunter2")
    assert server.tls is not None
    assert server.where == "Redis my/master of the Sentinels at s1:26379,s2:7000,[::1]:26379, database 3"
    assert server.at("other", 1) is server


def test_several_hosts_and_sockets() -> None:
    assert Server.from_url("valkey://a:1,b/2").places == (("a", 1), ("b", 6379))
    assert Server.from_url("redis://a,b:1?cluster=true").at("c", 2).places == (("c", 2),)
    assert Server.from_url("valkeys://a").tls == {}
    server = Server.from_url("unix://me:pass@/run/my%20redis.sock?db=4")
    assert (server.path, server.db, server.username, server.password) == ("/run/my redis.sock", 4, "me", "pass")
    assert server.where == "Redis at /run/my redis.sock, database 4"


def test_every_scheme_has_its_drivers() -> None:
    for scheme in SCHEMES:
        url = f"{scheme}:///path" if "unix" in scheme else f"{scheme}://host/{'name' if 'sentinel' in scheme else 0}"
        assert isinstance(open_drivers(url).broker, RedisBroker)
        assert isinstance(open_drivers(f"memory://?registry={url}").registry, RedisRegistry)
