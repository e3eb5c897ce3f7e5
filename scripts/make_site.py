"""Builds the documents into a site, in the folder `site`: strictly, so that a broken link or anchor fails.

    python scripts/make_site.py            # build
    python scripts/make_site.py --serve    # build, and serve it on 127.0.0.1:8000 (PORT: --serve=9000)
    python scripts/make_site.py --links    # ask all other hosts that the documents link to; not part of the tests

The documents are written for the repository's own view. A copy of them is made for the generator, in `.cache/site`,
with what differs: files outside `docs` become pages, links lead to those, lists are indented as Python-Markdown wants
them, and the reference pages are added.
"""

from __future__ import annotations

import http.client
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import built_pages
import reference_pages as reference

ROOT = Path(__file__).resolve().parents[1]
STAGE = ROOT / ".cache" / "site"
SITE = ROOT / "site"
PORT = 8000

Nav = list[tuple[str, "str | Nav"]]
"""Titles, and files of the repository, or `reference/NAME` for a page of `scripts/reference_pages.py`."""
NAV: Nav = [
    ("Home", "docs/home.md"),
    ("Tutorial", "docs/tutorial.md"),
    (
        "How-to",
        [
            ("Choose a limit", "docs/howto/choose-a-limit.md"),
            (
                "Move a flow",
                [
                    ("A Kafka topic", "docs/howto/move-a-kafka-topic.md"),
                    ("A Redis stream", "docs/howto/move-a-redis-stream.md"),
                    ("An SQS queue", "docs/howto/move-an-sqs-queue.md"),
                    ("Celery, Taskiq, FastStream", "docs/guides/moving.md"),
                ],
            ),
            (
                "Write a train",
                [
                    ("Handlers' options", "docs/handlers.md"),
                    ("Batches", "docs/batches.md"),
                    ("Events for later", "docs/later.md"),
                    ("Once", "docs/once.md"),
                    ("Middleware", "docs/middleware.md"),
                    ("Pools", "docs/guides/pools.md"),
                    ("Dependencies", "docs/guides/dependencies.md"),
                    ("Tests", "docs/guides/testing.md"),
                    ("The outbox", "docs/outbox.md"),
                    ("FastAPI", "docs/guides/fastapi.md"),
                    ("Django", "docs/guides/django.md"),
                    ("Flask and scripts", "docs/guides/flask.md"),
                    ("Any language: the gateway", "docs/gateway.md"),
                ],
            ),
            (
                "Run it",
                [
                    ("On Kubernetes", "docs/howto/run-on-kubernetes.md"),
                    ("Operations", "docs/operations.md"),
                    ("Deploying", "docs/deploying.md"),
                    ("Dead letters", "docs/dead-letters.md"),
                    ("A wagon that fails", "docs/guides/bad-wagon.md"),
                    ("A bad release", "docs/guides/bad-release.md"),
                    ("Replay", "docs/replay.md"),
                    ("Undo", "docs/undo.md"),
                    ("The archive", "docs/archive.md"),
                    ("The ledger", "docs/ledger.md"),
                    ("The dashboard", "docs/dashboard.md"),
                    ("Metrics", "docs/metrics.md"),
                    ("Traces", "docs/traces.md"),
                    ("Logging", "docs/guides/logging.md"),
                    ("uvloop", "docs/guides/uvloop.md"),
                    ("Containers", "docs/guides/containers.md"),
                    ("Alerts", "docs/runbooks/*"),
                ],
            ),
            ("Plan: the lab", "docs/lab.md"),
            ("Bridge", "docs/bridge.md"),
            ("Add a broker", "docs/howto/add-a-broker.md"),
        ],
    ),
    (
        "Reference",
        [
            ("Overview", "reference/index"),
            ("All by question, glossary", "docs/index.md"),
            ("Commands", "reference/commands"),
            ("API", [(title, f"reference/{name}") for name, title in reference.titles()]),
            ("Train and Connection, by call", "docs/connection.md"),
            ("Limits and settings", "docs/limits.md"),
            ("Brokers", "docs/brokers/*"),
            (
                "Orchestrators",
                [
                    ("Kubernetes", "docs/orchestrators/kubernetes.md"),
                    ("AWS", "docs/orchestrators/aws.md"),
                    ("Any command", "docs/orchestrators/command.md"),
                ],
            ),
            ("Drivers: the contract", "docs/drivers.md"),
        ],
    ),
    (
        "Explanation",
        [
            ("The pattern", "docs/pattern.md"),
            ("A wagon's life", "docs/lifecycle.md"),
            ("Workers", "docs/workers.md"),
            ("Guarantees", "docs/guarantees.md"),
            ("Comparison", "docs/comparison.md"),
            ("What it does not do", "docs/what-it-does-not-do.md"),
            ("Benchmarks", "docs/benchmarks.md"),
            ("Scale", "docs/scale.md"),
            ("The demo", "docs/demo.md"),
        ],
    ),
    ("Examples", "examples/*"),
    (
        "Project",
        [
            ("README", "README.md"),
            ("Contributing", "CONTRIBUTING.md"),
            ("Decisions", "docs/decisions/*"),
            ("Changes", "CHANGELOG.md"),
            ("Security", "SECURITY.md"),
            ("Licence", "LICENSE"),
        ],
    ),
]

_FENCE = re.compile(r"^( *)(`{3,}|~{3,})")
_LINK = re.compile(r"(\]\(|\bsrc=\"|\bhref=\")([^)\"\s]+)(\)|\")")
_ON_SITE = "<!-- site: "
"""Begins a comment whose text only the site shows."""
_COMMENT = re.compile(r"<!-- .* -->")
_BRACKETED = re.compile(r"^(#+) \[([\w.]+)\]")
"""A release in CHANGELOG.md, which is no link yet."""
_ITEM = re.compile(r"^( *)([-*+]|\d+\.) +")
_LANGUAGES = {
    ".go": "go", ".json": "json", ".mjs": "javascript", ".py": "python", ".sh": "sh", ".toml": "toml", ".yaml": "yaml"
}  # fmt: skip
_SKIPPED = {"__pycache__", "charts"}


class Stage:
    """The copy of the documents. A file or folder outside `docs` becomes a page once something links to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: list[Path] = []
        self._known: set[Path] = set()

    def add(self, path: Path) -> str:
        """The name of its page below the site's root."""
        page = self._page(path)
        if path not in self._known:
            self._known.add(path)
            self._waiting.append(path)
        return page

    def write(self) -> None:
        """Until every page that is linked to is there."""
        while self._waiting:
            path = self._waiting.pop()
            target = self._folder / self._page(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".md":
                target.write_text(self.staged(path))
            elif target.suffix != ".md":
                shutil.copyfile(path, target)
            elif path.is_dir():
                target.write_text(self._listing(path, target))
            else:
                target.write_text(_source(path))

    def staged(self, path: Path, text: str | None = None) -> str:
        """A document as the generator needs it; `text` if it is no file."""
        return drawn(
            "\n".join(
                indented(
                    (path.read_text() if text is None else text).split("\n"), lambda line: self._linked(line, path)
                )
            )
        )

    def _linked(self, line: str, path: Path) -> str:
        here = self._page(path) if path.exists() else str(path.relative_to(ROOT))

        def moved(found: re.Match[str]) -> str:
            target, _, anchor = found[2].partition("#")
            if not target or ":" in target:
                return found[0]
            file = (path.parent / target).resolve()
            if not file.exists() and file.parent in (ROOT / "reference", ROOT / "docs" / "reference"):
                return found[0]  # to its neighbour, or from the home page: only the site has it
            if not file.exists() or not file.is_relative_to(ROOT):
                raise SystemExit(f"{path.relative_to(ROOT)} links to {target}, which is not in the repository")
            to = self.add(file)
            return f"{found[1]}{os.path.relpath(to, Path(here).parent)}{'#' if anchor else ''}{anchor}{found[3]}"

        parts = re.split(r"(`[^`]*`)", line)  # links in code are examples
        return "".join(part if part.startswith("`") else _LINK.sub(moved, part) for part in parts)

    def _page(self, path: Path) -> str:
        name = path.relative_to(ROOT)
        if name == Path("docs/home.md"):
            return "index.md"
        if name == Path("docs/index.md"):
            return "questions.md"
        if name.is_relative_to("docs") and not path.is_dir():
            return str(name.relative_to("docs")).replace("README.md", "index.md")
        if name.suffix == ".md":
            return str(name).replace("README.md", "index.md") if len(name.parts) > 1 else f"{name.stem.lower()}.md"
        return f"files/{name}/index.md" if path.is_dir() else f"files/{name}.md"

    def _listing(self, path: Path, target: Path) -> str:
        names = [p for p in sorted(path.iterdir()) if p.name not in _SKIPPED]
        here = target.parent.relative_to(self._folder)
        return f"# {path.relative_to(ROOT)}\n\n" + "".join(
            f"- [{each.name}{'/' if each.is_dir() else ''}]({os.path.relpath(self.add(each), here)})\n"
            for each in names
        )


def _source(path: Path) -> str:
    """A page that shows a file."""
    text = path.read_text()
    ticks = "`" * max([3, *(len(run) + 1 for run in re.findall("`{3,}", text))])
    return f"# {path.relative_to(ROOT)}\n\n{ticks}{_LANGUAGES.get(path.suffix, 'text')}\n{text}\n{ticks}\n"


def drawn(text: str) -> str:
    """Without mermaid, whose program would come from another host: the diagram as a picture."""
    return re.sub(r"```mermaid\n.*?```\n", lambda _: reference.lifecycle_picture(), text, flags=re.DOTALL)


def indented(lines: Sequence[str], linked: Callable[[str], str]) -> Iterator[str]:
    """Lists as Python-Markdown reads them: an empty line above, four columns for each level. `linked` is applied to
    each line outside fenced blocks."""
    columns: list[int] = []  # where the text of each open list item begins
    fence, shift, before, name = "", 0, "", ""
    loose = False  # has the item that is open more than one paragraph?
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if fence:
            yield " " * shift + line if line else line
            fence = "" if line.strip() == fence else fence
            continue
        if line.startswith(_ON_SITE):
            line = line.removeprefix(_ON_SITE).removesuffix(" -->")  # what only the site has
            indent = 0
        if _COMMENT.fullmatch(line):  # a comment right above a table would hide it
            before, name = "", line.removeprefix("<!-- file: ").removesuffix(" -->") if "file: " in line else ""
            yield ""
            continue
        item, found = _ITEM.match(line), _FENCE.match(line)
        if line and (before == "" or item or found or line.startswith("#")):
            was = len(columns)
            while columns and indent < columns[-1]:
                columns.pop()
            if item and before and (loose or not was):
                yield ""
        if found:
            fence, shift = found[2], 4 * len(columns) - indent if columns else 0
            if before:
                yield ""
            title, name = f' title="{name}"' if name else "", ""
            yield " " * max(0, shift + indent) + line.lstrip() + title
        elif line:
            body = _in_table(line) if line.lstrip().startswith("|") else line
            body = _BRACKETED.sub(r"\1 \2", body)
            yield " " * (4 * len(columns)) + linked(body.lstrip() if columns else body)
        else:
            yield line
        if item:
            columns.append(item.end())
        loose = bool(columns) and not item and (loose or not line)
        before = line


def _in_table(line: str) -> str:
    """Pipes in code need no escape there."""
    return re.sub(r"`[^`]*`", lambda code: code[0].replace("\\|", "|"), line)


def entries(nav: Nav) -> Nav:
    """With the files of each folder that is named by `/*`; a folder that is not there is left out."""
    found: Nav = []
    for title, entry in nav:
        if isinstance(entry, list):
            found.append((title, entries(entry)))
        elif not entry.endswith("/*"):
            found.append((title, entry))
        elif (folder := ROOT / entry.removesuffix("/*")).joinpath("README.md").exists() or (
            folder / "index.md"
        ).exists():
            documents = sorted(folder.glob("*.md")) + sorted(folder.glob("*/README.md"))
            first = [path for path in documents if path.name in ("README.md", "index.md") and path.parent == folder]
            rest = [path for path in documents if path not in first]
            found.append((title, [(_title(path), str(path.relative_to(ROOT))) for path in (*first, *rest)]))
    return found


def _title(path: Path) -> str:
    return re.sub(r"`", "", path.read_text().partition("\n")[0].removeprefix("# "))


def _toml(nav: Nav, stage: Stage, level: int = 1) -> str:
    rows = ""
    for title, entry in nav:
        what = _toml(entry, stage, level + 1) if isinstance(entry, list) else json.dumps(_staged_name(entry, stage))
        rows += f"{'  ' * level}{{ {json.dumps(title)} = {what} }},\n"
    return f"[\n{rows}{'  ' * (level - 1)}]"


def _staged_name(entry: str, stage: Stage) -> str:
    if entry.startswith("reference/"):
        return f"{entry}.md"
    if not (ROOT / entry).is_file():
        raise SystemExit(f"NAV of scripts/make_site.py names {entry}, which is not there")
    return stage.add(ROOT / entry)


def _files(nav: Nav) -> Iterator[str]:
    for _, entry in nav:
        yield from _files(entry) if isinstance(entry, list) else [entry]


def prepare() -> int:
    """Write the copy for the generator; return how many pages it has. Raises SystemExit for a link that leads nowhere,
    a document that NAV leaves out, and a public name that no page has."""
    shutil.rmtree(STAGE, ignore_errors=True)
    source = STAGE / "pages"
    source.mkdir(parents=True)
    stage = Stage(source)
    nav = entries(NAV)
    config = (ROOT / "docs" / "site" / "zensical.toml").read_text()
    listed = _toml(nav, stage)
    named = set(_files(nav))
    if left := [str(p) for p in sorted((ROOT / "docs").rglob("*.md")) if str(p.relative_to(ROOT)) not in named]:
        raise SystemExit(f"not in NAV of scripts/make_site.py: {', '.join(left)}")
    (source / "reference").mkdir()
    for name, text in reference.pages():
        (source / "reference" / f"{name}.md").write_text(stage.staged(ROOT / "reference" / f"{name}.md", text))
    stage.write()
    for name in ("site.css", "site.js"):
        shutil.copyfile(ROOT / "docs" / "site" / name, source / name)
    head = f'[project]\ndocs_dir = "pages"\nsite_dir = "site"\nnav = {listed}\n'
    (STAGE / "zensical.toml").write_text(
        config.replace("[project]\n", head, 1)
        .replace('"src"', json.dumps(str(ROOT / "src")))
        .replace('"griffe_signatures.py"', json.dumps(str(ROOT / "scripts" / "griffe_signatures.py")))
    )
    return len(list(source.rglob("*.md")))


def build() -> None:
    """Build the site. Exits with 1 and the generator's words if it is not sound."""
    begun = time.monotonic()
    count = prepare()
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", str(STAGE / "zensical.toml")]
    done = subprocess.run(  # noqa: S603 - our own command
        command, cwd=STAGE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).partition("Traceback (most recent call last)")[0]
        raise SystemExit(f"{said}\nthe site is not built: the pages above are copies in {STAGE / 'pages'}")
    lost = STAGE / "site" / "404.html"
    lost.write_text(_with_way_home(lost.read_text()))
    if broken := built_pages.faults(STAGE / "site"):
        raise SystemExit("the site is not built:\n" + "\n".join(broken))
    shutil.rmtree(SITE, ignore_errors=True)
    (STAGE / "site").rename(SITE)
    size = sum(path.stat().st_size for path in SITE.rglob("*") if path.is_file())
    print(f"{SITE}: {count} pages, {size / 1e6:.1f} MB, {time.monotonic() - begun:.1f} s")


def _with_way_home(text: str) -> str:
    """The page of an address that does not exist, with links from there."""
    end = "Not found</h1>"
    if text.count(end) != 1:
        raise SystemExit("the generator's 404.html has another heading; scripts/make_site.py adds links after it")
    links = '<p>There is no page at this address. <a href="/">Home</a>, <a href="/questions/">all by question</a>.</p>'
    return text.replace(end, f"{end}\n{links}")


def serve(port: int) -> None:
    """Until Ctrl-C, to this machine only."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server, suppress(KeyboardInterrupt):
        print(f"http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)")
        server.serve_forever()


def ask_links() -> int:
    """Ask every other host that the documents link to. Returns how many links are broken."""
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    links = {link for path in documents for link in re.findall(r"\]\((https?://[^)\s]+)\)", path.read_text())}
    broken = 0
    for link in sorted(links):
        request = urllib.request.Request(link, headers={"User-Agent": "eventwagon-docs"})  # noqa: S310 - http, https
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - http, https
                said = str(answer.status)
        except (OSError, http.client.HTTPException) as e:
            said, broken = f"BROKEN: {e}", broken + 1
        print(f"{link}: {said}")
    print(f"{len(links)} links, {broken} broken")
    return broken


def main(arguments: list[str]) -> int:
    """Build, and what else was asked for."""
    if "--links" in arguments:
        return 1 if ask_links() else 0
    build()
    for argument in arguments:
        name, _, port = argument.partition("=")
        if name != "--serve" or (port and not port.isdecimal()):
            raise SystemExit(f"unknown argument {argument!r}; there are --serve, --serve=PORT and --links")
        serve(int(port or PORT))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
