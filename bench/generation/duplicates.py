"""Counts that a reader of a pool should see, and whether it holds more equal samples than chance makes."""

import math
from collections import Counter

import numpy as np

from bench.artifacts import Completions


def describe(completions: Completions) -> dict[str, float]:
    """Count the samples of a pool, and those that are cut at the limit, empty, or repeated within a prompt.

    `twins` counts pairs of equal samples of one prompt, `twins_expected` the pairs that independent samples of their
    probabilities would have; `twins_alarm` is 1 where the difference is no accident. Pools side by side are counted one
    by one: equal samples of different policies are no pair. In a stopped pool only the samples that every prompt has
    are compared: a prompt goes on where its samples were refused, and refused samples are alike.
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

    logprob: [M, N] nats, under the sampler. Another independent sample equals a sample y with probability μ(y), so the
    means of μ(y_i) and of μ(y_i)² estimate Σ μ² and Σ μ³ without bias. The moments of the number of pairs follow from
    those sums (pairs that share a sample are dependent).
    """
    samples = logprob.shape[1]
    second, third = np.exp(logprob).mean(axis=1), np.exp(2 * logprob).mean(axis=1)
    variance = math.comb(samples, 2) * (second - second**2) + 6 * math.comb(samples, 3) * (third - second**2)
    return math.comb(samples, 2) * second, np.maximum(variance, 0.0)


def twins_alarm(observed: np.ndarray, expected: np.ndarray, variance: np.ndarray) -> bool:
    """Whether samples of a prompt are equal more often than independent ones would be: some shared a random stream.

    observed, expected, variance: [M], of pairs of equal samples. Over all prompts, the excess must be above five
    standard errors, five pairs, and a tenth of the expected number, as that of near-certain samples is skewed.
    """
    excess = float((observed - expected).sum())
    return excess > max(5 * math.sqrt(variance.sum()), 5.0, 0.1 * expected.sum())
