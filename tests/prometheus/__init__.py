"""The alert rules and the board, on a real Prometheus."""
