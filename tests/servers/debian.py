"""Gets programs out of Debian's packages, unpacked into a folder: nothing is installed, no service is started."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path


def unpack(
    package: str, to: Path, run: Callable[..., None], given_up: type[Exception], *, libraries: Sequence[str] = ()
) -> None:
    """Fetch the package by apt and unpack it, with the packages of `libraries` that it needs; `to` appears at once or
    not at all. `run` raises `given_up`, which the caller understands; the lists of packages are updated if apt does not
    know the package, which needs root."""
    part = Path(tempfile.mkdtemp(prefix=f".{package}-", dir=to.parent))
    fetch = ["sh", "-c", 'cd "$1" && shift && apt-get download "$@"', "sh", str(part), package, *libraries]
    try:
        try:
            run(package, fetch)
        except given_up:
            if os.geteuid() != 0:
                raise
            run(package, ["apt-get", "update"])
            run(package, fetch)
        for archive in part.glob("*.deb"):
            run(package, ["dpkg-deb", "--extract", str(archive), str(part / "unpacked")])
        (part / "unpacked").rename(to)
    finally:
        shutil.rmtree(part, ignore_errors=True)
