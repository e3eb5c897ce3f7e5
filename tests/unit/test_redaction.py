"""The one redactor."""

from __future__ import annotations

import time
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventwagon import Train
from eventwagon.display.redaction import is_secret, learn, learn_options, redacted, shown
from eventwagon.display.text import said
from eventwagon.errors import StorageBroken, UsageError
from eventwagon.values import split_url


@pytest.mark.parametrize(
    ("url", "as_shown"),
    [
        ("redis://h:6379/0?timeout=5&wait=1", "redis://h:6379/0?timeout=5&wait=1"),
        ("redis://:pw@h", "redis://:***@h"),
        ("redis://me:p%40w@[::1]:7000/3", "redis://me:***@[::1]:7000/3"),
        ("redis://sesame@h", "redis://***@h"),
        ("redis://:p@s/wo?rd@h:1", "redis://:***@h:1"),
        ("redis://me:sesame", "redis://me:***"),
        (
            "kafka://h:1,h2:2?sasl.username=me&sasl.password=a%26b",
            "kafka://h:1,h2:2?sasl.username=me&sasl.password=***",
        ),
        ("kafka://h?sasl.password=a&b&timeout=1", "kafka://h?sasl.password=***&***&timeout=1"),
        ("kafka://h?ssl.key.pem=x&ssl.ca.location=/ca", "kafka://h?ssl.key.pem=***&ssl.ca.location=/ca"),
        ("rediss://h?ssl_password=pw&ssl_keyfile=/key", "rediss://h?ssl_password=***&ssl_keyfile=/key"),
        (
            "pulsar://h/a/b?token=x&admin=http://u:pw@h:8080&registry=redis%3A%2F%2F%3Apw%40h",
            "pulsar://h/a/b?token=***&admin=http://u:***@h:8080&registry=redis://:***@h",
        ),
        ("sqs://eu-west-1/x?aws_secret_access_key=x", "sqs://eu-west-1/x?aws_secret_access_key=***"),
        ("sqlite:////var/trains?sync=normal", "sqlite:////var/trains?sync=normal"),
        ("command:node x.js?ready=http://127.0.0.1:{port}/", "command:node x.js?ready=http://127.0.0.1:{port}/"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, as_shown: str) -> None:
    assert shown(url) == as_shown
    assert redacted(f"it failed (at {url}).") == f"it failed (at {as_shown})."


@pytest.mark.parametrize(
    ("text", "as_shown"),
    [
        ("Options(sasl_password='s e', x=1)", "Options(sasl_password=***, x=1)"),
        ("{'password': 'x', 'n': 1}", "{'password': ***, 'n': 1}"),
        ("client_secret=abc;", "client_secret=***;"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("key AKIAABCDEFGHIJKLMNOP is", "key *** is"),
        ("-----BEGIN RSA PRIVATE KEY-----\nx\n-----END RSA PRIVATE KEY----- and", "*** and"),
        ("user or password is wrong: try another token", "user or password is wrong: try another token"),
        ("passing=True, bypass=1, compass=2", "passing=True, bypass=1, compass=2"),
        ("no route to user:pw@host:1", "no route to user:***@host:1"),
        ("token: 'x'", "token: ***"),
        ("SASL_PASSWORD: x, user: y", "SASL_PASSWORD: ***, user: y"),
        ("x-api-key: x", "x-api-key: ***"),
        ("run --password x --port 1", "run --password *** --port 1"),
        ("http://h/?auth=x", "http://h/?auth=***"),
        ("x --password hunter4 because", "x --password *** because"),
        ("the password: S3cret!pw and so on", "the password: *** and so on"),
        ("the password: “curled” and so on", "the password: *** and so on"),
        ("Basic dXNlcjpwYXNz", "Basic ***"),
        ("redis%3A%2F%2F%3Apw%40h", "redis%3A%2F%2F%3A***%40h"),
        ("wrong password: try again", "wrong password: try again"),
        ("secret: 42 events", "secret: 42 events"),
        ("tokens: 12 used", "tokens: 12 used"),
        ("a look: eNrtV-82O4vkPwdjVbw 1 more", "a look: eNrtV-82O4vkPwdjVbw 1 more"),
        ("use --password to say it", "use --password to say it"),
        ("Basic authentication is off", "Basic authentication is off"),
        ("image shop:v1@sha256:abc", "image shop:v1@sha256:abc"),
        ("mailto:ada@example.com", "mailto:ada@example.com"),
        ("curl -u me:sesame http://h", "curl -u me:*** http://h"),
        ("curl -sSu me:sesame http://h", "curl -sSu me:*** http://h"),
        ("curl -ume:sesame http://h", "curl -ume:*** http://h"),
        ("curl --user me:sesame http://h", "curl --user me:*** http://h"),
        ("curl --user=me:sesame http://h", "curl --user=me:*** http://h"),
        ("curl --proxy-user me:sesame h", "curl --proxy-user me:*** h"),
        ("-U me:12345 h", "-U me:*** h"),
        ("curl -u 'me:open sesame' h", "curl -u 'me:***' h"),
        ('curl -u "me:open, sesame" h', 'curl -u "me:***" h'),
        ("['curl', '-u', 'me:sesame', 'h']", "['curl', '-u', 'me:***', 'h']"),
        ("curl -u :sesame h", "curl -u :*** h"),
        ("docker run --user 1000:1000 -p8080:80 image", "docker run --user 1000:1000 -p8080:80 image"),
        ("docker run -u '1000:1000' image", "docker run -u '1000:1000' image"),
        ("git push -u origin main:main", "git push -u origin main:main"),
        ("git remote -u https://h/x", "git remote -u https://h/x"),
        ("systemctl --user status x", "systemctl --user status x"),
        ("pip install --user x: failed", "pip install --user x: failed"),
        ("mysql -uroot -psesame shop", "mysql -uroot -p*** shop"),
        ("mysql -u root -h db -p'open sesame' shop", "mysql -u root -h db -p*** shop"),
        ("mysqldump -p12345 shop", "mysqldump -p*** shop"),
        ("['mariadb', '-psesame', 'shop']", "['mariadb', '-p***', 'shop']"),
        ("sshpass -p sesame ssh h", "sshpass -p *** ssh h"),
        ("sshpass -psesame ssh h", "sshpass -p*** ssh h"),
        ("redis-cli -h h -a sesame ping", "redis-cli -h h -a *** ping"),
        ("mongosh -u root -p sesame --host h", "mongosh -u root -p *** --host h"),
        ("mysqldump -psecret --all-databases", "mysqldump -p*** --all-databases"),
        ("client -uroot -psesame", "client -uroot -p***"),
        ("mysql -u root -p shop", "mysql -u root -p shop"),
        ("docker run --name mysql -p3306:3306 mysql:8", "docker run --name mysql -p3306:3306 mysql:8"),
        ("docker run -u app -p8080:80 image", "docker run -u app -p8080:80 image"),
        ("ssh -p2222 h; gcc -pthread; find . -print", "ssh -p2222 h; gcc -pthread; find . -print"),
        ("at redis://me:open sesame@h:1/0, or", "at redis://me:***@h:1/0, or"),
        ("at redis://me:open\nsesame@h:1/0, or", "at redis://me:***@h:1/0, or"),
        ("at redis://:open se s@me@h", "at redis://:***@h"),
        ("at redis://me:12 34@h", "at redis://me:***@h"),
        ("at redis://me:open\"'sesame@h", "at redis://me:***@h"),
        ("redis://h:6379 is asked for by me@h", "redis://h:6379 is asked for by me@h"),
        ("redis://[::1]:6379 is asked for by me@h", "redis://[::1]:6379 is asked for by me@h"),
        ("redis://h:6379: refused by me@h", "redis://h:6379: refused by me@h"),
        ("http://h:8443 (me@h)", "http://h:8443 (me@h)"),
        ("kafka://h:1,h2:2 by me@h", "kafka://h:1,h2:2 by me@h"),
        ("http://h:{port}/ by me@h", "http://h:{port}/ by me@h"),
        ("see http://h:80/a, or write to me@h", "see http://h:80/a, or write to me@h"),
        ("{'url': 'redis://h:1', 'by': 'me@h'}", "{'url': 'redis://h:1', 'by': 'me@h'}"),
    ],
)
def test_what_looks_like_a_secret_is_hidden_in_any_text(text: str, as_shown: str) -> None:
    assert redacted(text) == as_shown


def test_a_secret_that_was_seen_is_hidden_wherever_it_turns_up() -> None:
    learn(f"redis://me:{quote('Nightingale 5/7', safe='')}@h")
    assert redacted("tried 'Nightingale 5/7', Nightingale%205%2F7 and Nightingale+5%2F7") == "tried '***', *** and ***"
    assert str(StorageBroken("refused: Nightingale 5/7")) == "refused: ***"
    assert said(RuntimeError("Nightingale 5/7")) == "RuntimeError: ***"
    learn_options({"sasl.password": "Blackcap", "client.id": "Whitethroat"})
    assert redacted("Blackcap Whitethroat") == "*** Whitethroat"


def test_a_short_one_only_where_it_stands_alone() -> None:
    learn("redis://:Wren7@h")
    assert redacted("Wren7, Wren78") == "***, Wren78"
    learn("redis://:q7@h")
    assert redacted("q7 redis://:q7@h") == "q7 redis://:***@h"


def test_the_name_of_a_kubernetes_secret_is_none() -> None:
    learn("kubernetes://shop?secret=birdsong")
    assert redacted("birdsong") == "birdsong"
    assert redacted("write kubernetes:?secret=NAME&x=y") == "write kubernetes:?secret=NAME&x=y"
    assert redacted("a?client_secret=x, redis://h?secret=y") == "a?client_secret=***, redis://h?secret=***"


def test_what_is_no_url_is_refused_without_its_secrets() -> None:
    with pytest.raises(UsageError, match="it is no URL") as refused:
        split_url("redis://:Chiffchaff@[h")
    assert "Chiffchaff" not in str(refused.value)
    assert refused.value.__suppress_context__


def test_a_bracket_that_was_forgotten_hides_no_address() -> None:
    with pytest.raises(UsageError, match=r"^redis://u:\*\*\*@\[::1/0: it is no URL") as refused:
        split_url("redis://u:Chiffchaff@[::1/0")
    assert "Chiffchaff" not in str(refused.value)


@given(st.text() | st.from_regex(r"[a-z]+://[^ ]*@[^ ]*\?password=[^ ]*"))
@example("A://?PASS=`)0")
def test_it_is_total_and_idempotent(text: str) -> None:
    found = redacted(text)
    assert redacted(found) == found
    assert shown(shown(text)) == shown(text)


@given(st.text(min_size=6).filter(lambda text: (text.strip("*") and not text.isascii()) or "x" in text))
def test_no_password_is_shown(password: str) -> None:
    password = f"Q7z{password}"
    url = f"redis://u:{quote(password, safe='')}@h:1/0"
    assert password not in shown(url)
    assert quote(password, safe="") not in redacted(f"see {url}, or not")


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a.",
        "password",
        "://",
        "a://",
        "a://b@",
        "a://b:c ",
        "a=b&",
        "token=",
        "eyJ",
        "AKIA",
        "-u ",
        "-u a:",
        "mysql ",
        "curl -u",
        " -u a",
    ],
)
def test_its_time_grows_with_the_text_alone(text: str) -> None:
    began = time.process_time()
    redacted(text * (200_000 // len(text)))
    assert time.process_time() - began < 10


def test_names() -> None:
    hidden = (
        "password ssl_password sasl.password sasl.oauthbearer.client.secret token tokn_secret aws_session_token pwd"
    )
    assert all(map(is_secret, hidden.split()))
    assert not any(
        map(is_secret, ["timeout", "prefix", "sasl.username", "ssl.ca.location", "sasl.oauthbearer.token.endpoint.url"])
    )


@pytest.mark.parametrize(
    ("url", "as_shown"),
    [
        ("user:sesame@127.0.0.1:6379", "user:***@127.0.0.1:6379"),
        (":sesame@host:6379", ":***@host:6379"),
        ("redis//user:sesame@h", "redis//user:***@h"),
        ("redis:/user:sesame@h/0", "redis:/user:***@h/0"),
        ("kubernetes:deploy.yaml?image=shop:v1@sha256:ab", "kubernetes:deploy.yaml?image=shop:v1@sha256:ab"),
    ],
)
def test_a_url_with_a_slip_in_its_scheme_is_shown_without_its_password(url: str, as_shown: str) -> None:
    assert shown(url) == as_shown
    if "***" in as_shown:
        with pytest.raises(UsageError) as caught:
            Train("t").connect(url)
        assert "sesame" not in str(caught.value)


def test_a_question_mark_in_a_password_must_be_encoded() -> None:
    with pytest.raises(UsageError, match="write %3F") as caught:
        split_url("redis://u:open?ses@h")
    assert "ses@" not in str(caught.value)


@pytest.mark.parametrize("part", ["%3A%2F%2F", "%3A%2F%2Fa%3A", "password: “"])
def test_a_long_text_takes_a_time_that_grows_with_its_length(part: str) -> None:
    began = time.process_time()
    redacted(part * (150_000 // len(part)))
    assert time.process_time() - began < 10  # where it grew with the square: a minute
