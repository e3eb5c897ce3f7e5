"""The lab: arrivals, clocks and calculations for the demo and for experiments. Only other edges import it."""
