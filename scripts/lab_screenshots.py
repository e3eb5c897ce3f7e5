"""Pictures of the lab's page for the docs, as a browser shows it: wide and narrow, light and dark. Needs Chromium
(Debian's package `chromium`, or its path in CHROMIUM).

    python scripts/lab_screenshots.py                     # the burst of docs/lab.md, into docs/images
    python scripts/lab_screenshots.py --page burst.html --to /tmp/shots
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"desktop": (1280, 3100), "phone": (390, 4600)}
"""Width and height in pixels."""
SCHEMES = {"light": 1, "dark": 0}
"""As Chromium numbers them."""


def page(to: Path) -> None:
    """The lab's page of the burst in docs/lab.md."""
    command = [sys.executable, "-m", "eventwagon", "lab", "black-friday", "--picture", str(to)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603


def shoot(chromium: str, of: Path, to: Path, width: int, height: int, scheme: int) -> None:
    """One picture. A narrow page is shown in a frame: Chromium's windows have a least width."""
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.html"
        frame.write_text(
            "<!doctype html><style>body{margin:0}iframe{border:0;display:block}</style>"
            f'<iframe src="{of.resolve().as_uri()}" width="{width}" height="{height}"></iframe>'
        )
        command = [
            chromium,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--allow-file-access-from-files",
            f"--user-data-dir={folder}/profile",
            f"--blink-settings=preferredColorScheme={scheme}",
            f"--window-size={max(width, 600)},{height + 150}",
            f"--screenshot={folder}/shot.png",
            frame.as_uri(),
        ]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=180)  # noqa: S603
        with Image.open(f"{folder}/shot.png") as shot:
            seen = shot.convert("RGB").crop((0, 0, width, height))
            below = ImageChops.difference(seen, Image.new("RGB", seen.size, seen.getpixel((0, height - 1)))).getbbox()
            seen = seen.crop((0, 0, width, min(height, (below or (0, 0, 0, height))[3] + 16)))
            seen.quantize(255, Image.Quantize.MAXCOVERAGE).save(to, optimize=True)


def main() -> int:
    """Take all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, help="a page that is there already")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "images")
    given = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        parser.error("install Chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        of = given.page
        if of is None:
            of = Path(folder) / "burst.html"
            page(of)
        for size, (width, height) in SIZES.items():
            for scheme, number in SCHEMES.items():
                shoot(chromium, of, given.to / f"lab-{size}-{scheme}.png", width, height, number)
    return 0


if __name__ == "__main__":
    sys.exit(main())
