"""Encodes the payloads that users publish and handle to bytes, and back. The type comes from the handler's annotation.
Pure.

JSON by msgspec: Structs, dataclasses, attrs classes, TypedDicts, dicts, lists and plain values. Types that involve
Pydantic go through Pydantic's own TypeAdapter. `bytes`, `bytearray` and `memoryview` travel unchanged.

A payload comes back equal, or is refused when it is published: if the type is known, each payload is decoded again and
compared, which costs less than half a microsecond for a small one and can't be wrong about any type. Dicts and lists as
JSON has them may stand for a class if none of their content gets lost.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

import msgspec

from .display.text import plain, without_values
from .errors import UsageError
from .event import BINARY, JSON, Event, legible
from .values import class_name, is_a

_RAW = (bytes, bytearray, memoryview)
_UNTYPED = (Any, object, inspect.Parameter.empty)


# --- types ------------------------------------------------------------------------------------


def _bare(annotation: Any) -> Any:
    """The type itself, without metadata and with aliases resolved."""
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = annotation.__origin__
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        else:
            return annotation


def _members(annotation: Any) -> list[Any]:
    """A union's types, including those of nested unions; otherwise just the type."""
    bare = _bare(annotation)
    if typing.get_origin(bare) in (typing.Union, types.UnionType):
        return [member for argument in typing.get_args(bare) for member in _members(argument)]
    return [annotation]


def _parts(annotation: Any) -> Iterator[Any]:
    """The annotation and all its parts: arguments, and the fields of classes except Pydantic's."""
    todo, seen = [annotation], set[int]()
    while todo:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        if typing.get_origin(part) is typing.Annotated:
            todo += [part.__origin__]
            continue
        todo += typing.get_args(_bare(part))
        cls = typing.get_origin(_bare(part)) or _bare(part)
        if isinstance(cls, type) and cls.__module__ != "builtins" and not _is_pydantic(cls):
            try:
                todo += typing.get_type_hints(cls, include_extras=True).values()
            except Exception:  # noqa: BLE001, S112 - building the codec reports what is wrong with it
                continue


def _is_pydantic(part: Any) -> bool:
    """Whether only Pydantic understands this: one of its models, dataclasses or types, or its metadata on another
    type."""
    if typing.get_origin(part) is typing.Annotated:
        return any(type(word).__module__.partition(".")[0] == "pydantic" for word in part.__metadata__)
    return isinstance(part, type) and (
        hasattr(part, "__pydantic_validator__") or hasattr(part, "__get_pydantic_core_schema__")
    )


def _hides_fields(part: Any) -> bool:
    """Whether msgspec would leave out fields: those of an attrs class whose names begin with an underscore."""
    return isinstance(part, type) and any(a.name.startswith("_") for a in getattr(part, "__attrs_attrs__", ()))


def _ignores_fields(part: Any) -> bool:
    """Whether objects that differ in a field may count as equal."""
    if not isinstance(part, type):
        return False
    if dataclasses.is_dataclass(part) and not all(f.compare for f in dataclasses.fields(part)):
        return True
    return not all(a.eq for a in getattr(part, "__attrs_attrs__", ()))


def _is_record(cls: type) -> bool:
    return (
        issubclass(cls, msgspec.Struct)
        or dataclasses.is_dataclass(cls)
        or hasattr(cls, "__attrs_attrs__")
        or _is_pydantic(cls)
    )


# --- forms: how one type is written to JSON and read back ------------------------------------


class _Form(typing.NamedTuple):
    dumps: Callable[[Any], bytes]
    loads: Callable[[bytes], Any]
    equality: bool = True
    """Whether objects that count as equal are equal in all fields."""


def _form(annotation: Any) -> _Form:
    """The form of a type. Raises UsageError if no library can write and read it."""
    parts = list(_parts(annotation))
    equality = not any(_ignores_fields(part) for part in parts)
    said = ""
    if any(_is_pydantic(part) for part in parts):
        try:
            return _by_pydantic(annotation)._replace(equality=equality)
        except Exception as e:  # noqa: BLE001 - Pydantic can't handle the type, whatever it raises
            said = _line(e)
    try:
        return _by_msgspec(annotation, hidden=any(_hides_fields(part) for part in parts))._replace(equality=equality)
    except Exception as e:
        members = _members(annotation)
        if len(members) == 1:
            raise UsageError(f"payload type {annotation!r}: {said or _line(e)}") from e
    return _by_member([_form(member) for member in members])


def _by_pydantic(annotation: Any) -> _Form:
    from pydantic import TypeAdapter  # already imported by the owner of the type

    adapter = TypeAdapter(annotation)
    if not getattr(adapter, "pydantic_complete", True):
        raise UsageError(f"{annotation!r} names a type that is not defined")
    dumps = functools.partial(adapter.dump_json, by_alias=True, round_trip=True, warnings=False)
    return _Form(dumps, adapter.validate_json)


def _by_msgspec(annotation: Any, *, hidden: bool) -> _Form:
    if isinstance(msgspec.inspect.type_info(annotation), msgspec.inspect.CustomType) and not _is_pydantic(annotation):
        raise TypeError("no type that JSON can hold")
    loads = msgspec.json.Decoder(annotation, dec_hook=_from_plain).decode
    return _Form(_dump_open if hidden else _json.encode, loads)


def _by_member(forms: list[_Form]) -> _Form:
    """The form of a union that no library supports: each member has its own form. A payload is decoded by the first
    member that keeps all of it, or else by the first that accepts it."""

    def dumps(payload: Any) -> bytes:
        for form in forms:
            try:
                data = form.dumps(payload)
                if _alike(payload, form.loads(data)):
                    return data
            except Exception:  # noqa: BLE001, S112 - it is not of this member's type
                continue
        if is_a(payload, dict, list):  # JSON that may stand for one of them
            return _json.encode(payload)
        raise TypeError("it is of none of the union's types")

    def loads(data: bytes) -> Any:
        found: list[Any] = []
        wanted, last = msgspec.json.decode(data), None
        for form in forms:
            try:
                value = form.loads(data)
                if msgspec.json.decode(form.dumps(value)) == wanted:
                    return value
                found.append(value)
            except Exception as e:  # noqa: BLE001 - it is not of this member's type
                last = e
        if not found:
            raise ValueError(f"it is of none of the union's types: {_line(last) if last else ''}")
        return found[0]

    return _Form(dumps, loads, equality=False)


def _to_plain(value: Any) -> Any:
    """Encode what msgspec does not know: Pydantic's objects, also inside other values."""
    if _is_pydantic(type(value)) and (own := _own(type(value))) is not None:
        return msgspec.Raw(own.encode(value)[0])
    raise TypeError(f"{type(value).__name__} is no type that JSON can hold")


def _from_plain(wanted: type, value: Any) -> Any:
    if _is_pydantic(wanted) and (own := _own(wanted)) is not None:
        return own.loads(msgspec.json.encode(value))
    raise TypeError(f"{wanted.__name__} is no type that JSON can hold")


_json = msgspec.json.Encoder(enc_hook=_to_plain)
_anything = msgspec.json.Decoder().decode


def _dump_open(payload: Any) -> bytes:
    return _json.encode(_open(payload))


def _open(value: Any) -> Any:
    """The value with objects of attrs classes turned into dicts of all fields, in the form that msgspec reads."""
    if issubclass(type(value), Mapping):
        return {key: _open(item) for key, item in value.items()}
    if is_a(value, list, tuple, set, frozenset):
        return [_open(item) for item in value]
    fields = _fields(value)
    if fields is None:
        return value
    opened = {name: _open(item) for name, item in fields.items()}
    if is_a(value, msgspec.Struct):
        config = value.__struct_config__
        opened = dict(zip(value.__struct_encode_fields__, opened.values(), strict=True))
        if config.tag is not None:
            opened = {config.tag_field or "type": config.tag, **opened}
        return list(opened.values()) if config.array_like else opened
    return opened


def _fields(value: Any) -> dict[str, Any] | None:
    """The fields of a Struct, dataclass or attrs object, by name; None for anything else."""
    cls = type(value)
    if _is_pydantic(cls):
        return None
    if is_a(value, msgspec.Struct):
        names: list[str] = list(value.__struct_fields__)
    elif hasattr(cls, "__attrs_attrs__"):
        names = [a.name for a in cls.__attrs_attrs__]
    elif dataclasses.is_dataclass(cls):
        names = [f.name for f in dataclasses.fields(cls)]
    else:
        return None
    return {name: getattr(value, name) for name in names}


# --- what is lost ---------------------------------------------------------------------------------


def _alike(sent: Any, got: Any) -> bool:
    """Whether a value came back as it was sent, compared field by field: for objects that are equal only to themselves,
    and values that contain such objects."""
    if sent is got:
        return True
    if type(sent) is not type(got):
        return bool(sent == got)
    if is_a(sent, list, tuple):
        return len(sent) == len(got) and all(map(_alike, sent, got))
    if is_a(sent, dict):
        return sent.keys() == got.keys() and all(_alike(item, got[key]) for key, item in sent.items())
    fields, others = _fields(sent), _fields(got)
    if fields is None or others is None:
        return bool(sent == got)
    return all(_alike(item, others[name]) for name, item in fields.items())


def _is_json(value: Any) -> bool:
    """Whether a value is one that reading JSON can return."""
    cls = type(value)
    if cls is dict:
        return all(type(key) is str and _is_json(item) for key, item in value.items())
    if cls is list:
        return all(map(_is_json, value))
    return cls in _SIMPLE or (cls is float and math.isfinite(value))


def _missing(read: Any, given: Any, at: str = "") -> str | None:
    """Where a part of the given JSON is missing in the decoded value; None: nothing is missing."""
    if is_a(given, dict):
        if not is_a(read, dict):
            return at
        parts = ((_step(at, key), key in read, read.get(key), item) for key, item in given.items())
    elif is_a(given, list):
        if not is_a(read, list) or len(read) != len(given):
            return at
        parts = ((f"{at}[{place}]", True, *both) for place, both in enumerate(zip(read, given, strict=True)))
    else:
        return at if is_a(read, dict, list) else None
    for where, is_there, found, item in parts:
        if not is_there:
            return where
        if (deeper := _missing(found, item, where)) is not None:
            return deeper
    return None


def _difference(sent: Any, got: Any, at: str = "") -> tuple[str, Any, Any]:
    """The path of the first difference (empty: the whole value), and the values on both sides."""
    if type(sent) is type(got):
        for where, one, other in _both(sent, got, at):
            if not _alike(one, other):
                return _difference(one, other, where)
    return at, sent, got


def _lost(sent: Any, got: Any) -> str:
    """What would not come back, in words, and what to do about it."""
    where, one, other = _difference(sent, got)
    for at, why in _unwritable(sent):
        if at == where:
            return why
    kinds = type(one).__name__, type(other).__name__
    if other is _ABSENT:
        return f"{where} would get lost: leave it out, or declare it"
    if kinds[0] == kinds[1]:
        return (
            f"{where or 'it'} would come back as another {kinds[0]}: look at its class's serializers, validators and "
            "defaults, and at what it compares"
        )
    return (
        f"{where or 'it'} is of type {kinds[0]}, and would come back as {kinds[1]}: declare {kinds[0]} there, or send "
        f"{kinds[1]}"
    )


def _unwritable(value: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """The parts of a value that JSON can't hold, or that its classes mask or leave out: the path of each, and what is
    wrong and what to do about it, in words."""
    cls, it = type(value), at or "it"
    if is_a(value, float, Decimal):
        name = "float" if is_a(value, float) else "Decimal"
        is_nan = is_a(value, Decimal) and Decimal.is_nan(value)
        number = float.__repr__(value) if is_a(value, float) else "nan" if is_nan else ""
        if number in ("nan", "inf", "-inf"):
            advice = f"send None instead (declared as `{name} | None`), or leave it out"
            yield at, f"{it} is {number}, and JSON has no such number: {advice}"
    elif hasattr(cls, "get_secret_value"):
        advice = "declare the plain type there, or send where the secret is kept"
        yield at, f"{it} is a {cls.__name__}, which is written as asterisks: {advice}"
    elif is_a(value, list, tuple, set, frozenset):
        for place, item in enumerate(value):
            yield from _unwritable(item, f"{at}[{place}]")
    elif not is_a(value, str, int):
        fields = getattr(cls, "__pydantic_fields__", None) or {}
        for key, item in _open_dict(value).items():
            where = _step(at, key)
            if key in fields and fields[key].exclude:
                advice = "remove `exclude`, or send a class without that field"
                yield where, f"{where} is left out when {cls.__name__} is written (exclude=True): {advice}"
                continue
            if type(key) is not str:
                yield from _unwritable(key, where)
            yield from _unwritable(item, where)


def _why(payload: Any, error: Exception) -> str:
    """Why what was written of the payload can't be read, in words."""
    try:
        for _, why in _unwritable(payload):
            return why
    except Exception:  # noqa: BLE001, S110 - nested too deeply, or its own methods raise
        pass
    return _line(error)


def _both(sent: Any, got: Any, at: str) -> Iterator[tuple[str, Any, Any]]:
    """The parts of two objects of one type, side by side."""
    if is_a(sent, list, tuple):
        if len(sent) == len(got):
            yield from ((f"{at}[{place}]", *both) for place, both in enumerate(zip(sent, got, strict=True)))
        return
    one, other = (_open_dict(each) for each in (sent, got))
    for key, item in one.items():
        yield _step(at, key), item, other.get(key, _ABSENT)


def _open_dict(value: Any) -> Mapping[Any, Any]:
    if is_a(value, dict):
        return value
    if not hasattr(type(value), "__pydantic_fields__"):
        return _fields(value) or {}
    places = ("__dict__", "__pydantic_extra__", "__pydantic_private__")
    return {key: item for place in places for key, item in (getattr(value, place, None) or {}).items()}


def _step(at: str, key: Any) -> str:
    name = plain(key, 60) if is_a(key, str) else f"a key of {type(key).__name__}"
    return f"{at}.{name}" if at else name


_ABSENT: Any = object()
"""Stands for a missing value."""


def _check_whole(value: Any) -> None:
    """Raise if untyped JSON can't hold the value: NaN, infinity, and anything that the values' classes would lose."""
    cls = type(value)
    if cls in _SIMPLE:
        return
    if is_a(value, float):
        if not math.isfinite(value):
            raise ValueError("JSON has no such number")
    elif issubclass(type(value), Mapping):
        for key, item in value.items():
            if type(key) is not str:
                _check_whole(key)
            _check_whole(item)
    elif is_a(value, list, tuple, set, frozenset):
        for item in value:
            _check_whole(item)
    elif not _is_pydantic(cls):  # Pydantic's own codec was used by `_to_plain`
        if (own := _own(cls)) is not None:
            own.encode(value)
        elif fields := _fields(value):
            for item in fields.values():
                _check_whole(item)


_SIMPLE = frozenset((str, int, bool, type(None)))


# --- codecs ---------------------------------------------------------------------------------------


class Codec(typing.NamedTuple):
    """How payloads of one annotated type are encoded and decoded."""

    encode: Callable[[object], tuple[bytes, str]]
    """To bytes and content type. Raises UsageError if the payload does not fit the type or would not come back equal.
    """
    decode: Callable[[Event], Any]
    """From an event. Raises the errors of the type's own checks if the data don't fit."""


def codec(annotation: Any) -> Codec:
    """The codec for this annotation. Raises UsageError for a type that can't be encoded and decoded.

    `bytes`, `bytearray` and `memoryview` travel unchanged under their own content type, also as members of a union. An
    `Event` is passed on whole. Without a type, a payload is plain JSON and comes back as dicts, lists and plain values.
    """
    bare = _bare(annotation)
    if bare is Event:
        return Codec(encode, lambda event: event)
    if any(bare is untyped for untyped in _UNTYPED) or isinstance(bare, typing.TypeVar):
        return Codec(encode, lambda event: event.data if event.content_type == BINARY else _anything(event.data))
    members = _members(annotation)
    raw = [member for member in map(_bare, members) if member in _RAW]
    if not raw:
        form = _form(annotation)
        loads = form.loads
        return Codec(_verified(form, bare), lambda event: loads(event.data))
    as_they_are: Callable[[bytes], Any] = raw[0]
    rest = [member for member in members if _bare(member) not in _RAW]
    if not rest:

        def encode_raw(payload: object) -> tuple[bytes, str]:
            if not issubclass(type(payload), _RAW):
                raise UsageError(
                    f"{class_name(payload)} can't be sent where a handler takes bytes: encode it, or change the handler"
                )
            return encode(payload)

        return Codec(encode_raw, lambda event: as_they_are(event.data))
    form = _form(typing.Union[tuple(rest)])  # noqa: UP007 - its members are known only at run time
    encode_typed, loads_typed = _verified(form, bare), form.loads

    def decode_either(event: Event) -> Any:
        if event.content_type != BINARY:
            try:
                return loads_typed(event.data)
            except Exception:  # noqa: BLE001, S110 - it is of none of the other types, so it is bytes
                pass
        return as_they_are(event.data)

    return Codec(
        lambda payload: encode(payload) if issubclass(type(payload), _RAW) else encode_typed(payload), decode_either
    )


def encode(payload: object) -> tuple[bytes, str]:
    """Bytes and content type of a payload when nothing is known about its handler. Raises UsageError if it can't be
    encoded, or if its own class would not read it back equal."""
    if issubclass(type(payload), _RAW):
        data = bytes(payload)  # type: ignore[call-overload]
        if data != payload:
            raise UsageError("a memoryview of other than bytes can't be sent: cast it, `.cast('B')`")
        return data, BINARY
    own = None
    try:
        if (own := _own(type(payload))) is not None:
            return own.encode(payload)
        data = _json.encode(payload)
        _check_whole(payload)
    except Exception as e:
        if own is not None and isinstance(e, UsageError):
            raise
        raise UsageError(f"{class_name(payload)} can't be sent: {_why(payload, e)}") from _cause(e)
    return data, JSON


def _verified(form: _Form, annotation: Any) -> Callable[[Any], tuple[bytes, str]]:
    """An encoder of the form that checks its output by decoding it again."""
    write, read, equality = form
    wanted = getattr(annotation, "__qualname__", None) or str(annotation)

    def encode(payload: Any) -> tuple[bytes, str]:
        data = None
        try:
            data = write(payload)
            got = read(data)
            if (equality and payload == got) or _alike(payload, got):
                return data, JSON
            where: str | None = ""
            if is_a(payload, dict, list) and _is_json(payload):
                where = _missing(shown := _anything(write(got)), payload)
                if where is None:
                    return _lasting(form, payload, data, shown, got), JSON
            lost = f"{where} would get lost: leave it out, or declare it" if where else _lost(payload, got)
        except UsageError:
            raise
        except Exception as e:  # noqa: BLE001 - whatever a payload's own methods and checks raise
            lost = _line(e) if data is None else _why(payload, e)
            raise UsageError(f"{class_name(payload)} can't be sent as {wanted}: {lost}") from _cause(e)
        raise UsageError(f"{class_name(payload)} can't be sent as {wanted}: {lost}")

    return encode


def _lasting(form: _Form, payload: Any, data: bytes, shown: Any, got: Any) -> bytes:
    """JSON given in place of a class, with its missing fields filled in: defaults made by a factory (an id, the time)
    must be the same at every attempt."""
    whole = _json.encode(_filled(shown, payload))
    if whole != data:
        with suppress(Exception):  # a default that the type itself would not accept
            if _alike(got, form.loads(whole)):
                return whole
    again = form.loads(data)
    if _alike(got, again):
        return data
    where, _, _ = _difference(got, again)
    raise UsageError(
        f"{class_name(payload)} can't be sent as {type(got).__name__}: {where or 'it'} would be another at each "
        "attempt: send the object itself, or say what is left out"
    )


def _filled(read: Any, given: Any) -> Any:
    """The given JSON, completed with the decoded fields that it lacks."""
    if isinstance(given, dict):
        return {key: _filled(read[key], item) for key, item in given.items()} | {
            key: item for key, item in read.items() if key not in given
        }
    if isinstance(given, list):
        return list(map(_filled, read, given))
    return given


class _Own(typing.NamedTuple):
    encode: Callable[[Any], tuple[bytes, str]]
    loads: Callable[[bytes], Any]


def _form_of(cls: type) -> _Own | None:
    """How objects of a class are encoded, from the class's own declarations; None for classes that declare too
    little."""
    if not _is_record(cls) or getattr(cls, "__parameters__", None):  # a generic class's parameters are unknown
        return None
    try:
        form = _form(cls)
    except UsageError:
        return None
    return _Own(_verified(form, cls), form.loads)


_own: Callable[[Any], _Own | None] = functools.lru_cache(1024)(_form_of)


def _line(error: BaseException) -> str:
    """An error's text in one line, without the values that it quotes."""
    try:
        tidy = without_values(error)
        return "; ".join((str(error) if tidy is None else tidy).split("\n"))
    except Exception:  # noqa: BLE001 - the error's text can't be read
        return type(error).__name__


def _cause(error: BaseException) -> BaseException | None:
    """The error, to be the cause of another; None if it quotes values, which would be printed with it."""
    try:
        return None if without_values(error) is not None else error
    except Exception:  # noqa: BLE001 - the error's text can't be read
        return error


_named: tuple[type, str] = (object, "object")
"""The class that was looked up last, and its name: consecutive payloads mostly have the same class."""


def type_name(payload: object) -> str:
    """The event type of a payload: the name of its class."""
    global _named
    kind = type(payload)
    known, name = _named
    if known is not kind:
        name = class_name(payload)
        name = name if name.isidentifier() else legible(name).strip() or "payload"  # Box[int], say
        _named = kind, name
    return name


# --- signatures -----------------------------------------------------------------------------------


class Shape(msgspec.Struct, frozen=True):
    """A handler's signature."""

    payload: Any
    wants_context: bool
    is_async: bool
    context: Any = None
    """The annotation of its second parameter; None: it has none."""


def shape(function: Callable[..., Any], local_names: dict[str, Any] | None = None) -> Shape:
    """Read a handler's signature: `(payload)` or `(payload, ctx)`, sync or async. Raises UsageError if it can't be
    called that way, or if its annotations can't be resolved.

    `local_names` helps to resolve annotations that name classes defined inside a function.
    """
    where = f"handler {name_of(function)!r}"
    if not callable(function) or isinstance(function, type):
        raise UsageError(f"{where} is no function")
    while isinstance(function, staticmethod):
        function = function.__func__
    try:
        outer, inner = inspect.signature(function, follow_wrapped=False), inspect.signature(function)
        code = _code(function)
    except (TypeError, ValueError) as e:
        raise UsageError(f"{where} has no signature that can be read: {e}") from e
    if any(inspect.isasyncgenfunction(f) or inspect.isgeneratorfunction(f) for f in (code, _called(function))):
        raise UsageError(f"{where} has a yield: emit with ctx.emit(channel, payload) instead")
    # a decorator that passes on *args has no signature of its own
    passes_on = any(p.kind is p.VAR_POSITIONAL for p in outer.parameters.values())
    names = _positional(inner if passes_on else outer)
    required = [name for name, parameter in names.items() if parameter.default is parameter.empty]
    wants_context = len(names) > 1
    try:
        if not names or len(required) > 2:
            raise TypeError(
                "its parameters are unknown; a decorator needs functools.wraps"
                if passes_on
                else "it has others; dependencies need @injected (of eventwagon.depends) below @train.on"
            )
        outer.bind(None, None) if wants_context else outer.bind(None)
    except TypeError as e:
        raise UsageError(f"{where}: give it (payload) or (payload, ctx): {e}") from e
    if next(iter(names)) in ("self", "cls"):
        raise UsageError(
            f"{where} is a method of no object: register the method of an object, `train.on(…)(thing.handle)`"
        )
    try:
        hints = _hints(code, local_names) | _hints(_called(function), local_names)
    except Exception as e:
        raise UsageError(f"{where}: its annotations can't be resolved: {_line(e)}") from e
    if lost := [name for name, parameter in outer.parameters.items() if _is_dependency(hints.get(name), parameter)]:
        raise UsageError(f"{where}: {lost[0]!r} is a dependency: put @injected (of eventwagon.depends) below @train.on")
    payload, *more = names
    context = hints.get(more[0]) if more else None
    return Shape(hints.get(payload, Any), wants_context, inspect.iscoroutinefunction(_called(function)), context)


def one_of(many: Any, where: str) -> Any:
    """The type of one payload, from the annotation of a handler that takes a list of them. `where` begins the error.
    Raises UsageError for an annotation that is no list of something."""
    bare = _bare(many)
    if typing.get_origin(bare) in (list, Sequence) and (types_of_one := typing.get_args(bare)):
        return types_of_one[0]
    found = "" if bare is Any else f", not {getattr(bare, '__qualname__', None) or bare}"
    raise UsageError(
        f"{where}: with batch= it takes a list of payloads: annotate the parameter with list[Order], say{found}; "
        "list[Any] is plain JSON"
    )


def _is_dependency(annotation: Any, parameter: inspect.Parameter) -> bool:
    """Whether fast-depends would have to resolve the parameter."""
    words = annotation.__metadata__ if typing.get_origin(annotation) is typing.Annotated else ()
    return any(type(word).__module__.partition(".")[0] == "fast_depends" for word in (*words, parameter.default))


def name_of(function: Any) -> str:
    """The handler's name in messages."""
    if isinstance(function, functools.partial):  # its repr would show the bound arguments
        function = function.func
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type(function).__qualname__


def _hints(function: Any, local_names: dict[str, Any] | None) -> dict[str, Any]:
    return typing.get_type_hints(function, localns=local_names, include_extras=True)


def _positional(signature: inspect.Signature) -> dict[str, inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {name: parameter for name, parameter in signature.parameters.items() if parameter.kind in kinds}


def _called(function: Any) -> Any:
    """The function whose code runs first when this is called: behind partials and objects, not behind decorators."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


def _code(function: Any) -> Any:
    """The function that the user wrote: behind decorators too."""
    while (deeper := inspect.unwrap(_called(function))) is not function:
        function = deeper
    return function


def caller_names(depth: int) -> dict[str, Any]:
    """The local names of the function `depth` calls up, where a decorator is used."""
    return dict(sys._getframe(depth + 1).f_locals)
