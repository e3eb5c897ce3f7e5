"""Builds what is published (the sdist, and the wheel from it), installs the wheel into a clean environment, and runs
there what a newcomer runs first: README's program, and the demo.

python scripts/wheel.py
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.docs.documents import blocks  # noqa: E402

NEEDED = (
    "src/eventwagon/__init__.py",
    "tests/docs/documents.py",
    "docs/index.md",
    "examples/quickstart.py",
    "scripts/wheel.py",
    "deploy/Dockerfile",
    "Makefile",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "LICENSE",
)
"""Of the sdist: whoever packages it for a distribution can run the tests from it."""
REPOSITORY = "https://example.org/founders/eventwagon"
"""As if it were released from there."""


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="eventwagon-wheel-") as name:
        directory = Path(name)
        wheel = built(directory)
        environment = directory / "clean"
        venv.create(environment, with_pip=True)
        pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run([*pip, "--constraint", str(ROOT / "requirements-dev.txt"), f"{wheel}[cli]"], directory)
        readme(environment, directory)
        demo(environment, directory)
    print(f"{wheel.name}: built, installed alone, ran README's program and the demo")
    return 0


def built(directory: Path) -> Path:
    """The wheel, made from the sdist. Checks that the sdist is whole, and that all links on its page lead somewhere."""
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory), str(ROOT)]
    run(build, directory, EVENTWAGON_REPOSITORY=REPOSITORY)
    (sdist,) = directory.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        found = {path.partition("/")[2] for path in archive.getnames()}
        (about,) = [path for path in archive.getnames() if path.count("/") == 1 and path.endswith("/PKG-INFO")]
        page = archive.extractfile(about).read().decode()  # type: ignore[union-attr]  # it is a file
    if missing := [path for path in NEEDED if path not in found]:
        raise SystemExit(f"{sdist.name} lacks {', '.join(missing)}")
    if f"Project-URL: Source, {REPOSITORY}\n" not in page:
        raise SystemExit(f"{sdist.name} does not say where its source is")
    if stray := re.findall(r"\]\((?!https?:|mailto:)[^)]+\)", page):
        raise SystemExit(f"{sdist.name}: links that lead nowhere on a package index: {', '.join(stray)}")
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
    static = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src/eventwagon/dashboard/static").iterdir()}
    if missing := sorted(static - shipped):
        raise SystemExit(f"{wheel.name} lacks {', '.join(missing)} of the dashboard's page")
    return wheel


def readme(environment: Path, directory: Path) -> None:
    """README's program, copied from its page, and what it says that one sees then."""
    place = directory / "readme"
    place.mkdir()
    program = ""
    for block in blocks(ROOT / "README.md", "python"):
        if block.mark.startswith("file: "):
            (place / block.mark.removeprefix("file: ")).write_text(block.text)
        elif "asyncio.run" in block.text:
            program = block.text
    said = run([str(environment / "bin" / "python"), "-c", program], place)
    if "welcome ada@example.com" not in said:
        raise SystemExit(f"README's program did not welcome ada@example.com:\n{said[-2000:]}")
    why = run([str(environment / "bin" / "eventwagon"), "why", "user_registrations"], place)
    if "switched from user_registrations_v1 to user_registrations_v2" not in why:
        raise SystemExit(f"README's program made no switch:\n{why[-2000:]}")


def demo(environment: Path, directory: Path) -> None:
    """The demo, small, for a machine to read."""
    said = run(
        [str(environment / "bin" / "eventwagon"), "demo", "--events", "1000", "--seconds", "8", "--json"], directory
    )
    report = json.loads(said)
    if not report:
        raise SystemExit("the demo reported nothing")


def run(command: list[str], directory: Path, **more: str) -> str:
    """Its output, with `more` in its environment. Ends this program if it fails."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "EVENTWAGON", "VIRTUAL_ENV"))} | more
    done = subprocess.run(  # noqa: S603 - our own commands
        command, cwd=directory, env=clean, capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)[:200]} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}"
        )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
