"""The documents as a site: built strictly, then looked at in Chromium, at a desk and on a phone."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Page, expect

from tests.dashboard.browser import Complaints, browser
from tests.docs.documents import ROOT

DESK, PHONE = (1280, 900), (390, 844)
PAGES = [
    "",
    "tutorial/",
    "howto/choose-a-limit/",
    "guarantees/",
    "comparison/",
    "lifecycle/",
    "questions/",
    "reference/commands/",
    "reference/settings/",
    "reference/facts/",
    "decisions/",
]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """Its address, freshly built."""
    command = [sys.executable, "scripts/make_site.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(ROOT / "site"))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(params=[(DESK, "light"), (PHONE, "dark")], ids=["desk", "phone"])
def page(request: pytest.FixtureRequest, chrome: Browser, site: str) -> Iterator[Page]:
    """One that asks nobody but the site, and complains of nothing."""
    (width, height), scheme = request.param
    context = chrome.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce", has_touch=width < 500
    )
    page = context.new_page()
    complaints, strangers = Complaints(page), list[str]()
    page.on(
        "request", lambda asked: None if asked.url.startswith((site, "data:", "blob:")) else strangers.append(asked.url)
    )
    yield page
    context.close()
    assert complaints.found == []
    assert strangers == [], "the site asks other hosts"


def on_phone(page: Page) -> bool:
    """Is the navigation behind a button?"""
    return (page.viewport_size or {"width": 0})["width"] < 500


def test_pages_fit_the_screen(page: Page, site: str) -> None:
    """Wide tables and code scroll within themselves."""
    for path in PAGES:
        page.goto(site + path)
        expect(page.locator("h1").first).to_be_visible()
        wide, seen = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= seen, f"{path} is {wide} pixels wide"


def test_pages_are_accessible(page: Page, site: str) -> None:
    for path in ("", "guarantees/", "reference/settings/", "tutorial/"):
        page.goto(site + path)
        expect(page.locator("h1").first).to_be_visible()
        found = Axe().run(page).response["violations"]
        serious = [
            (each["id"], each["nodes"][0]["html"], len(each["nodes"]))
            for each in found
            if each["impact"] in ("serious", "critical")
        ]
        assert serious == [], path


@pytest.mark.parametrize(("words", "page_found"), [("limit", "Limits and settings"), ("dead letters", "Dead letters")])
def test_the_search_finds(page: Page, site: str, words: str, page_found: str) -> None:
    page.goto(site)
    button = page.locator("label[for=__search]") if on_phone(page) else page.get_by_role("button", name="Search")
    button.first.click()
    page.get_by_role("combobox", name="Search").fill(words)
    result = page.get_by_role("option", name=page_found, exact=True).first
    expect(result).to_be_visible()
    result.click()
    expect(page.locator("h1, h2, h3").filter(has_text=page_found).first).to_be_visible()
    assert page.url.partition("?")[0] != site


def test_the_navigation_leads_through(page: Page, site: str) -> None:
    page.goto(site)
    if on_phone(page):
        page.locator("label[for=__drawer]:visible").first.click()
    page.get_by_role("link", name="Tutorial").first.click()
    expect(page.locator("h1")).to_contain_text("first half hour")
    page.goto(site + "guarantees/")
    if on_phone(page):
        page.locator("label[for=__drawer]:visible").first.click()
    here = page.locator(".md-nav__link--active:visible").first
    expect(here).to_be_visible()


def test_names_of_the_api_have_signatures(page: Page, site: str) -> None:
    page.goto(site + "reference/settings/#eventwagon.Wait")
    expect(page.get_by_text("Wait(slo").first).to_be_attached()


def test_a_broken_link_fails(tmp_path: Path) -> None:
    """A link to a missing file, and one to a missing anchor, in a copy of the documents."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file() and not name.startswith(("src/", "tests/", "benchmarks/")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "src").symlink_to(ROOT / "src")
    tutorial = tmp_path / "docs" / "tutorial.md"
    sound = tutorial.read_text()
    for broken, said in (
        ("[a](index.md#nowhere)", "anchor does not exist"),
        ("[a](nowhere.md)", "links to nowhere.md"),
    ):
        tutorial.write_text(f"{sound}\n{broken}\n")
        build = [sys.executable, "scripts/make_site.py"]
        done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 1, done.stdout
        assert said in done.stdout + done.stderr
