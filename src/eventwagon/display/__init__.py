"""Text made fit to be shown: escaped, shortened, without secrets. Everything else may import it."""
