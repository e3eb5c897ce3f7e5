"""The lab: arrivals, clocks and calculations for the demo and for experiments. An edge: nothing imports it but
edges."""
