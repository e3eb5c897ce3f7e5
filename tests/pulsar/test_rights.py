"""Wrong tokens and missing rights are named; with the right ones all goes well. A server that asks for tokens."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Iterator

import httpx
import pytest

from eventwagon.drivers.pulsar import PulsarBroker
from eventwagon.errors import StorageBroken
from tests.pulsar.support import a_channel, events
from tests.servers.fixtures import missing
from tests.servers.install import Missing
from tests.servers.pulsar import PulsarServer

_KEY = b"0123456789abcdef0123456789abcdef"


def token(role: str, key: bytes = _KEY) -> str:
    def part(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    text = part(json.dumps({"alg": "HS256"}).encode()) + b"." + part(json.dumps({"sub": role}).encode())
    return (text + b"." + part(hmac.digest(key, text, hashlib.sha256))).decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PulsarServer]:
    config = {
        "authenticationEnabled": "true",
        "authorizationEnabled": "true",
        "authenticationProviders": "org.apache.pulsar.broker.authentication.AuthenticationProviderToken",
        "tokenSecretKey": f"data:;base64,{base64.b64encode(_KEY).decode()}",
        "superUserRoles": "admin",
        "brokerClientAuthenticationPlugin": "org.apache.pulsar.client.impl.auth.AuthenticationToken",
        "brokerClientAuthenticationParameters": f"token:{token('admin')}",
    }
    try:
        made = PulsarServer(tmp_path_factory.mktemp("pulsar"), config=config, token=token("admin"))
    except Missing as why:
        raise missing(why) from None
    with made:
        yield made


def test_tokens_and_rights(server: PulsarServer) -> None:
    def url(role: str, key: bytes = _KEY) -> str:
        return server.url.split("&token=")[0] + "&token=" + token(role, key)

    channel = a_channel()

    async def enter(address: str) -> None:
        async with PulsarBroker.from_url(address):
            pass

    async def run() -> None:
        for wrong in (url("admin", b"x" * 32), server.url.split("&token=")[0]):
            with pytest.raises(StorageBroken, match="does not accept the token") as raised:
                await enter(wrong)
            assert "eyJ" not in str(raised.value)
        permissions = f"{server.admin_url}/admin/v2/namespaces/public/default/permissions"
        headers = {"Authorization": f"Bearer {server.token}"}
        async with httpx.AsyncClient(headers=headers) as http:
            for role, actions in (("writer", ["produce"]), ("reader", ["consume"])):
                (await http.post(f"{permissions}/{role}", json=actions)).raise_for_status()
        async with (
            PulsarBroker.from_url(server.url) as admin,
            PulsarBroker.from_url(url("writer")) as writer,
            PulsarBroker.from_url(url("reader")) as reader,
        ):
            with pytest.raises(StorageBroken, match="the role of a tenant's admin"):
                await writer.create(channel)
            await admin.create(channel)
            await writer.publish(channel, events(2))
            with pytest.raises(StorageBroken, match="'produce'"):
                await reader.publish(channel, events(1))
            with pytest.raises(StorageBroken, match="'consume'"):
                async with writer.consume(channel, visibility=30.0):
                    pass
            with pytest.raises(StorageBroken, match=r"sealing .* the role of a tenant's admin"):
                await reader.seal(channel)
            with pytest.raises(StorageBroken, match=r"deleting .* the role of a tenant's admin"):
                await writer.delete(channel)
            async with reader.consume(channel, visibility=30.0) as consumer:
                got = [*await consumer.receive(2, 10.0)]
                while len(got) < 2:
                    got += await consumer.receive(2, 10.0)
                await consumer.settle(got)
            (depth,) = await reader.depth([channel])
            assert (depth.published, depth.settled, depth.trouble) == (2, 2, "")
            assert [f.severity for f in await admin.inspect([channel])] == ["fine"]
            unknown = [f for f in await reader.inspect([channel]) if f.severity == "unknown"]
            assert [f.what for f in unknown][:2] == [
                "policies of namespace public/default",
                "the server's defaults for policies",
            ]
            assert "the role of a tenant's admin" in unknown[0].todo
            assert "superUserRoles" in unknown[1].todo
            await admin.seal(channel)
            await admin.delete(channel)

    asyncio.run(run())
