"""What the procedures share: their parts, what they hand over, and the steps that several of them take.

A procedure is a function `(parts, *, its own settings) -> Results`; bench/experiment.py is the simplest one.
"""
