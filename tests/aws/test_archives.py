"""Archives in a bucket, and wagons on SQS."""

from __future__ import annotations

import asyncio
from pathlib import Path
from secrets import token_hex

import botocore.session  # type: ignore[import-untyped]
import pytest

from eventwagon.archives import open_archive
from eventwagon.contracts.archive import ArchivedWagon
from eventwagon.contracts.rows import row_of
from eventwagon.errors import Unavailable
from eventwagon.event import Event
from tests.archived import lives_and_is_archived, rows_at
from tests.aws.support import QUICK
from tests.servers.moto import MotoServer


@pytest.fixture
def bucket(moto_server: MotoServer) -> str:
    """A new bucket's name."""
    name = f"archive-{token_hex(4)}"
    client = botocore.session.get_session().create_client("s3", "eu-west-1", endpoint_url=moto_server.endpoint)
    client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    return name


def test_a_train_on_sqlite_with_its_archive_in_a_bucket(moto_server: MotoServer, bucket: str, tmp_path: Path) -> None:
    archive = f"s3://{bucket}/a/b?endpoint={moto_server.endpoint}&region=eu-west-1"
    asyncio.run(lives_and_is_archived("orders", f"sqlite:///{tmp_path}/trains", archive))


def test_a_train_on_sqs(moto_server: MotoServer, tmp_path: Path) -> None:
    url = f"{moto_server.url}&resend=3&poll=0.3"
    asyncio.run(lives_and_is_archived(f"orders{token_hex(4)}", url, f"file://{tmp_path}/archive", 30, **QUICK))


async def _write(url: str, *, large: int = 0, stop: bool = False) -> None:
    rows = [row_of(Event(str(n), "T", "/s", 1.0, token_hex(large).encode()), "", "handled", 1, 2.0) for n in range(40)]
    async with open_archive(url).write(ArchivedWagon(train="orders", number=1, opened_at=1.0)) as writer:
        for row in rows:
            await writer.add([row])
        if stop:
            raise ZeroDivisionError
        await writer.finish()


def test_a_large_file_comes_in_parts_and_is_there_whole_or_not_at_all(moto_server: MotoServer, bucket: str) -> None:
    url = f"s3://{bucket}?endpoint={moto_server.endpoint}&region=eu-west-1"
    with pytest.raises(ZeroDivisionError):
        asyncio.run(_write(url, large=500_000, stop=True))
    assert asyncio.run(open_archive(url).files("orders")) == []
    asyncio.run(_write(url, large=500_000))
    assert len(asyncio.run(rows_at(url, "orders"))) == 40


def test_a_bucket_that_is_not_there(moto_server: MotoServer) -> None:
    url = f"s3://archive-{token_hex(4)}?endpoint={moto_server.endpoint}&region=eu-west-1"
    with pytest.raises(Unavailable, match=r"archive s3://archive-[0-9a-f]+: writing orders/.*404 Not Found"):
        asyncio.run(_write(url))


def test_nobody_answers(moto_server: MotoServer) -> None:
    url = "s3://archive?endpoint=http://127.0.0.1:9&region=eu-west-1"
    with pytest.raises(Unavailable, match=r"archive s3://archive: .*error sending request") as refused:
        asyncio.run(_write(url))
    assert "\n" not in str(refused.value)
    assert "testing" not in str(refused.value)  # the key of the environment
