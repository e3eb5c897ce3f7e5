"""The file of keys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eventwagon.errors import UsageError
from eventwagon.gateway.keys import hashed, load_keys, new_key


def test_a_new_key_is_found_by_its_hash_only(tmp_path: Path) -> None:
    key, lines = new_key("shop", ["orders"])
    other, more = new_key("ops", ["*"], work=True)
    path = tmp_path / "keys.toml"
    path.write_text(lines + more + "rate = 5\n")
    found = load_keys(path)
    assert key not in path.read_text()
    assert found[hashed(key)].may("orders")
    assert not found[hashed(key)].may("signups")
    assert found[hashed(other)].may("signups")
    assert found[hashed(other)].rate == 5
    assert (found[hashed(key)].work, found[hashed(other)].work) == (False, True)
    assert key != other


HASH = "0" * 64


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds no key"),
        ("[a", "is no TOML"),
        ("a = 1", "must be a table"),
        ('[a]\ntrains = ["x"]', "sha256 must be the 64 digits"),
        ('[a]\nsha256 = "ew_secret"\ntrains = ["x"]', "never the key itself"),
        (f'[a]\nsha256 = "{HASH}"', "trains must be a list"),
        (f'[a]\nsha256 = "{HASH}"\ntrains = "x"', "trains must be a list"),
        (f'[a]\nsha256 = "{HASH}"\ntrains = ["X Y"]', "train name"),
        (f'[a]\nsha256 = "{HASH}"\ntrains = ["x"]\nrate = 0', "rate must be a number"),
        (f'[a]\nsha256 = "{HASH}"\ntrains = ["x"]\nrate = nan', "rate must be a number"),
        (f'[a]\nsha256 = "{HASH}"\ntrains = ["x"]\nrates = 1', "unknown field 'rates'"),
        (f'[a]\nsha256 = "{HASH}"\ntrains = ["x"]\nwork = 1', "work must be true or false"),
        (f'[a]\nsha256 = "{HASH}"\ntrains = ["x"]\n[b]\nsha256 = "{HASH}"\ntrains = ["x"]', "are the same key"),
    ],
)
def test_bad_files(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=why) as refused:
        load_keys(path)
    assert "ew_secret" not in str(refused.value)


def test_a_pipe_is_refused_and_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys")
    with pytest.raises(UsageError, match="is no regular file"):
        load_keys(tmp_path / "keys")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read: No such file"):
        load_keys(tmp_path / "none.toml")


@pytest.mark.parametrize("name", ["", "a b", "a]", "x" * 61])
def test_bad_names(name: str) -> None:
    with pytest.raises(UsageError, match="its name is"):
        new_key(name, ["orders"])
