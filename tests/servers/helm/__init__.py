"""Helm, and what looks at Kubernetes manifests, from packages only: built once into the cache."""
