"""The parts of procedures, their results, and the steps that several of them share.

A procedure is a function `(parts, *, its own settings) -> Results`; bench/experiment.py is the simplest one.
"""
