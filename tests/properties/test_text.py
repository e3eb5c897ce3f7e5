"""The one escaping function."""

from __future__ import annotations

import logging
import sys

from hypothesis import given
from hypothesis import strategies as st

from eventwagon.display.text import LogFormatter, as_line, escaped, indented, plain

ANYTHING = st.text(st.characters(codec=None, exclude_categories=())) | st.text(
    st.sampled_from("\x1b\x9b\n\r\x00\x7f\u202e\u2028\ud800[/bold]\\ aé漢😀")
)


@given(ANYTHING)
def test_what_is_escaped_is_one_line_of_characters_that_a_terminal_shows(text: str) -> None:
    found = escaped(text)
    assert found.isprintable()
    found.encode()
    assert escaped(found) == found
    assert as_line(as_line(text)) == as_line(text)
    assert len(plain(text, 20)) <= 20
    if text.isprintable():
        assert found == text


@given(ANYTHING, ANYTHING)
def test_no_record_looks_like_two(message: str, of_the_error: str) -> None:
    try:
        raise RuntimeError(of_the_error)
    except RuntimeError:
        info = sys.exc_info()
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "%s", (message,), info)
    first, *rest = LogFormatter("%(levelname)s %(message)s").format(record).split("\n")
    assert first.startswith("INFO ")
    assert rest
    assert all(
        line.startswith("    ") and line.isprintable() for line in (*rest, *indented(message).split("\n")) if line
    )
    assert first.isprintable()
