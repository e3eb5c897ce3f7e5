"""Objects in a directory or a bucket, by obstore. Everything here blocks: call it in a thread."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from errno import ELOOP
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, S3Store

from ..contracts.address import Address
from ..errors import Unavailable
from ..event import legible
from ..values import shown

_logger = logging.getLogger("eventwagon")

_PART = 8 << 20
"""Bytes of an upload that are sent at a time, and how many are held in memory for each file."""
MARK = ".eventwagon-archive"
"""An empty file in a directory that is used as an archive."""


class Objects:
    """The objects below one URL. Names are paths with slashes. `directory`: where they are files; None: a bucket."""

    def __init__(self, store: S3Store | None, where: str, directory: Path | None) -> None:
        self.where = where
        self._bucket = store
        self._directory = directory
        self._told = set[str]()
        """Files that are left out."""

    @property
    def _store(self) -> LocalStore | S3Store:
        """A directory is opened anew for each call: it may not be there yet, or again."""
        if self._bucket is not None:
            return self._bucket
        assert self._directory is not None  # noqa: S101 - for the type checker
        return LocalStore(self._directory)

    def prepare(self) -> None:
        """Make its directory. Raises Unavailable."""
        with self._telling("making its directory"):
            if self._directory is not None and not self._directory.is_dir():
                for path in _made(self._directory / "x"):
                    _sync(path)

    def mark(self, *, again: bool) -> None:
        """Mark its directory as an archive. If it was one before (`again`) and has no mark, it is another directory,
        say the empty mount point of a disk. Idempotent. Raises Unavailable."""
        if self._directory is None:
            return
        self._check_there()
        mark = self._directory / MARK
        with self._telling("marking it"):
            if mark.exists():
                return
            if not again:
                mark.touch(mode=0o600)
                _sync(mark)
                _sync(self._directory)
                return
        raise Unavailable(
            f"archive {self.where}: the train has archived here before, and the mark of that is missing ({MARK}): "
            "mount the disk that has it; if you have moved or emptied the archive, make an empty file of that name"
        )

    def _check_there(self) -> None:
        if self._directory is None:
            return
        with self._telling("looking for its directory"):  # one above it may forbid that
            if self._directory.is_dir():
                return
            above = next(path for path in (self._directory, *self._directory.parents) if path.exists())
        if not above.is_dir():
            raise Unavailable(f"archive {self.where}: {above} is not a directory: move it away")
        raise Unavailable(
            f"archive {self.where}: the directory is not on this machine: run this where it is, mount it, or create it"
        )

    @contextmanager
    def writing(self, name: str) -> Iterator[Sink]:
        """A new object, which replaces an older one. It is there, whole and durable, when this is left without an
        error; otherwise nothing changes. Raises Unavailable."""
        self._check_there()
        with self._telling(f"writing {name}"):
            new = () if self._directory is None else _made(self._directory / name)
            with obstore.open_writer(self._store, name, buffer_size=_PART, max_concurrency=2) as writer:
                yield Sink(writer, partial(self._unavailable, f"writing {name}"))
            if self._directory is not None:
                for path in (self._directory / name, *new):
                    _sync(path)

    def reading(self, name: str) -> io.RawIOBase:
        """An object, for reading at any position. Raises FileNotFoundError, Unavailable."""
        self._check_there()
        with self._telling(f"reading {name}"):
            is_there = self._directory is None or (self._directory / name).is_file()
        if not is_there:
            raise FileNotFoundError(name)
        try:
            return _Source(obstore.open_reader(self._store, name), partial(self._unavailable, f"reading {name}"))
        except (FileNotFoundError, NotFoundError):
            raise FileNotFoundError(name) from None
        except (BaseError, OSError) as e:
            raise self._unavailable(f"reading {name}", e) from e

    def names(self, folder: str) -> Sequence[tuple[str, int]]:
        """The objects in a folder with their sizes in bytes. A file in a directory whose name is not plain text in
        UTF-8 is left out, and logged once. Raises Unavailable."""
        self._check_there()
        with self._telling(f"listing {folder}"):
            if self._directory is not None:
                return self._files(self._directory / folder)
            return [(each["path"], each["size"]) for some in obstore.list(self._store, folder) for each in some]

    def _files(self, folder: Path) -> list[tuple[str, int]]:
        """Those of a directory. obstore would fail for all of them if it can't read the name of one."""
        found = []
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            for each in entries:
                name = f"{folder.name}/{each.name}"
                if legible(each.name) != each.name:
                    self._tell_once(name)
                else:
                    try:
                        if each.is_file():
                            found.append((name, each.stat().st_size))
                    except FileNotFoundError:  # deleted meanwhile
                        pass
                    except OSError as e:
                        if e.errno != ELOOP:  # a link that leads to itself is no file, as one that leads nowhere
                            raise
        return found

    def _tell_once(self, name: str) -> None:
        if name not in self._told:
            self._told.add(name)
            _logger.warning("archive %s: %s is left out: its name is not plain text in UTF-8", self.where, shown(name))

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as e:
            raise self._unavailable(what, e) from e

    def _unavailable(self, what: str, error: BaseException) -> Unavailable:
        """The first line says it; the others are for the library's developers."""
        return Unavailable(f"archive {self.where}: {what}: {str(error).partition(chr(10))[0] or type(error).__name__}")


def objects_at(url: str) -> Objects:
    """The objects below a URL that `check_archive` has returned. Asks nobody."""
    address = Address.of(url)
    if address.scheme == "file":
        return Objects(None, url, Path(address.path))
    endpoint = address.options.get("endpoint", "")
    config: dict[str, Any] = {}
    client: dict[str, Any] = {"connect_timeout": timedelta(seconds=5)}
    if endpoint:
        config["endpoint"], client["allow_http"] = endpoint, endpoint.startswith("http:")
    if region := address.options.get("region"):
        config["region"] = region
    store = S3Store(
        urlsplit(url).netloc,
        prefix=address.path.strip("/") or None,
        client_options=client,  # type: ignore[arg-type]
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
        **config,
    )
    return Objects(store, address.where, None)


def _made(file: Path) -> list[Path]:
    """Make the folder of this file, for this user alone. Returns the folders to flush so that the file survives a power
    cut: its own, and those above that have a new folder in them."""
    changed = [file.parent]
    while not changed[-1].exists():
        changed.append(changed[-1].parent)
    for folder in reversed(changed[:-1]):
        folder.mkdir(mode=0o700, exist_ok=True)
    return changed


def _sync(path: Path) -> None:
    with suppress(PermissionError):  # a directory that this user may not read was there before
        place = os.open(path, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)


class Sink(io.RawIOBase):
    """An object that is being written, as a file."""

    def __init__(self, inner: Any, unavailable: Callable[[BaseException], Unavailable]) -> None:
        self._inner = inner
        self._unavailable = unavailable
        self._count = 0
        self.is_dropped = False
        """What is written from now on goes nowhere."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(data)
        if not self.is_dropped:
            try:
                self._inner.write(piece)
            except (BaseError, OSError) as e:
                raise self._unavailable(e) from e
        self._count += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._count


class _Source(io.RawIOBase):
    """An object that is being read, as a file."""

    def __init__(self, inner: Any, unavailable: Callable[[BaseException], Unavailable]) -> None:
        self._inner = inner
        self._unavailable = unavailable

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._inner.seek(offset, whence))

    def tell(self) -> int:
        return int(self._inner.tell())

    def readinto(self, buffer: Any) -> int:
        try:
            piece = bytes(self._inner.read(len(buffer)))
        except (BaseError, OSError) as e:
            raise self._unavailable(e) from e
        buffer[: len(piece)] = piece
        return len(piece)
