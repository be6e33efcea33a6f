"""Estimates of the memory and the time that a configuration takes, before anything is downloaded; see bench.size."""
