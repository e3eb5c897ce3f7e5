"""Container images without pulling any: of this machine's Python, the project and what it needs. Kept in the cache.

They are archives that `docker load` and `ctr images import` read. Run as a program it prints where that of the tests in
Pods is, for a cluster of one's own."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
import json
import marshal
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

PAUSE = "localhost/pause:eventwagon"
WORKER = "localhost/eventwagon-tests"
USER = 65532
_ROOT = Path(__file__).resolve().parents[3]
PODS = _ROOT / "tests" / "programs" / "pods.py"
"""The trains that tests run in Pods."""
_PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
_SITE = f"/usr/lib/{_PYTHON}/site-packages"
_PAUSE = """\
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int s) { _exit(0); }
static void reap(int s) { while (waitpid(-1, 0, WNOHANG) > 0) ; }
int main() { signal(SIGTERM, end); signal(SIGINT, end); signal(SIGCHLD, reap); for (;;) pause(); }
"""
_COMMAND = f"""\
#!/usr/bin/{_PYTHON}
import sys
from eventwagon.cli import main
sys.exit(main())
"""

_Layer = dict[str, Path | bytes | str]
"""What stands where: a file to be copied, a file's content, or where a link leads. A name that ends in / is a
folder."""


def pause_image() -> Path:
    """The one that holds a Pod's namespaces."""

    def build() -> _Layer:
        with tempfile.TemporaryDirectory() as d:
            (Path(d) / "pause.c").write_text(_PAUSE)
            subprocess.run(
                ["gcc", "-Os", "-static", "-s", "-o", "pause", "pause.c"], cwd=d, capture_output=True, check=True
            )
            return {"pause": (Path(d) / "pause").read_bytes()}

    name = hashlib.sha256(_PAUSE.encode()).hexdigest()[:16]
    layer = _kept(f"pause-{name}.layer", build)
    return _archive(f"pause-{name}.tar", {"Entrypoint": ["/pause"]}, [layer], [PAUSE])


def worker_image(programs: Iterable[Path], *tags: str) -> Path:
    """`eventwagon` with the drivers that the tests use, and these files, in /app. Tags:
    `localhost/eventwagon-tests:TAG`."""
    below, ours = _python(), _project(programs)
    layers = [_kept(f"python-{_digest(below)}.layer", lambda: below), _kept(f"app-{_digest(ours)}.layer", lambda: ours)]
    configuration = {
        "Cmd": ["eventwagon"],
        "Env": ["PATH=/usr/bin:/bin", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1", "PYTHONPATH=/app"],
        "User": f"{USER}:{USER}",
        "WorkingDir": "/app",
    }
    names = [f"{WORKER}:{tag}" for tag in tags]
    name = hashlib.sha256(json.dumps([*map(str, layers), names, configuration]).encode()).hexdigest()[:16]
    return _archive(f"worker-{name}.tar", configuration, layers, names)


# --- what is in it ------------------------------------------------------------------------------


def _python() -> _Layer:
    """The interpreter and its library, the packages, and the shared libraries that they load."""
    base = Path(sys.base_prefix)
    library = base / "lib" / _PYTHON
    layer: _Layer = {f"{name}/": b"" for name in ("usr/bin", "etc", "proc", "sys", "dev", "run", "var", "tmp", "app")}
    layer |= {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}
    layer["etc/passwd"] = f"root:x:0:0::/:/bin/sh\nworker:x:{USER}:{USER}::/:/bin/sh\n".encode()
    layer["etc/group"] = f"root:x:0:\nworker:x:{USER}:\n".encode()
    files = [*_tree(library, f"usr/lib/{_PYTHON}"), *_packages()]
    layer |= dict(files)
    layer[f"usr/bin/{_PYTHON}"] = (base / "bin" / _PYTHON).resolve()
    layer["usr/bin/sleep"] = Path("/bin/sleep").resolve()
    loaded = [p for n, p in files if ".so" in p.name] + [(base / "bin" / _PYTHON).resolve(), Path("/bin/sleep")]
    for path in _libraries(loaded):
        layer.setdefault(_place(path), path.resolve())
    return layer


def _place(library: Path) -> str:
    """Where the loader looks for it without being told."""
    if library.is_relative_to("/usr/lib"):
        return str(library).lstrip("/")
    return f"usr{library}" if str(library).startswith("/lib") else f"usr/lib/{library.name}"


_SKIPPED = {
    "test",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "lib2to3",
    "__pycache__",
    "site-packages",
    "dist-packages",
}


def _tree(root: Path, at: str) -> Iterator[tuple[str, Path]]:
    for directory, names, files in os.walk(root):
        names[:] = sorted(n for n in names if n not in _SKIPPED and not n.startswith("config-"))
        for name in sorted(files):
            path = Path(directory) / name
            if path.suffix not in (".a", ".pyc"):
                yield f"{at}/{path.relative_to(root)}", path


def _packages() -> Iterator[tuple[str, Path]]:
    """Of eventwagon's needs, and theirs, all that is installed here."""
    wanted, seen = [Requirement("eventwagon[cli,redis,kubernetes]")], set[str]()
    while wanted:
        requirement = wanted.pop()
        extras = requirement.extras or {""}
        key = f"{requirement.name.lower()}[{','.join(sorted(extras))}]"
        if key in seen:
            continue
        seen.add(key)
        package = importlib.metadata.distribution(requirement.name)
        needs = map(Requirement, package.requires or ())
        wanted += [r for r in needs if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras)]
        if requirement.name != "eventwagon":
            for file in package.files or ():
                path = Path(str(package.locate_file(file)))
                if ".." not in file.parts and path.suffix != ".pyc" and path.is_file():
                    yield f"{_SITE.lstrip('/')}/{file}", path


def _libraries(paths: Iterable[Path]) -> set[Path]:
    said = subprocess.run(["ldd", *map(str, paths)], capture_output=True, text=True, check=False).stdout
    return {
        Path(p) for p in re.findall(r"(?:=> |^\s+)(/\S+) \(", said, re.MULTILINE) if not p.startswith(sys.prefix + "/")
    }


def _project(programs: Iterable[Path]) -> _Layer:
    layer: _Layer = {f"app/{name}": path for name, path in _tree(_ROOT / "src" / "eventwagon", "eventwagon")}
    own = importlib.metadata.distribution("eventwagon")
    for file in own.files or ():
        if file.parent.name.endswith(".dist-info") and file.name in ("METADATA", "entry_points.txt"):
            layer[f"app/{file}"] = Path(str(own.locate_file(file)))  # with it the drivers are found
    layer |= {f"app/{path.name}": path for path in programs}
    layer["usr/bin/eventwagon"] = _COMMAND.encode()
    return layer


# --- how it is written --------------------------------------------------------------------------


def _folder() -> Path:
    from tests.servers.install import cache

    folder = cache() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _digest(layer: _Layer) -> str:
    digest = hashlib.sha256()
    for name, content in sorted(layer.items()):
        digest.update(f"{name}\0".encode())
        if isinstance(content, Path):
            stat = content.stat()
            digest.update(f"{content} {stat.st_size} {stat.st_mtime_ns}".encode())
        else:
            digest.update(content.encode() if isinstance(content, str) else content)
    return digest.hexdigest()[:16]


def _kept(name: str, build: Any) -> Path:
    """The layer's archive in the cache, made where it is missing."""
    final = _folder() / name
    if not final.exists():
        part = final.with_suffix(f".part-{os.getpid()}")
        with tarfile.open(part, "w") as tar:
            _write(tar, build())
        part.rename(final)
    return final


def _write(tar: tarfile.TarFile, layer: _Layer) -> None:
    folders = {parent for name in layer for parent in map(str, Path(name).parents) if parent != "."}
    folders |= {name.rstrip("/") for name in layer if name.endswith("/")}
    links = {name for name, content in layer.items() if isinstance(content, str)}
    for folder in sorted(folders - links):
        info = tarfile.TarInfo(folder)
        info.type, info.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
        tar.addfile(info)
    for name, content in sorted(layer.items()):
        if name.endswith("/"):
            continue
        info = tarfile.TarInfo(name)
        if isinstance(content, str):
            info.type, info.linkname = tarfile.SYMTYPE, content
            tar.addfile(info)
            continue
        data = content.read_bytes() if isinstance(content, Path) else content
        executable = name.startswith(("usr/bin/", "usr/lib64/")) or ".so" in name or name == "pause"
        info.size, info.mode = len(data), 0o755 if executable else 0o644
        tar.addfile(info, io.BytesIO(data))
        if name.endswith(".py") and (compiled := _compiled(name, data)):
            folder, _, file = name.rpartition("/")
            info = tarfile.TarInfo(
                f"{folder}/__pycache__/{file.removesuffix('.py')}.{sys.implementation.cache_tag}.pyc"
            )
            info.size, info.mode = len(compiled), 0o644
            tar.addfile(info, io.BytesIO(compiled))


def _compiled(name: str, source: bytes) -> bytes:
    """As Python caches a module where nobody will change its source; without it a worker takes seconds to start."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = compile(source, f"/{name}", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return b""
    unchecked = (1).to_bytes(4, "little")
    return importlib.util.MAGIC_NUMBER + unchecked + importlib.util.source_hash(source) + marshal.dumps(code)


def _archive(name: str, configuration: Mapping[str, Any], layers: Iterable[Path], tags: Iterable[str]) -> Path:
    final = _folder() / name
    if final.exists():
        return final
    digests = [hashlib.sha256(layer.read_bytes()).hexdigest() for layer in layers]
    described = {
        "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
        "os": "linux",
        "config": configuration,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{d}" for d in digests]},
    }
    encoded = json.dumps(described).encode()
    config = f"{hashlib.sha256(encoded).hexdigest()}.json"
    parts = [f"{d}.tar" for d in digests]
    manifest = json.dumps([{"Config": config, "RepoTags": list(tags), "Layers": parts}]).encode()
    part = final.with_suffix(f".part-{os.getpid()}")
    with tarfile.open(part, "w") as tar:
        for entry, data in ((config, encoded), ("manifest.json", manifest)):
            info = tarfile.TarInfo(entry)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for layer, entry in zip(layers, parts, strict=True):
            tar.add(layer, entry)
    part.rename(final)
    return final


if __name__ == "__main__":
    print(worker_image([PODS], "v1", "v2"))
