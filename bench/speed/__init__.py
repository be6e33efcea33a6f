"""Speed and memory of the suite's parts, each against a plain way of doing the same: `python -m bench.speed <part>`."""
