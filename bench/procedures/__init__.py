"""What the procedures share: their parts, their results, and the steps that several of them take.

A procedure is a function `(parts, *, its own settings) -> Results`; bench/experiment.py is the simplest one.
"""
