"""`python -m benchmarks.scale`: what processes and live wagons ask of a broker, counted here and modelled beyond."""
