"""Where recorded arrivals are read from, without touching anything there."""
