"""TLS: `rediss://` with the options that pass through."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from eventwagon.drivers.redis import RedisBroker
from eventwagon.errors import Unavailable
from eventwagon.event import Channel
from tests.redis.support import LONG, events, take
from tests.servers.certificates import self_signed
from tests.servers.ports import free_port
from tests.servers.redis import RedisServer


def test_tls(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not there")
    certificate, key = self_signed(tmp_path)
    secure = free_port()
    lines = [f"tls-port {secure}", f"tls-cert-file {certificate}", f"tls-key-file {key}", "tls-auth-clients no"]
    with RedisServer(tmp_path, config=lines):

        async def main() -> None:
            channel, url = Channel("tls", 1), f"rediss://127.0.0.1:{secure}/0"
            async with RedisBroker.from_url(f"{url}?ssl_ca_certs={certificate}") as broker:
                await broker.create(channel)
                async with broker.consume(channel, visibility=LONG) as consumer:
                    waiting = asyncio.create_task(take(consumer, 3))
                    await asyncio.sleep(0.1)
                    await broker.publish(channel, events(3))
                    assert len(await waiting) == 3
            with pytest.raises(Unavailable, match=f"127.0.0.1:{secure}/0: connecting.*(?i:certificate)"):
                async with RedisBroker.from_url(url):
                    pass
            async with RedisBroker.from_url(f"{url}?ssl_cert_reqs=none") as broker:
                assert len(await broker.channels("tls")) == 1

        asyncio.run(main())
