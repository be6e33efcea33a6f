"""Benchmarks of the parts of the suite, each compared with a plain way to do the same: `python -m bench.speed`."""
