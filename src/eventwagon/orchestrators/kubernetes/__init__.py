"""The Kubernetes orchestrator: each wagon's workers are the Pods of a Deployment of its own."""

from __future__ import annotations

from .orchestrator import Kubernetes

__all__ = ["Kubernetes"]
