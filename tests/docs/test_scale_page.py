"""docs/scale.md is what its script makes of the figures that are kept beside it."""

from __future__ import annotations

from benchmarks.scale import page
from benchmarks.scale.figures import kept

_AGAIN = "run make scale ARGS=--page"


def test_the_page_is_made_of_its_figures() -> None:
    assert page.DOCUMENT.read_text(encoding="utf-8") == page.document(kept()), _AGAIN


def test_the_picture_is_made_of_its_figures() -> None:
    assert page.PICTURE.read_text(encoding="utf-8") == page.picture(kept()), _AGAIN
