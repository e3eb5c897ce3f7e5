"""AWS gives wagons their workers: a Lambda function called by an event-source mapping for each channel, or ECS services."""

from __future__ import annotations

from .handler import handler
from .mappings import LambdaMappings

__all__ = ["LambdaMappings", "handler"]
