"""The path of earlier releases: see `eventwagon.drivers.aws`."""

from ..drivers.aws import DynamoDBRegistry

__all__ = ["DynamoDBRegistry"]
