"""What a reader of a pool should see: how many samples, how long, and whether equal ones are more than chance makes."""

import math
from collections import Counter

import numpy as np

from bench.artifacts import Completions


def describe(completions: Completions) -> dict[str, float]:
    """Counts that a reader of a pool should see: how many samples, cut at the limit, empty, and repeated per prompt.

    `twins` are pairs of equal samples of one prompt, `twins_expected` how many pairs independent samples would have by
    their own probabilities; twins_alarm is 1 where the difference is no accident (see `twins_alarm`). Pools side by
    side are looked at one by one: equal samples of different policies are no twins. In a stopped pool twins are
    looked for among the samples that every prompt has: those of a prompt that goes on are alike as all were refused.
    """
    drawn, distinct, empty = completions.drawn, 0, 0
    observed, expected, variance = (np.zeros((len(completions.parts), len(drawn))) for _ in range(3))
    for number, pool in enumerate(completions.parts):
        held = pool.drawn
        for rows, part in pool.shards(blanks=True):
            for row, ids, kept in zip(range(rows.start, rows.stop), part.token_ids, held[rows], strict=True):
                cells = [cell.tobytes() for cell in ids[kept]]
                distinct += len(set(cells))
                pairs = [count * (count - 1) / 2 for count in Counter(cells[: pool.always]).values()]
                observed[number, row] = sum(pairs)
            empty += sum(not text.strip() for text in part.text[held[rows]])
        expected[number], variance[number] = expected_twins(pool.logprob[:, : pool.always])
    total = int(drawn.sum())
    return {
        "completions": total,
        "truncated": int((completions.finish_reason == "length").sum()),
        "empty": empty,
        "duplicate_share": 1 - distinct / total,
        "twins": float(observed.sum()),
        "twins_expected": float(expected.sum()),
        "twins_alarm": int(twins_alarm(observed, expected, variance)),
        "mean_length": float(completions.length[drawn].mean()),
    }


def expected_twins(logprob: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The expected number [M] of pairs of equal samples per prompt, were they independent, and its variance [M].

    logprob: [M, N] nats, under the sampler. A sample y meets its twin in another independent one with probability
    μ(y), so the means of μ(y_i) and of μ(y_i)² estimate Σ μ² and Σ μ³ without bias. The moments of the number of pairs
    follow from those sums (pairs that share a sample are dependent).
    """
    samples = logprob.shape[1]
    second, third = np.exp(logprob).mean(axis=1), np.exp(2 * logprob).mean(axis=1)
    variance = math.comb(samples, 2) * (second - second**2) + 6 * math.comb(samples, 3) * (third - second**2)
    return math.comb(samples, 2) * second, np.maximum(variance, 0.0)


def twins_alarm(observed: np.ndarray, expected: np.ndarray, variance: np.ndarray) -> bool:
    """Whether samples of a prompt are equal more often than independent ones would be: two shared a random stream.

    observed, expected, variance: [M], of pairs of equal samples. The alarm needs an excess of five standard errors
    and five pairs over all prompts, and of a tenth of the expected: the number for near-certain samples is skewed.
    """
    excess = float((observed - expected).sum())
    return excess > max(5 * math.sqrt(variance.sum()), 5.0, 0.1 * expected.sum())
