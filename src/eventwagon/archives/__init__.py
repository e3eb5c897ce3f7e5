"""Archives: the events of drained wagons as Parquet files, in a directory or an object store."""

from .checking import difference
from .opening import open_archive

__all__ = ["difference", "open_archive"]
