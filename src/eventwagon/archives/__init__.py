"""Archives: the events of drained wagons as Parquet files, in a directory or an object store."""

from .checking import difference
from .opening import open_archive
from .wagons import of_wagon, openings

__all__ = ["difference", "of_wagon", "open_archive", "openings"]
