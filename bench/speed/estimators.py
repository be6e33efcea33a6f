"""The estimators at full size against plain loops: CPU-seconds, their ratio, and peak memory.

    python -m bench.speed estimators
    python -m bench.speed estimators --prompts 1000 --samples 256

The plain ways are what one writes first: a loop over prompts and n, a loop over resamples. They run on a part of the
work and are scaled up; both sides must agree on that part.
"""

import argparse
import math
import resource
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial

import numpy as np

from bench.estimators.best_of_n import best_of_n, pass_at_k
from bench.estimators.kl import estimate_best_of_n_kl
from bench.estimators.uncertainty import bootstrap_interval, resampled_means
from bench.seeds import generator

PLAIN_PROMPTS, PLAIN_RESAMPLES = 1_000, 100


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.speed estimators", description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=10_000, help="M, default %(default)s")
    parser.add_argument("--samples", type=int, default=1_024, help="N a prompt, default %(default)s")
    parser.add_argument("--resamples", type=int, default=10_000, help="of the bootstrap, default %(default)s")
    parser.add_argument("--long", type=int, default=100_000, help="N of one long prompt, default %(default)s")
    options = parser.parse_args(arguments)

    rng = generator(0, "speed", "estimators")
    shape = (options.prompts, options.samples)
    sizes = [2**i for i in range(int(math.log2(options.samples)) + 1)]
    scores, gold = rng.normal(size=shape), rng.normal(size=shape)
    correct = (rng.random(shape) < rng.beta(1, 2, (options.prompts, 1))).astype(np.float64)
    print(f"{options.prompts:,} prompts x {options.samples:,} samples, n = 1, 2, 4 ... {sizes[-1]}\n")
    print(f"{'':44}{'CPU s':>8}{'plain':>11}{'ratio':>9}{'memory':>11}")

    few = slice(0, min(PLAIN_PROMPTS, options.prompts))
    scale = options.prompts / len(scores[few])
    for name, proxy, outcome in (
        ("best_of_n, distinct scores", scores, gold),
        ("best_of_n, 0/1 rewards", correct, gold),
        ("best_of_n, scores rounded to 0.1", np.round(scores, 1), gold),
    ):
        curve = _line(
            name,
            partial(best_of_n, proxy, outcome, sizes),
            partial(_plain_best_of_n, proxy[few], outcome[few], sizes),
            scale,
            compare=few,
        )
    _line(
        "pass_at_k",
        lambda: pass_at_k(correct, sizes),
        lambda: _plain_best_of_n(correct[few], correct[few], sizes),
        scale,
        compare=few,
    )
    _line("estimate_best_of_n_kl, 0/1 rewards", lambda: estimate_best_of_n_kl(correct, sizes))
    _line("estimate_best_of_n_kl, distinct scores", lambda: estimate_best_of_n_kl(scores, sizes))
    _line(
        f"bootstrap_interval, {options.resamples:,} resamples",
        lambda: np.array(bootstrap_interval(curve, generator(0, "speed"), resamples=options.resamples)),
        lambda: _plain_bootstrap(curve, generator(1, "speed"), PLAIN_RESAMPLES),
        options.resamples / PLAIN_RESAMPLES,
    )
    spread = resampled_means(curve, generator(0, "speed"), resamples=options.resamples).std(axis=0)
    error = curve.std(axis=0, ddof=1) / math.sqrt(options.prompts)
    print(f"{'  SE of the resamples over sd/sqrt(M)':44}{(spread / error).min():8.3f} to {(spread / error).max():.3f}")

    one = rng.permutation(np.arange(1.0, options.long + 1))[None]
    long_sizes = np.array([1, 1000, options.long // 2, options.long])
    found = _line(
        f"best_of_n, one prompt of {options.long:,}", lambda: best_of_n(one, one, np.minimum(long_sizes, one.size))
    )
    expected = np.minimum(long_sizes, one.size) * (options.long + 1) / (np.minimum(long_sizes, one.size) + 1)
    print(f"{'  largest relative error':44}{np.abs(found[0] / expected - 1).max():8.1e}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"\npeak memory of the whole process, inputs included: {peak / 2**30:.2f} GiB")


def _line(
    name: str,
    ours: Callable[[], np.ndarray],
    plain: Callable[[], np.ndarray] | None = None,
    scale: float = 1.0,
    *,
    compare: slice | None = None,
) -> np.ndarray:
    """One row of the table; the memory is what is allocated beyond the arguments."""
    tracemalloc.start()
    start = time.process_time()
    result = ours()
    seconds = time.process_time() - start
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    row = f"{name:44}{seconds:8.3f}"
    if plain is None:
        print(f"{row}{'':20}{memory / 2**20:7.0f} MiB")
        return result
    start = time.process_time()
    reference = plain()
    plain_seconds = (time.process_time() - start) * scale
    if compare is not None:
        np.testing.assert_allclose(result[compare], reference, rtol=1e-9, atol=1e-9)
    print(f"{row}{plain_seconds:11.2f}{plain_seconds / seconds:8.1f}x{memory / 2**20:7.0f} MiB")
    return result


def _plain_best_of_n(proxy: np.ndarray, gold: np.ndarray, sizes: list[int]) -> np.ndarray:
    """Prompt by prompt, n by n, tie group by tie group, from one table of exact binomials."""
    total = proxy.shape[1]
    share = np.array([[math.comb(b, n) / math.comb(total, n) for b in range(total + 1)] for n in sizes])
    values = np.empty((len(proxy), len(sizes)))
    for row, (scores, outcomes) in enumerate(zip(proxy, gold, strict=True)):
        levels, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
        means = np.bincount(group, outcomes, len(levels)) / counts
        at_or_below = np.cumsum(counts)
        for column in range(len(sizes)):
            values[row, column] = means @ np.diff(share[column, at_or_below], prepend=0.0)
    return values


def _plain_bootstrap(values: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Draw rows, take their mean, again and again; percentiles at the end."""
    means = [values[rng.integers(0, len(values), len(values))].mean(axis=0) for _ in range(resamples)]
    return np.quantile(means, [0.025, 0.975], axis=0)
