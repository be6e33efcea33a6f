"""Estimators of every number the suite reports: NumPy functions on arrays of M prompts and N completions per prompt.

- `best_of_n`: Best-of-n, pass@k, majority votes, soft Best-of-n, each for every n up to N from one pool
- `kl`: the divergence of Best-of-n from its sampler or from the base, and of a fine-tuned policy from its base
- `uncertainty`: intervals, paired comparisons with a verdict, tests, training seeds, power
- `overoptimisation`: the reward over √KL, and whether its fall is resolved
- `compute`: FLOPs, and the number of queries after which fine-tuning pays

An int n gives [M]; a sequence of K numbers gives [M, K]. NaN marks a sample that could not be scored: it counts as
never drawn, and a row with fewer than n scored samples gives NaN for that n. All logarithms are natural.
"""
