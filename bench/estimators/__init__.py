"""Every number the suite reports, as NumPy functions on arrays: M prompts, N completions a prompt, K values of n.

- `best_of_n`: Best-of-N, pass@k, majority@k, soft Best-of-N, each exact or unbiased for every n from one pool
- `kl`: the divergence of Best-of-N from its sampler or from the base, and of a fine-tuned policy from its base
- `uncertainty`: intervals, paired comparisons with a verdict, tests, power
- `overoptimisation`: the reward curve over √KL and whether its fall is resolved
- `compute`: FLOPs, and the number of queries after which fine-tuning pays

An int n gives [M]; a sequence of them gives [M, K]. NaN is a sample that could not be scored: it counts as never drawn,
and a row with fewer than n scored samples gives NaN for that n. All logarithms are natural.
"""
