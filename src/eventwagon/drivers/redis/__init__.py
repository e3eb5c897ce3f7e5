"""Redis 7 or later and Valkey, one server or a cluster: events in streams, manifests in hashes."""

from __future__ import annotations

from .broker import RedisBroker
from .registry import RedisRegistry

__all__ = ["RedisBroker", "RedisRegistry"]
