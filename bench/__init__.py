"""Rejection sampling in language models, measured: Best-of-N and fine-tuned policies on one KL axis."""
