"""`make bench`: eventwagon against the bare tools, as ratios taken in one run. Not a test: nothing fails by being
slow."""
