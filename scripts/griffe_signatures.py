"""For the reference: the signatures of classes whose constructor is made when they are imported, as msgspec's are."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import griffe
import msgspec

_DOCUMENT = re.compile(r"`?docs/([a-z/-]+)\.md`?")


class Signatures(griffe.Extension):
    """Gives each msgspec Struct the constructor that it has, with annotations as they are written, and makes links of
    the documents that docstrings name."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """`docs/once.md` in a docstring leads to that page, seen from `reference/NAME.md`."""
        if obj.docstring is not None:
            obj.docstring.value = _DOCUMENT.sub(r"[\1](../\1.md)", obj.docstring.value)

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Add `__init__` from the class itself."""
        found: Any = importlib.import_module(cls.module.path)
        for name in cls.path.removeprefix(f"{cls.module.path}.").split("."):
            found = getattr(found, name, None)
        if not isinstance(found, type) or not issubclass(found, msgspec.Struct) or "__init__" in cls.members:
            return
        parameters = [griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)]
        for each in inspect.signature(found).parameters.values():
            default = None if each.default is each.empty else repr(each.default)
            kind = griffe.ParameterKind(each.kind.description)
            field = cls.members.get(each.name)
            annotation = field.annotation if isinstance(field, griffe.Attribute) else None
            parameters.append(griffe.Parameter(each.name, annotation=annotation, kind=kind, default=default))
        cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(*parameters)))
