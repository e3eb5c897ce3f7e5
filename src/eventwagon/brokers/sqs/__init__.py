"""Events in SQS standard queues, kept account of in a DynamoDB table."""

from ..._aws.place import Place
from .broker import SQSBroker

__all__ = ["Place", "SQSBroker"]
