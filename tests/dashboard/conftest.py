"""Fixtures: one browser for the tests of a module, and a page that must end without complaints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.dashboard.browser import Complaints, browser
from tests.dashboard.staging import Stage


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    """While it is open, Playwright's event loop runs in this thread: tests of other modules have loops of their own."""
    with browser() as started:
        yield started


@pytest.fixture
def page(chrome: Browser) -> Iterator[Page]:
    context = chrome.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    yield context.new_page()
    context.close()


@pytest.fixture
def complaints(page: Page) -> Iterator[Complaints]:
    """Fails the test at its end if the page has complained."""
    kept = Complaints(page)
    yield kept
    assert kept.found == []


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as running:
        yield running
