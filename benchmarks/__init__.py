"""What replay costs, next to what an expert's loop costs on the same work: `python -m benchmarks`."""
