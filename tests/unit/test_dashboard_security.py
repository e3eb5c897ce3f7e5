"""Who may read and steer at the dashboard, and what is refused."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from eventwagon import UsageError
from eventwagon.cli.app import app as command
from eventwagon.dashboard import app
from eventwagon.dashboard.sessions import Sessions
from eventwagon.hosts import host_of
from tests.dashboards import OURS, TOKEN, a_train, browser, logged_in

URL = "memory://dashboard-security"
READS = (
    "api/trains",
    "api/trains/orders",
    "api/events",
    "api/jobs",
    "api/trains/orders/dead",
    "api/trains/orders/journal",
    "api/trains/orders/dead/all/actions/retry",
)
ACTS_ON_DEAD = ("api/trains/orders/dead/all/actions/retry", "api/trains/orders/dead/all/actions/drop")
ACT = "api/trains/orders/actions/pause"


def test_without_a_token_everybody_reads_and_nobody_steers() -> None:
    async def main() -> None:
        async with a_train().connect(URL, listeners=()) as c, browser(app(URL), **OURS) as client:
            await c.found()
            session = (await client.get("api/session")).json()
            assert (session["login"], session["can_act"]) == ("off", False)
            assert (await client.get("api/trains/orders")).status_code == 200
            for act in (ACT, *ACTS_ON_DEAD):
                answer = await client.post(act, json={"digest": "x"})
                assert answer.status_code == 403
                assert "read-only" in answer.json()["error"]
            assert (await client.post("api/login", json={"token": ""})).status_code == 403
            assert (await c.refresh()).manifest.paused is None

    asyncio.run(main())


def test_with_a_token_nothing_is_read_before_the_login() -> None:
    async def main() -> None:
        async with a_train().connect(URL, listeners=()) as c, browser(app(URL, token=TOKEN), **OURS) as client:
            await c.found()
            for path in READS:
                assert (await client.get(path)).status_code == 401, path
            assert (await client.post(ACT, json={})).status_code == 401
            assert (await client.get("api/session")).json()["login"] == "needed"
            answer = await client.post("api/login", json={"token": TOKEN})
            cookie = answer.headers["set-cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=strict" in cookie
            assert "Secure" not in cookie
            assert TOKEN not in cookie
            behind = await client.post("api/login", json={"token": TOKEN}, headers={"X-Forwarded-Proto": "https"})
            assert "Secure" in behind.headers["set-cookie"]
            client.cookies.clear()
            client.cookies.set("eventwagon_0", cookie.partition("=")[2].partition(";")[0])
            assert (await client.get("api/trains/orders")).status_code == 200
            assert (await client.post("api/logout", json={})).json()["login"] == "needed"
            client.cookies.set(
                "eventwagon_0", cookie.partition("=")[2].partition(";")[0]
            )  # it was ended, not forgotten
            assert (await client.get("api/trains/orders")).status_code == 401
            for value in ("", "x", TOKEN, "é", "a" * 5000):
                headers = httpx.Headers([(b"Cookie", f"eventwagon_0={value}".encode())])
                assert (await client.get("api/trains", headers=headers)).status_code == 401

    asyncio.run(main())


def test_wrong_tokens_are_refused_and_soon_not_even_compared() -> None:
    async def main() -> None:
        async with browser(app(URL, token=TOKEN), **OURS) as client:
            for wrong in ("", "x", TOKEN + "x", TOKEN[:-1], "é" * 20):
                answer = await client.post("api/login", json={"token": wrong})
                assert answer.status_code == 401, wrong
                assert "set-cookie" not in answer.headers
            answer = await client.post("api/login", json={"token": TOKEN})
            assert answer.status_code == 429
            assert 0 < int(answer.headers["retry-after"]) <= 60

    asyncio.run(main())


def test_sessions_end_and_are_bounded() -> None:
    now = [0.0]
    sessions = Sessions(TOKEN, clock=lambda: now[0])
    for n in range(5):
        assert sessions.wait("here") == 0
        assert sessions.login(f"wrong {n}", "here") is None
        now[0] += 1
    assert sessions.wait("here") == 55
    assert sessions.wait("elsewhere") == 0
    now[0] += 55
    assert sessions.wait("here") == 0
    first = sessions.login(TOKEN, "here")
    assert sessions.knows(first)
    others = [sessions.login(TOKEN, "here") for _ in range(100)]
    assert not sessions.knows(first)  # a hundred at most
    now[0] += 12 * 3600 + 1
    assert not any(map(sessions.knows, others))
    for n in range(5000):
        sessions.login("wrong", f"address {n}")
    assert len(sessions._wrong) <= 1000  # noqa: SLF001
    assert sessions.wait("yet another") > 0  # an attacker with many addresses


@pytest.mark.parametrize("token", ["", "short", "é" * 20, 17, b"a" * 20, True])
def test_a_bad_token_is_refused_at_once(token: Any) -> None:
    with pytest.raises(UsageError, match="token must be"):
        app(URL, token=token)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8000", 200),
        ("LOCALHOST.", 200),
        ("127.0.0.1:80", 200),
        ("127.1.2.3", 200),
        ("[::1]:8000", 200),
        ("ops.example.org", 200),
        ("OPS.example.org:443", 200),
        ("evil.example", 421),
        ("ops.example.org.evil.example", 421),
        ("localhost@evil.example", 421),
        ("evil.example#localhost", 421),
        ("localhost/x", 421),
        ("localhost:port", 421),
        ("169.254.169.254", 421),
        ("", 421),
    ],
)
def test_names_that_were_made_to_point_here_are_refused(host: str, status: int) -> None:
    async def main() -> None:
        async with browser(app(URL, hosts=["ops.example.org"])) as client:
            for path in ("api/session", "api/trains", "", "static/app.js"):
                answer = await client.get(path, headers={"Host": host})
                assert (answer.status_code == 421) == (status == 421), path

    asyncio.run(main())


def test_two_names_are_refused() -> None:
    async def main() -> None:
        async with browser(app(URL)) as client:
            request = client.build_request("GET", "api/session")
            request.headers = httpx.Headers([("Host", "localhost"), ("Host", "evil.example")])
            assert (await client.send(request)).status_code == 421

    asyncio.run(main())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"Origin": "http://localhost"}, 202),
        ({"Origin": "http://localhost:80"}, 202),
        ({"Sec-Fetch-Site": "same-origin"}, 202),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost.evil.example"}, 403),
        ({"Origin": "http://localhost:81"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"X-Eventwagon": ""}, 403),
        ({"Content-Type": "text/plain"}, 400),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 400),
    ],
)
def test_only_our_own_page_can_steer(headers: dict[str, str], status: int) -> None:
    async def main() -> None:
        async with a_train().connect(URL, listeners=()) as c, logged_in(app(URL, token=TOKEN)) as client:
            await c.found()
            answer = await client.post("api/trains/orders/actions/resume", json={}, headers=headers)
            assert answer.status_code == status, answer.text

    asyncio.run(main())


def test_another_site_can_link_here_but_not_read() -> None:
    async def main() -> None:
        async with browser(app(URL)) as client:
            other = {"Sec-Fetch-Site": "cross-site"}
            assert (await client.get("api/trains", headers=other)).status_code == 403
            link = await client.get("", headers={**other, "Sec-Fetch-Mode": "navigate"})
            assert link.status_code in (200, 404)  # 404: without the page's files
            for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
                assert (await client.request(method, "api/trains")).status_code == 405

    asyncio.run(main())


def test_every_answer_has_the_headers_that_keep_scripts_out() -> None:
    async def main() -> None:
        async with browser(app(URL)) as client:
            for path in ("api/session", "api/trains", "nothing", "", "static/nothing.js", "api/trains/%3Cb%3E"):
                for host in ("localhost", "evil.example"):
                    headers = (await client.get(path, headers={"Host": host})).headers
                    policy = headers["content-security-policy"]
                    assert "default-src 'self'" in policy
                    assert "unsafe" not in policy
                    assert "frame-ancestors 'none'" in policy
                    assert headers["x-content-type-options"] == "nosniff"
                    assert headers["referrer-policy"] == "no-referrer"
                    assert headers["cache-control"] in ("no-store", "no-cache")
            assert (await client.get("api/trains")).headers["cache-control"] == "no-store"

    asyncio.run(main())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"pause"',
        b"[" * 10_000,
        b'{"wagon": "7"}',
        b'{"wagon": -1}',
        b'{"wagon": 1e400}',
        b'{"wagon": 99999999999999999999}',
        b'{"wagon": true}',
        b'{"publishing": 1}',
        b'{"publishing": true, "wagon": 1}',
        b'{"reason": {"a": 1}}',
        b'{"reason": "\\u0000"}',
        b'{"by": "\\ud800"}',
        b'{"by": "\\u001b[31m"}',
        b"\xff\xfe",
    ],
)
def test_garbage_is_refused_with_a_sentence(body: bytes) -> None:
    async def main() -> None:
        async with a_train().connect(URL, listeners=()) as c, logged_in(app(URL, token=TOKEN)) as client:
            await c.found()
            answer = await client.post(ACT, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]
            assert (await c.refresh()).manifest.paused is None

    asyncio.run(main())


def test_huge_bodies_and_strange_paths_are_refused() -> None:
    async def main() -> None:
        async with a_train().connect(URL, listeners=()) as c, logged_in(app(URL, token=TOKEN)) as client:
            await c.found()
            huge = {"Content-Type": "application/json"}
            assert (await client.post(ACT, content=b" " * 20_000, headers=huge)).status_code == 413
            assert (await client.post("api/login", content=b" " * 20_000, headers=huge)).status_code == 413
            assert (await client.post("api/trains/orders/actions/remove", json={})).status_code == 404
            assert (await client.post("api/trains/orders/actions/switch", json={"wagon": 1})).status_code == 400
            for path, status in (
                ("api/trains/nobody", 404),
                ("api/trains/..%2f..%2fetc", 404),
                ("api/trains/%00", 404),
                ("api/trains/" + "a" * 5000, 404),
                ("api/events?train=<b>", 404),
                ("api/trains/orders/wagons/0", 404),
                ("api/trains/orders/wagons/-1", 400),
                ("api/trains/orders/wagons/1e3", 400),
                ("api/trains/orders/wagons/٣", 400),
                ("api/trains/orders/wagons/" + "9" * 400, 400),
                ("api/trains/orders/journal?before=nan", 400),
                ("api/trains/orders/journal?limit=-1", 400),
                ("api/trains/orders/journal?q=" + "(" * 5000, 200),
                ("api/trains/orders/dead/x?after=9999999999999999", 400),
                ("api/trains/orders/actions/pause?wagon=x", 400),
                ("static/../application.py", 404),
                ("static/..%2fapplication.py", 404),
                ("static/%2e%2e/application.py", 404),
                ("static//etc/passwd", 404),
                ("static/app.py", 404),
            ):
                answer = await client.get(path)
                assert answer.status_code == status, (path, answer.text)
                if status != 200:
                    assert answer.json()["error"], path

    asyncio.run(main())


@pytest.mark.parametrize("host", ["", "a b", "http://ops.example.org", "ops.example.org/x", "a@b", "é", 7, None])
def test_hosts_that_are_none_are_refused(host: Any) -> None:
    with pytest.raises(UsageError, match="hosts must be names"):
        app(URL, hosts=[host])


def test_the_host_of_a_header() -> None:
    assert [host_of(each) for each in ("A.b:80", "[::1]", "a:x", "a@b", "a/b", "")] == [
        "a.b",
        "::1",
        None,
        None,
        None,
        None,
    ]


@pytest.mark.parametrize("where", [None, 7, [], [7], object()])
def test_what_is_no_place_is_refused(where: Any) -> None:
    with pytest.raises(UsageError, match="give a URL"):
        app(where)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--host", "0.0.0.0"], "can be reached from elsewhere"),  # noqa: S104
        (["--host", ""], "can be reached from elsewhere"),
        (["--host", "ops.example.org"], "can be reached from elsewhere"),
        (["--token", "short"], "the token must be"),
        (["--host", "203.0.113.1", "--token", TOKEN], "--host '203.0.113.1' --port 8000"),
        (["--allow-host", "http://x"], "hosts must be names"),
        (["--url", "nothing://x"], "nothing"),
        (["Orders"], "Orders"),
    ],
)
def test_the_command_refuses_what_is_not_safe(arguments: list[str], says: str) -> None:
    found = CliRunner().invoke(command, ["dashboard", "--url", URL, *arguments])
    assert found.exit_code == 2, found.output
    assert says in found.output
    assert TOKEN not in found.output


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("eventwagon.dashboard", "starlette"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    found = CliRunner().invoke(command, ["dashboard", "--url", URL])
    assert found.exit_code == 2
    assert "pip install 'eventwagon[dashboard]'" in found.output
