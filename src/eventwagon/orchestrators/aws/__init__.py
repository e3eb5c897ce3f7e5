"""Workers on AWS: a Lambda function that an event-source mapping calls for each channel, or ECS services."""

from __future__ import annotations

from ...drivers.aws.place import Place
from .handler import handler
from .mappings import LambdaMappings
from .services import ECSServices

__all__ = ["ECSServices", "LambdaMappings", "Place", "handler"]
