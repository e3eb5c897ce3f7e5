"""The settings as keywords, which type checkers see, are the fields of Settings."""

from __future__ import annotations

import inspect
import types
import typing

from eventwagon import Settings, Train, testing
from eventwagon.settings_given import FurtherSettings, GivenSettings


def test_type_checkers_see_every_setting_with_its_type() -> None:
    given = typing.get_type_hints(GivenSettings)
    assert given == typing.get_type_hints(Settings)
    own = inspect.signature(Train).parameters
    assert typing.get_type_hints(FurtherSettings).keys() == given.keys() - own.keys()
    hints = typing.get_type_hints(Train.__init__)
    for name in given.keys() & own.keys():
        without_none = typing.get_args(hints[name])
        assert hints[name] == given[name] | None, name
        assert types.NoneType in without_none
    for function in (Train.__init__, testing.running):
        assert typing.get_origin(typing.get_type_hints(function)["settings"]) is typing.Unpack
