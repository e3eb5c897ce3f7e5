"""From the URL of an archive to the archive."""

from __future__ import annotations

from ..contracts.archive import Archive, check_archive
from ..errors import UsageError


def open_archive(url: str) -> Archive:
    """The archive at `url`: `file:///directory`, or `s3://bucket/prefix` with the options `region` and `endpoint`. It
    asks nobody yet. Raises UsageError, also if the extra `archive` is not installed."""
    url = check_archive(url)
    try:
        from .objects import objects_at
        from .parquet import ParquetArchive
    except ImportError as e:
        raise UsageError(
            f"archive={url}: the package {e.name} is not installed: pip install 'eventwagon[archive]'"
        ) from None
    return ParquetArchive(objects_at(url))
