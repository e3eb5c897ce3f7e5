"""The path of earlier releases: see `eventwagon.drivers`."""
