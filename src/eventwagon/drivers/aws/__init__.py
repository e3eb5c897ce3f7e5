"""AWS: events in SQS standard queues, manifests and accounts of the events in a DynamoDB table."""

from __future__ import annotations

from .broker import SQSBroker
from .place import Place
from .registry import DynamoDBRegistry

__all__ = ["DynamoDBRegistry", "Place", "SQSBroker"]
