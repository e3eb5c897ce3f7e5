"""Wagons in Redis Streams: on Redis 7 or later and Valkey, one server or a cluster."""

from __future__ import annotations

from .broker import RedisBroker

__all__ = ["RedisBroker"]
