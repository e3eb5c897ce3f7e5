"""One loader of users' programs, whoever loads them: the command line, a unit's process, a Lambda function."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from eventwagon.errors import UsageError
from eventwagon.loading import load


@pytest.mark.parametrize(
    ("code", "target", "says"),
    [
        ("", "loaded_a", "target 'loaded_a': write module:attribute"),
        ("", "loaded_a:", "write module:attribute"),
        ("", ":train", "write module:attribute"),
        ("train = 1", "loaded_b:trian", "loaded_b has no 'trian'; its trains: train"),
        ("other = 'x'", "loaded_c:train", "loaded_c has no 'train', and no train at all"),
        ("train = 'x'", "loaded_d:train", "is a str, not a Train"),
        ("1 / 0", "loaded_e:train", "importing loaded_e failed at loaded_e.py:1: ZeroDivisionError"),
        ("import not_there", "loaded_f:train", "there is no module 'not_there'; is it installed?"),
        ("raise SystemExit", "loaded_g:train", "importing loaded_g failed at loaded_g.py:1: SystemExit"),
        ("x = (", "loaded_h:train", "loaded_h.py:1:"),
        ("", "loaded_absent/x.py:train", "there is no file loaded_absent/x.py"),
    ],
)
def test_what_is_wrong_is_said_in_the_users_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, target: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / f"{target.partition(':')[0].partition('/')[0] or 'x'}.py").write_text(code)
    with pytest.raises(UsageError) as refused:
        load(target, lambda found: isinstance(found, int), what="target")
    assert says in str(refused.value)


def test_a_file_and_an_attribute_of_an_attribute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "loaded_file.py").write_text("class app:\n    train = 7\n")
    assert load(f"{tmp_path}/loaded_file.py:app.train", lambda found: isinstance(found, int)) == 7
