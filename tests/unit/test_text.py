"""Text from elsewhere, on one line."""

from __future__ import annotations

import enum
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import attrs
import msgspec
import pydantic
import pytest

from eventwagon.display.text import MOST, TRACEBACK_MOST, LogFormatter, local_time, said
from eventwagon.errors import UsageError
from eventwagon.event import JSON, Event
from eventwagon.payload import codec
from eventwagon.runtime.bulkhead import Bulkhead, passes, shown


@pytest.fixture
def in_madrid(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process's local time is that of Madrid."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Europe/Madrid")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_madrid")
def test_times_have_their_offset() -> None:
    assert local_time(1_800_000_000.5) == "2027-01-15 09:00:00.500+01:00"
    assert local_time(1_784_000_000) == "2026-07-14 05:33:20.000+02:00"
    assert local_time(1e18) == "1e+18 s"
    record = logging.makeLogRecord({"msg": "hello", "created": 1_800_000_000.5})
    assert LogFormatter("%(asctime)s %(message)s").format(record) == "2027-01-15 09:00:00.500+01:00 hello"


def test_a_group_says_what_is_in_it() -> None:
    inner = ExceptionGroup("more", [KeyError("x")])
    group = ExceptionGroup("unhandled errors in a TaskGroup", [ConnectionError("payments said 503"), inner])
    assert said(group) == "ExceptionGroup: (2) ConnectionError: payments said 503; ExceptionGroup: (1) KeyError: 'x'"


def test_a_deep_group_is_said_too() -> None:
    error: Exception = ValueError("deep")
    for _ in range(5000):
        error = ExceptionGroup("g", [error])
    assert len(said(error)) <= MOST + 102


def chain(length: int) -> Exception:
    """Each is the cause of the next."""
    error = Exception("the first")
    for n in range(length):
        following = ValueError(f"error {n}")
        following.__cause__ = error
        error = following
    return error


def shared(depth: int) -> Exception:
    """Few objects, and 5**depth lines when they are printed."""
    error: Exception = ValueError("deep")
    for _ in range(depth):
        error = ExceptionGroup("g", [error] * 5)
    return error


def raised_again(times: int) -> Exception:
    """One error for all: its traceback grows each time that it is raised."""
    error = ValueError("the same")
    for _ in range(times):
        try:
            raise error
        except ValueError:
            pass
    return error


def recursing(_: int) -> Exception:
    def one(n: int) -> None:
        other(n + 1)

    def other(n: int) -> None:
        one(n + 1)

    try:
        one(0)
    except RecursionError as e:
        return e
    raise AssertionError


class EndlessError(Exception):
    @property
    def __cause__(self) -> BaseException:  # type: ignore[override]
        return EndlessError("another")


class OfItself(ExceptionGroup[Exception]):
    @property
    def exceptions(self) -> tuple[Exception, ...]:
        return (self,)


def noted(count: int) -> Exception:
    error = ValueError("with notes")
    for n in range(count):
        error.add_note(f"note {n}")
    return error


@pytest.mark.parametrize(
    "make",
    [
        chain,
        raised_again,
        recursing,
        noted,
        lambda n: ExceptionGroup("g", [ValueError(f"leaf {i}") for i in range(n)]),
        lambda n: ExceptionGroup("g", [chain(n), ValueError("x")]),
        lambda _: shared(20),
        lambda _: EndlessError("one"),
        lambda _: OfItself("g", [ValueError("x")]),
        lambda n: ValueError("long " * n),
    ],
    ids=["chain", "raised", "recursion", "notes", "leaves", "chain in group", "shared", "endless", "itself", "long"],
)
def test_however_much_there_is_of_an_error_little_of_it_is_logged(
    make: Callable[[int], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    error = make(100_000)
    began = time.process_time()
    Bulkhead("t").report("a step", error)
    text = LogFormatter().format(caplog.records[0])
    assert time.process_time() - began < 3
    assert len(text) < 2 * TRACEBACK_MOST
    assert said(error).partition(":")[0] in text
    assert passes(ExceptionGroup("g", [error])) is False


def test_of_a_long_traceback_both_ends_are_logged_and_what_it_came_from() -> None:
    error = recursing(0)
    text = "".join(traceback.format_exception(*shown(error)))
    assert "in recursing" in text
    assert text.count("in other") < 40
    assert "RecursionError: maximum recursion depth exceeded" in text
    assert "too long for a log" in text
    assert "ValueError: error 99, from ValueError: error 98" not in "".join(
        traceback.format_exception(*shown(chain(99)))
    )
    assert "ValueError: error 999, from ValueError: error 998 (the" in str(shown(chain(1000))[1])


def test_of_a_long_traceback_of_a_users_own_logger_the_middle_is_left_out() -> None:
    record = logging.LogRecord(
        "user", logging.ERROR, "", 0, "it failed", (), (ValueError, ValueError("x" * 10**6), None)
    )
    text = LogFormatter("%(message)s").format(record)
    assert TRACEBACK_MOST < len(text) < 2 * TRACEBACK_MOST
    assert "characters are left out" in text


class Color(enum.Enum):
    red = "red"


class Cat(msgspec.Struct, tag=True):
    n: int


class Dog(msgspec.Struct, tag=True):
    n: int


class Login(pydantic.BaseModel):
    kind: Literal["login"]
    n: int


class Logout(pydantic.BaseModel):
    kind: Literal["logout"]


@attrs.define
class Checked:
    word: str = attrs.field(validator=attrs.validators.matches_re("a+"))


class Positive(msgspec.Struct):
    n: int

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError("n must not be negative")


class OfModels(msgspec.Struct):
    each: list[Login]


def refused(annotation: Any, data: bytes) -> Exception:
    """What reading it raises."""
    try:
        codec(annotation).decode(Event("1", "t", "/s", 0.0, data, None, JSON))
    except Exception as e:  # noqa: BLE001 - it is looked at
        return e
    raise AssertionError("it was read")


QUOTING = [
    (Color, b'"canary"', "Invalid enum value"),
    (list[Color], b'["canary - at `$`"]', "Invalid enum value - at `$[0]`"),
    (Cat | Dog, b'{"type": "canary", "n": 1}', "Invalid value - at `$.type`"),
    (
        Login,
        b'{"kind": "login", "n": "canary"}',
        "n: Input should be a valid integer, unable to parse string as an integer",
    ),
    (
        Annotated[Login | Logout, pydantic.Field(discriminator="kind")],
        b'{"kind": "canary"}',
        "it: Input tag found using 'kind' does not match any of the expected tags: 'login', 'logout'",
    ),
    (Checked, b'{"word": "canary"}', "word: its validator refuses it"),
    (list[Checked], b'[{"word": "canary"}]', "word: its validator refuses it - at `$[0]`"),
]


@pytest.mark.parametrize(("annotation", "data", "text"), QUOTING)
def test_what_a_check_refused_is_not_repeated(annotation: Any, data: bytes, text: str) -> None:
    error = refused(annotation, data)
    assert "canary" in str(error), "the case shows something"
    assert said(error).partition(": ")[2] == text
    assert "canary" not in "".join(traceback.format_exception(*shown(error)))


def test_what_a_users_own_check_says_is_said() -> None:
    assert said(refused(Positive, b'{"n": -1}')) == "ValidationError: n must not be negative"
    assert said(refused(Positive, b'{"n": "x"}')) == "ValidationError: Expected `int`, got `str` - at `$.n`"


def caused(error: Exception) -> Exception:
    try:
        raise RuntimeError("the order can't be read") from error
    except RuntimeError as e:
        return e


def met_meanwhile(error: Exception) -> Exception:
    try:
        try:
            raise error
        except ValueError:
            raise RuntimeError("the order can't be read")  # noqa: B904 - this is the case
    except RuntimeError as e:
        return e


def grouped(error: Exception) -> Exception:
    return ExceptionGroup("both", [KeyError("x"), ExceptionGroup("inner", [error])])


@pytest.mark.parametrize("wrap", [caused, met_meanwhile, grouped])
def test_nor_where_it_is_a_part_of_another_error(wrap: Callable[[Exception], Exception]) -> None:
    error = wrap(refused(Login, b'{"kind": "login", "n": "canary"}'))
    assert "canary" not in said(error)
    assert "canary" not in "".join(traceback.format_exception(*shown(error)))


@pytest.mark.parametrize(("annotation", "data", "_"), QUOTING)
def test_nor_in_the_traceback_of_a_refused_publish(annotation: Any, data: bytes, _: str) -> None:
    with pytest.raises(UsageError) as error:
        codec(annotation).encode(msgspec.json.decode(data))
    assert "canary" not in "".join(traceback.format_exception(error.value))
