"""Events in SQS standard queues, kept account of in a DynamoDB table."""

from .broker import SQSBroker

__all__ = ["SQSBroker"]
