"""One codec a type, both ways: what comes back equal, and what is refused where it is published."""

from __future__ import annotations

import collections
import dataclasses
import enum
import math
import typing
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import pytest

from eventwagon.errors import UsageError
from eventwagon.event import BINARY, JSON, Event
from eventwagon.payload import codec, encode, type_name

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    y: float


class Row(TypedDict):
    n: int


@dataclasses.dataclass
class Data:
    n: int
    note: str | None = None


@dataclasses.dataclass
class Wider(Data):
    more: int = 0


@dataclasses.dataclass
class Narrow(Data):
    """As Data, of another class."""


@dataclasses.dataclass
class Hidden:
    _n: int


@dataclasses.dataclass
class Computed:
    n: int
    twice: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        self.twice = self.n * 2


@dataclasses.dataclass(eq=False)
class Identity:
    n: int
    of: list[Data]


@dataclasses.dataclass
class Holder:
    data: Data


@dataclasses.dataclass
class Reading:
    value: float


@dataclasses.dataclass
class Loose:
    anything: Any


@dataclasses.dataclass
class Custom:
    value: complex


@dataclasses.dataclass
class Growing:
    n: int

    def __post_init__(self) -> None:
        self.n += 1


@dataclasses.dataclass
class Uncompared:
    n: int
    cache: int = dataclasses.field(init=False, default=0, compare=False)

    def __post_init__(self) -> None:
        self.cache = 0


@dataclasses.dataclass
class Stamped:
    n: int
    at: float = dataclasses.field(default=0.0, compare=False)


class Struct(msgspec.Struct):
    n: int


class StructWider(Struct):
    more: int = 0


class StructHolder(msgspec.Struct):
    struct: Struct


class Sparse(msgspec.Struct, omit_defaults=True, rename="camel"):
    first_name: str = ""
    seen_at: datetime | None = None


class Array(msgspec.Struct, array_like=True):
    a: int
    b: str


class Cat(msgspec.Struct, tag="cat"):
    n: int


class Dog(msgspec.Struct, tag="dog"):
    n: int


@attrs.define
class Attrs:
    n: int


@attrs.define
class Private:
    _n: int
    other: str = ""
    _more: list[Attrs] = attrs.Factory(list)


@attrs.define
class Aliased:
    n: int = attrs.field(alias="number")


@attrs.define(eq=False)
class AttrsIdentity:
    _n: int


@attrs.define
class Late:
    n: int
    cached: int = attrs.field(init=False, default=0)


@dataclasses.dataclass
class OfPrivate:
    one: Private
    many: list[Private]
    named: dict[str, Private]


class StructOfPrivate(msgspec.Struct, tag="s", rename="camel"):
    the_one: Private


class User(pydantic.BaseModel):
    user_id: int = pydantic.Field(alias="userId")


class Admin(User):
    level: int = 1


class Team(pydantic.BaseModel):
    lead: User


class Secretive(pydantic.BaseModel):
    password: pydantic.SecretStr


class Excluding(pydantic.BaseModel):
    n: int
    hidden: int = pydantic.Field(default=0, exclude=True)


class WithPrivate(pydantic.BaseModel):
    n: int
    _cache: int = pydantic.PrivateAttr(default=0)


class Split(pydantic.BaseModel):
    n: int = pydantic.Field(validation_alias="in", serialization_alias="out")


class Computing(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    n: int

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> int:
        return 2 * self.n


class Extra(pydantic.BaseModel, extra="allow"):
    n: int


class Strict(pydantic.BaseModel, strict=True):
    at: datetime
    key: uuid.UUID
    kind: Colour


class Numbers(pydantic.RootModel[list[int]]):
    pass


class Box(pydantic.BaseModel, Generic[T]):
    item: T


class ModelCat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    n: int


class ModelDog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"
    n: int


class Raw(pydantic.BaseModel):
    data: bytes


@pydantic.dataclasses.dataclass
class Checked:
    user: User
    n: int = pydantic.Field(gt=0)


@dataclasses.dataclass
class OfModels:
    one: User
    many: list[User]
    maybe: User | None = None


class StructOfModel(msgspec.Struct):
    user: User
    users: list[User]


@attrs.define
class AttrsOfModel:
    user: User


class Url(pydantic.BaseModel):
    at: pydantic.HttpUrl


@dataclasses.dataclass
class GenericData(Generic[T]):
    item: T


@dataclasses.dataclass
class Left:
    x: int


@dataclasses.dataclass
class Right:
    x: int
    y: int = 0


class Text(str):
    __slots__ = ()


SECRET = Secretive(password=pydantic.SecretStr("s"))
Pet = Annotated[ModelCat | ModelDog, pydantic.Field(discriminator="kind")]
NOW = datetime(2026, 1, 31, 23, 59, 59, 1, UTC)
KEY = uuid.UUID(int=7)


def _changed(value: Any, **changes: object) -> Any:
    for name, change in changes.items():
        setattr(value, name, change)
    return value


WHOLE: list[tuple[Any, object]] = [
    (int, 5),
    (int, -(2**70)),
    (int, 2**200),
    (float, -0.0),
    (float, 1e300),
    (float, 5),
    (bool, True),
    (str, "é\0\n\u2028😀"),
    (type(None), None),
    (None, None),
    (str | None, None),
    (int | str, "a"),
    (Literal["a", 1], 1),
    (Colour, Colour.RED),
    (Level, Level.LOW),
    (datetime, NOW),
    (datetime, datetime(2026, 1, 1)),
    (datetime, NOW.astimezone(timezone(timedelta(hours=5)))),
    (date, date(1, 1, 1)),
    (time, time(1, 2, 3)),
    (timedelta, timedelta(days=-1, microseconds=1)),
    (Decimal, Decimal("1.10")),
    (uuid.UUID, KEY),
    (dict[int, str], {1: "a"}),
    (dict[str, Any], {"a": [1, None, {"b": 1.5}]}),
    (dict, {}),
    (list, [[], {}]),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2)),
    (set[int], {1, 2}),
    (frozenset[str], frozenset("ab")),
    (Point, Point(1, 2.0)),
    (Row, {"n": 1}),
    (list[Data], [Data(1)]),
    (Data, Data(1)),
    (Wider, Wider(1, None, 5)),
    (Data | None, Data(1)),
    (Hidden, Hidden(1)),
    (Computed, Computed(2)),
    (Holder, Holder(Data(1))),
    (Reading, Reading(0.1)),
    (Loose, Loose([1, "a", None])),
    (Struct, Struct(1)),
    (StructHolder, StructHolder(Struct(1))),
    (Sparse, Sparse()),
    (Sparse, Sparse("Ada", NOW)),
    (Array, Array(1, "b")),
    (Cat | Dog, Dog(1)),
    (list[Cat | Dog], [Dog(1), Cat(2)]),
    (Attrs, Attrs(1)),
    (Private, Private(1, "x", [Attrs(2)])),
    (Aliased, Aliased(1)),
    (list[Private], [Private(1)]),
    (dict[str, Private], {"a": Private(1)}),
    (Private | None, Private(1)),
    (OfPrivate, OfPrivate(Private(1), [Private(2)], {"a": Private(3)})),
    (StructOfPrivate, StructOfPrivate(Private(1))),
    (Late, Late(1)),
    (Uncompared, Uncompared(1)),
    (Stamped, Stamped(1, 5.0)),
    (Late, _changed(Late(1), cached=5)),
    (GenericData[int], GenericData(1)),
    (GenericData[Data], GenericData(Data(1))),
    (User, User(userId=1)),
    (Admin, Admin(userId=1, level=2)),
    (list[User], [User(userId=1)]),
    (dict[str, User], {"a": User(userId=1)}),
    (User | None, User(userId=1)),
    (User | None, None),
    (Team, Team(lead=User(userId=1))),
    (Excluding, Excluding(n=1)),
    (WithPrivate, WithPrivate(n=1)),
    (Computing, Computing(n=1)),
    (Extra, Extra.model_validate({"n": 1, "more": "x"})),
    (Strict, Strict(at=NOW, key=KEY, kind=Colour.RED)),
    (Numbers, Numbers([1, 2])),
    (Box[int], Box[int](item=1)),
    (Box[User], Box[User](item=User(userId=1))),
    (Pet, ModelDog(n=1)),
    (list[Pet], [ModelCat(n=1), ModelDog(n=2)]),
    (ModelCat | ModelDog, ModelDog(n=1)),
    (Checked, Checked(User(userId=1), 1)),
    (OfModels, OfModels(User(userId=1), [User(userId=2)])),
    (StructOfModel, StructOfModel(User(userId=1), [User(userId=2)])),
    (AttrsOfModel, AttrsOfModel(User(userId=1))),
    (Url, Url(at=pydantic.HttpUrl("https://example.com/a"))),
    (tuple[User, int], (User(userId=1), 2)),
    (bytes, b"\0\xff"),
    (bytes, bytearray(b"a")),
    (bytearray, bytearray(b"a")),
    (memoryview, memoryview(b"a")),
    (bytes | None, b"null"),
    (bytes | None, None),
    (bytes | str, "a"),
    (bytes | str, b'"a"'),
    (bytes | Data, Data(1)),
    (bytes | Data, b'{"n": 1}'),
    (User | bytes, User(userId=1)),
    (bytearray | User | None, bytearray(b"{}")),
    (Left | Right, Left(1)),
    (Left | Right, Right(1, 5)),
    (Left | Attrs, Attrs(1)),
    (Data | User, User(userId=1)),
    (User | Struct, Struct(1)),
    (Private | Data, Private(1)),
    (str | datetime, "a"),
    (Decimal | str, "a"),
    (Annotated[int, "a count"], 1),
    (Annotated[bytes, "a picture"], b"a"),
    (object, [1]),
    (Any, b"raw"),
    (Any, None),
    (list[bytes], [b"\xff"]),
    (dict[str, bytes], {"a": b"\xff"}),
    (typing.NewType("Id", int), 5),
]

REFUSED: list[tuple[Any, object]] = [
    (str, Text("a")),
    (Data | Attrs, Attrs(1)),
    (int, "5"),
    (int, True),
    (int, 1.5),
    (int, None),
    (str, 5),
    (str, b"a"),
    (bool, 1),
    (float, "1"),
    (str, "\ud800"),
    (int, 10**5000),
    (float, math.nan),
    (float, math.inf),
    (float | None, math.nan),
    (Reading, Reading(math.inf)),
    (Reading, Reading(math.nan)),
    (Loose, Loose(math.nan)),
    (list, [1, math.inf]),
    (dict, {"a": -math.inf}),
    (dict, {1: 2}),
    (dict, {"a": (1, 2)}),
    (dict, {"a": NOW}),
    (dict, {"a": Data(1)}),
    (Loose, Loose(Data(1))),
    (Loose, Loose((1,))),
    (list, (1, 2)),
    (list[int], {1, 2}),
    (dict[tuple[int, int], int], {(1, 2): 3}),
    (Data, _changed(Data(1), n="1")),
    (Data, {"n": 1, "x": 2}),
    (Data, Wider(1, None, 5)),
    (Data, Narrow(1)),
    (Data, Attrs(1)),
    (Data, None),
    (Holder, Holder(Wider(1, None, 5))),
    (list[Data], [Narrow(1)]),
    (Growing, Growing(1)),
    (Custom, Custom(1j)),
    (Struct, StructWider(1, 2)),
    (StructHolder, StructHolder(StructWider(1, 2))),
    (Cat | Dog, Data(1)),
    (User, Admin(userId=1)),
    (User, User.model_construct(user_id="x")),
    (Team, Team(lead=Admin(userId=1, level=5))),
    (list[User], [Admin(userId=1)]),
    (Secretive, Secretive(password=pydantic.SecretStr("s"))),
    (list[Secretive], [SECRET]),
    (Excluding, Excluding(n=1, hidden=5)),
    (Split, Split(**{"in": 1})),
    (Pet, User(userId=1)),
    (Raw, Raw(data=b"\xff")),
    (OfModels, OfModels(Admin(userId=1), [])),
    (StructOfModel, StructOfModel(Admin(userId=1), [])),
    (bytes, "a"),
    (bytes, {"a": 1}),
    (bytes, None),
    (bytes | None, 5),
    (bytes | Data, "a"),
    (bytes, memoryview(b"abcd").cast("i")),
    (Left | Right, Data(1)),
    (Data, b"{}"),
    (Any, math.nan),
    (Any, [{"a": math.inf}]),
    (Any, {"a": Reading(math.nan)}),
    (Any, [SECRET]),
    (Any, "\ud800"),
    (Any, object()),
    (Any, 1j),
    (Any, Excluding(n=1, hidden=5)),
    (Any, {math.nan: 1}),
]


REFUSED += [
    (Computed, _changed(Computed(1), twice=77)),
    (Uncompared, _changed(Uncompared(1), cache=5)),
    (list[Uncompared], [_changed(Uncompared(1), cache=5)]),
    (Stamped, Stamped(1, math.nan)),
    (WithPrivate, _changed(WithPrivate(n=1), _cache=5)),
]


def _names(value: object) -> str:
    return getattr(value, "__name__", None) or type(value).__name__


def event_of(data: bytes, content_type: str) -> Event:
    return Event("1", "t", "/s", 0.0, data, None, content_type)


@pytest.mark.parametrize(("annotation", "value"), WHOLE, ids=_names)
def test_comes_back_equal(annotation: Any, value: Any) -> None:
    both = codec(annotation)
    got = both.decode(event_of(*both.encode(value)))
    assert got == value


@pytest.mark.parametrize(("annotation", "value"), REFUSED, ids=_names)
def test_is_refused_where_it_is_published(annotation: Any, value: object) -> None:
    with pytest.raises(UsageError):
        codec(annotation).encode(value)


@pytest.mark.parametrize(
    "annotation",
    [
        collections.deque,
        complex,
        typing.Never,
        typing.Callable,
        Cat | complex,
        "no type",
        dict[str, Data | Attrs],
    ],
    ids=_names,
)
def test_a_type_that_nothing_can_hold_is_refused_when_declared(annotation: Any) -> None:
    with pytest.raises(UsageError, match="payload type"):
        codec(annotation)


@pytest.mark.parametrize("value", [Identity(1, [Data(2)]), AttrsIdentity(1)], ids=_names)
def test_a_class_without_equality_is_compared_by_its_fields(value: Any) -> None:
    both = codec(type(value))
    got = both.decode(event_of(*both.encode(value)))
    assert type(got) is type(value)
    assert got is not value
    assert encode(got) == encode(value)


@pytest.mark.parametrize(
    "value", [User(userId=1), Private(1), Sparse("a"), Data(1), Pet, OfModels(User(userId=1), [])], ids=_names
)
def test_a_publisher_that_knows_no_handler_writes_what_the_handler_reads(value: Any) -> None:
    if value is Pet:
        value = ModelDog(n=1)
    assert codec(type(value)).decode(event_of(*encode(value))) == value


@pytest.mark.parametrize(
    "value",
    [
        Reading(math.nan),
        Secretive(password=pydantic.SecretStr("s")),
        [Reading(math.inf)],
        {"a": [math.nan]},
        GenericData(math.nan),
        Growing(1),
        (1, math.inf),
        [Excluding(n=1, hidden=5)],
        memoryview(b"abcd").cast("i"),
    ],
    ids=_names,
)
def test_what_its_own_class_would_lose_is_refused_without_a_handler_too(value: object) -> None:
    with pytest.raises(UsageError):
        encode(value)


@pytest.mark.parametrize(
    ("annotation", "given", "got"),
    [
        (Data, {"n": 1}, Data(1)),
        (Data, {"n": 1, "note": None}, Data(1)),
        (list[Data], [{"n": 1}], [Data(1)]),
        (Holder, {"data": {"n": 1}}, Holder(Data(1))),
        (User, {"userId": 1}, User(userId=1)),
        (OfModels, {"one": {"userId": 1}, "many": []}, OfModels(User(userId=1), [])),
        (tuple[int, ...], [1], (1,)),
        (dict[int, str], {"1": "a"}, {1: "a"}),
        (Left | Right, {"x": 1, "y": 5}, Right(1, 5)),
        (Sparse, {"seenAt": "2026-01-01T00:00:00Z"}, Sparse("", datetime(2026, 1, 1, tzinfo=UTC))),
    ],
    ids=_names,
)
def test_json_may_stand_for_a_class_where_nothing_gets_lost(annotation: Any, given: Any, got: object) -> None:
    both = codec(annotation)
    assert both.decode(event_of(*both.encode(given))) == got


@pytest.mark.parametrize(
    ("annotation", "given"),
    [
        (Data, {"n": 1, "x": 2}),
        (Data, {"n": "1"}),
        (list[Data], [{"n": 1, "x": 2}]),
        (Holder, {"data": {"n": 1, "more": 5}}),
        (User, {"userId": 1, "x": 1}),
        (float, {"a": 1}),
        (dict[str, float | None], {"a": math.nan}),
        (set[int], [1, 1]),
        (Data, {"n": 1, "note": NOW}),
    ],
    ids=_names,
)
def test_json_of_which_something_would_get_lost_is_refused(annotation: Any, given: object) -> None:
    with pytest.raises(UsageError):
        codec(annotation).encode(given)


def test_plain_json_without_a_type_is_as_it_was() -> None:
    assert encode({"a": (1, NOW), "b": Data(1), 1: {2}}) == (
        b'{"a":[1,"2026-01-31T23:59:59.000001Z"],"b":{"n":1,"note":null},"1":[2]}',
        JSON,
    )
    assert encode(GenericData(Data(1))) == (b'{"item":{"n":1,"note":null}}', JSON)
    assert codec(Any).decode(event_of(b'{"n":1}', JSON)) == {"n": 1}
    assert codec(bytes).decode(event_of(b'{"n":1}', JSON)) == b'{"n":1}'


def test_of_bytes_or_another_type_the_content_type_decides() -> None:
    both = codec(bytes | Data)
    assert both.encode(b'{"n":1}') == (b'{"n":1}', BINARY)
    assert both.decode(event_of(b'{"n":1}', "application/json; charset=utf-8")) == Data(1)
    assert both.decode(event_of(b"\xff\xd8", "image/jpeg")) == b"\xff\xd8"


def test_what_a_payloads_own_methods_raise_is_a_usage_error() -> None:
    class Broken(pydantic.BaseModel):
        n: int

        @pydantic.field_serializer("n")
        def bad(self, n: int) -> int:
            raise LookupError("no")

    @dataclasses.dataclass
    class Unequal:
        n: int

        def __eq__(self, other: object) -> bool:
            raise RuntimeError

    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for annotation, value in ((Broken, Broken(n=1)), (Unequal, Unequal(1)), (list, deep), (Any, deep)):
        with pytest.raises(UsageError):
            codec(annotation).encode(value)


def test_no_secret_stands_in_the_refusal() -> None:
    with pytest.raises(UsageError) as error:
        codec(Secretive).encode(Secretive(password=pydantic.SecretStr("canary")))
    assert "canary" not in str(error.value)


@dataclasses.dataclass
class Dated:
    n: int
    id: uuid.UUID = dataclasses.field(default_factory=uuid.uuid4)
    at: datetime = dataclasses.field(default_factory=lambda: datetime.now(UTC))


class StampedStruct(msgspec.Struct, omit_defaults=True):
    n: int
    tags: list[str] = []
    id: uuid.UUID = msgspec.field(default_factory=uuid.uuid4)


class StampedModel(pydantic.BaseModel):
    n: int
    id: uuid.UUID = pydantic.Field(default_factory=uuid.uuid4)


@attrs.define
class StampedAttrs:
    n: int
    _id: uuid.UUID = attrs.field(factory=uuid.uuid4)


@dataclasses.dataclass
class OfStamped:
    each: list[Dated]
    by: dict[str, StampedModel | None] = dataclasses.field(default_factory=dict)


class Masked(pydantic.BaseModel):
    n: int
    password: pydantic.SecretStr = pydantic.SecretStr("canary")


class Unchecked(pydantic.BaseModel):
    n: int
    note: str = None  # type: ignore[assignment]


class Restamped(pydantic.BaseModel):
    n: int
    _id: uuid.UUID = pydantic.PrivateAttr(default_factory=uuid.uuid4)


@dataclasses.dataclass
class Priced:
    price: Decimal


class LeavingOut(pydantic.BaseModel):
    n: int = pydantic.Field(exclude=True)


class LeavingOutDefault(pydantic.BaseModel):
    n: int = pydantic.Field(default=0, exclude=True)


@dataclasses.dataclass
class Rolled:
    n: int
    id: str = ""

    def __post_init__(self) -> None:
        self.id = str(uuid.uuid4())


@pytest.mark.parametrize(
    ("annotation", "given"),
    [
        *((kind, {"n": 1}) for kind in (Dated, StampedStruct, StampedModel, StampedAttrs, Masked, Unchecked)),
        (list[Dated], [{"n": 1}, {"n": 2}]),
        (OfStamped, {"each": [{"n": 1}], "by": {"a": {"n": 2}, "b": None}}),
        (Dated | StampedAttrs, {"n": 1}),
        (bytes | Dated, {"n": 1}),
    ],
    ids=_names,
)
def test_json_that_stands_for_a_class_is_the_same_at_every_attempt(annotation: Any, given: Any) -> None:
    both = codec(annotation)
    event = event_of(*both.encode(given))
    first, again = both.decode(event), both.decode(event)
    assert first == again


@pytest.mark.parametrize(("annotation", "where"), [(Restamped, "_id"), (Rolled, "id")], ids=_names)
def test_json_that_would_be_another_at_each_attempt_is_refused(annotation: Any, where: str) -> None:
    with pytest.raises(UsageError, match=f": {where} would be another at each attempt"):
        codec(annotation).encode({"n": 1})


class Base(msgspec.Struct):
    n: int


class Sub(Base):
    more: int


class Shelf(msgspec.Struct):
    pets: dict[str, list[Base]]
    notes: tuple[float | None, ...] = ()


@pytest.mark.parametrize(
    ("annotation", "payload", "said"),
    [
        (Shelf, Shelf({"a": [Base(1), Sub(1, 2)]}), r"pets.a\[1\] is of type Sub, and would come back as Base"),
        (Shelf, Shelf({}, (1.0, math.nan)), r"notes\[1\] is nan, and JSON has no such number: send None instead"),
        (list[dict[str, float]], [{}, {"x": -math.inf}], r": \[1\].x is -inf, and JSON has no such number: send None"),
        (Any, {"a": [0.5, {"b": math.inf}]}, r"a\[1\].b is inf, and JSON has no such number: send None"),
        (Any, {"a": [Masked(n=1)]}, r"a\[0\].password is a SecretStr, which is written as asterisks: declare"),
        (Priced, Priced(Decimal("sNaN")), "price is nan"),
        (Priced, Priced(Decimal("NaN")), r"price is nan, and JSON has no such number: send None .* `Decimal \| None`"),
        (LeavingOut, LeavingOut(n=1), r": n is left out when LeavingOut is written \(exclude=True\): remove `exclude`"),
        (
            list[LeavingOutDefault],
            [LeavingOutDefault(n=1)],
            r": \[0\].n is left out when LeavingOutDefault is written \(exclude=True\): remove `exclude`",
        ),
        (Data, {"n": "no number"}, r"Expected `int`, got `str` - at `\$.n`"),
        (Shelf, {"pets": {"a": [{"n": 1, "x": 2}]}}, r"pets.a\[0\].x would get lost"),
        (list[Data], [{"n": 1}, {"n": 2, "more": 0}], r"\[1\].more would get lost"),
        (Rolled, Rolled(1), "id would come back as another str"),
        (Restamped, Restamped(n=1), "_id would come back as another UUID"),
        (Masked, Masked(n=1), "password is a SecretStr, which is written as asterisks: declare the plain type there"),
        (Shelf, Shelf({"\x1b[31m" * 99: [Sub(1, 2)]}), r"pets.\\x1b\[31m\S{1,60}\[0\] is of type Sub"),
        (list[int], (1, 2), "it is of type tuple, and would come back as list"),
    ],
    ids=_names,
)
def test_a_refusal_names_the_first_difference(annotation: Any, payload: object, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        codec(annotation).encode(payload)
    assert "canary" not in str(error.value)
    assert "publish" not in str(error.value), "it may be emitted"


def test_payloads_of_other_classes_in_turn_are_encoded_each_in_its_own_way() -> None:
    """The last class is remembered."""

    class One(msgspec.Struct):
        n: int

    class Two(msgspec.Struct):
        n: int

    turns: list[tuple[Any, str]] = [
        (One(1), "One"),
        (One(2), "One"),
        (Two(3), "Two"),
        ({"n": 4}, "dict"),
        (One(5), "One"),
    ]
    for payload, name in turns * 2:
        data, kind = encode(payload)
        n = payload["n"] if isinstance(payload, dict) else payload.n
        assert (msgspec.json.decode(data)["n"], kind, type_name(payload)) == (n, JSON, name)
    for _ in range(2):
        assert encode(One(1))[0] == b'{"n":1}'
        with pytest.raises(UsageError, match="can't be sent"):
            encode(int)
        with pytest.raises(UsageError, match="can't be sent"):
            encode(One("no number"))  # type: ignore[arg-type]
