"""A real Kubernetes from packages only: built once into the cache, started in network namespaces of its own."""
