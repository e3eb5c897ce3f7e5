"""Archives: the events of drained wagons as Parquet files, in a directory or an object store."""

from .opening import open_archive

__all__ = ["open_archive"]
