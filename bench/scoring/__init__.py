"""Scorers: (prompts, completions, *, settings) -> Rewards, one number a completion."""
