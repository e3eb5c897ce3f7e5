"""The documents as a site: built strictly, then looked at in Chromium, at a desk and on a phone."""

from __future__ import annotations

import shutil
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


pytestmark = pytest.mark.timeout(400)  # the first one builds the site


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """Its address, freshly built."""
    command = [sys.executable, "scripts/make_site.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
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


def test_cells_of_tables_can_be_read(page: Page, site: str) -> None:
    """None is narrow and tall; a table that is wider than the screen shows that it scrolls."""
    for path in ("howto/choose-a-limit/", "limits/", "handlers/", "guarantees/"):
        page.goto(site + path)
        expect(page.locator("table").first).to_be_visible()
        tall = page.evaluate(
            "least => [...document.querySelectorAll('td')].map(c => [c.clientWidth, c.innerText.length, c.innerText])"
            ".filter(([width, length]) => length > 60 && width < least)",
            180 if on_phone(page) else 90,
        )
        assert tall == [], path
        wraps = page.locator(".md-typeset__scrollwrap")
        assert "gradient" in wraps.first.evaluate("wrap => getComputedStyle(wrap).backgroundImage")


def test_a_page_that_is_not_there_leads_home(page: Page, site: str) -> None:
    page.goto(site + "404.html")
    page.get_by_role("paragraph").get_by_role("link", name="Home", exact=True).click()
    expect(page.locator("h1")).to_contain_text("eventwagon")


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


def test_a_link_to_a_missing_file_fails(tmp_path: Path) -> None:
    """In a copy of the documents."""
    for name in ("deploy", "docs", "examples", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*ROOT.glob("*.md"), ROOT / "LICENSE"):
        shutil.copyfile(path, tmp_path / path.name)
    (tmp_path / "src").symlink_to(ROOT / "src")
    with (tmp_path / "docs" / "tutorial.md").open("a") as tutorial:
        tutorial.write("\n[a](nowhere.md)\n")
    build = [sys.executable, "scripts/make_site.py"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr == "docs/tutorial.md links to nowhere.md, which is not in the repository\n"


def test_a_link_to_a_missing_heading_fails(tmp_path: Path) -> None:
    """With our settings of the generator, on one page."""
    settings = (ROOT / "docs" / "site" / "zensical.toml").read_text()
    (tmp_path / "zensical.toml").write_text(settings.replace("[project]\n", '[project]\ndocs_dir = "pages"\n', 1))
    (tmp_path / "pages").mkdir()
    build = [sys.executable, "-m", "zensical", "build", "--strict"]
    for text, code in (("# Here\n\n[a](#here)\n", 0), ("# Here\n\n[a](#nowhere)\n", 1)):
        (tmp_path / "pages" / "index.md").write_text(text)
        done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        assert code == 0 or "anchor does not exist" in done.stdout + done.stderr
