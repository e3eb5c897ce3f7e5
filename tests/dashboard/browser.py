"""Chromium, driven by Playwright; and pages whose complaints are kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from tests.servers.install import chromium

STATIC = Path(__file__).parents[2] / "src" / "eventwagon" / "dashboard" / "static"
PATIENCE = 30_000
"""Milliseconds that a page has to show something, on a loaded machine."""
CSP = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
ADDRESS = "http://127.0.0.1:9/trains/"
"""Of pages with made-up figures: nothing listens there, all is answered by `Scripted`."""
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_DRIVEN = """
window.EventSource = class extends EventTarget {
  static CONNECTING = 0; static OPEN = 1; static CLOSED = 2;
  constructor(url) {
    super();
    this.url = url;
    this.readyState = 1;
    window.feeds = [this];
    document.documentElement.dataset.listens = url;
  }
  close() { this.readyState = 2; }
};
window.tell = (name, data) => {
  for (const feed of window.feeds) feed.dispatchEvent(new MessageEvent(name, { data: JSON.stringify(data) }));
};
"""


@contextmanager
def browser() -> Iterator[Browser]:
    """Raises Missing."""
    program = chromium()
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--js-flags=--expose-gc", "--enable-precise-memory-info"]
        started = playwright.chromium.launch(executable_path=str(program), args=arguments)
        yield started
        started.close()


class Complaints:
    """What a page complained of: errors in the console, exceptions, violations of the policy. Those of requests that a
    test makes fail are left out by `but`."""

    def __init__(self, page: Page) -> None:
        self._found: list[str] = []
        self._but: list[str] = []
        page.on("console", lambda said: self._found.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self._found.append(str(error)))

    def but(self, pattern: str) -> None:
        self._but.append(pattern)

    @property
    def found(self) -> list[str]:
        return [text for text in self._found if not any(re.search(pattern, text) for pattern in self._but)]


class Scripted:
    """The page with a stream that the test speaks, and routes that answer with what it is given."""

    def __init__(self, page: Page, answers: Mapping[str, Any]) -> None:
        self.page = page
        self.answers = dict(answers)
        """By the path below `api/`, without the query."""
        self.posted: list[tuple[str, Any]] = []
        page.add_init_script(_DRIVEN)
        page.route(f"{ADDRESS}**", self._answer)

    def open(self, hash_: str = "") -> None:
        self.page.goto("about:blank")  # another hash alone would load nothing anew
        self.page.goto(ADDRESS + hash_)
        expect(self.page.locator("html[data-listens]")).to_be_attached()

    def tell(self, name: str, data: Any) -> None:
        self.page.evaluate("([name, data]) => tell(name, data)", [name, data])

    def _answer(self, route: Route) -> None:
        path = route.request.url.removeprefix(ADDRESS).partition("?")[0]
        headers = {"Content-Security-Policy": CSP}
        if not path.startswith("api/"):
            file = STATIC / (path.removeprefix("static/") or "index.html")
            route.fulfill(body=file.read_bytes(), headers=headers | {"Content-Type": _KINDS[file.suffix]})
            return
        if route.request.method == "POST":
            self.posted.append((path, route.request.post_data_json))
        answer = self.answers.get(path.removeprefix("api/"))
        status = 404 if answer is None else 200
        body = json.dumps({"error": f"nothing at {path}"} if answer is None else answer)
        route.fulfill(status=status, body=body, headers=headers | {"Content-Type": "application/json"})
