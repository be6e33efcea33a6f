"""The estimators at full size against plain loops: CPU-seconds, their ratio, and peak memory.

examples:
  python -m bench.speed estimators
  python -m bench.speed estimators --prompts 1000 --samples 256

The plain ways are loops over prompts and n, and over resamples. They do a part of the work, and their time is scaled
up. Both sides must agree on that part.
"""

import math
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from bench.estimators.bootstrap import bootstrap_interval, resampled_means
from bench.estimators.curves import best_of_n, pass_at_k
from bench.estimators.kl import best_of_n_kl
from bench.seeds import generator
from bench.speed.measure import Printout, highest_memory, keep, option_parser, timed

PLAIN_PROMPTS, PLAIN_RESAMPLES = 1_000, 100
NAMES = 44  # width of the table's first column
Way = Callable[[], np.ndarray]


def main(arguments: list[str]) -> None:
    parser = option_parser("estimators", __doc__)
    parser.add_argument("--prompts", type=int, default=10_000, help="M")
    parser.add_argument("--samples", type=int, default=1_024, help="N per prompt")
    parser.add_argument("--resamples", type=int, default=10_000, help="resamples of the bootstrap")
    parser.add_argument("--long", type=int, default=100_000, help="N of one long prompt")
    parser.add_argument("--csv", type=Path, help="a file for the table")
    options = parser.parse_args(arguments)

    rng = generator(0, "speed", "estimators")
    shape = (options.prompts, options.samples)
    sizes = [2**i for i in range(int(math.log2(options.samples)) + 1)]
    scores, gold = rng.normal(size=shape), rng.normal(size=shape)
    correct = (rng.random(shape) < rng.beta(1, 2, (options.prompts, 1))).astype(np.float64)
    rounded = np.round(scores, 1)
    print(f"{options.prompts:,} prompts x {options.samples:,} samples, n = 1, 2, 4 ... {sizes[-1]}\n")
    table = Printout(NAMES, {"CPU s": 8, "plain": 11, "ratio": 9, "memory": 11})

    few = slice(0, min(PLAIN_PROMPTS, options.prompts))
    scale = options.prompts / len(scores[few])
    for name, ours, proxy, outcome in (
        ("pass_at_k", partial(pass_at_k, correct, sizes), correct, correct),
        ("best_of_n, distinct scores", partial(best_of_n, scores, sizes, gold), scores, gold),
        ("best_of_n, 0/1 rewards", partial(best_of_n, correct, sizes, gold), correct, gold),
        ("best_of_n, scores rounded to 0.1", partial(best_of_n, rounded, sizes, gold), rounded, gold),
    ):
        plain = partial(_plain_best_of_n, proxy[few], outcome[few], sizes)
        curve = _line(table, name, ours, plain, scale, compare=few)
    _line(table, "best_of_n_kl, 0/1 rewards", partial(best_of_n_kl, correct, sizes))
    _line(table, "best_of_n_kl, distinct scores", partial(best_of_n_kl, scores, sizes))
    _line(
        table,
        f"bootstrap_interval, {options.resamples:,} resamples",
        lambda: np.array(bootstrap_interval(curve, generator(0, "speed"), resamples=options.resamples)),
        partial(_plain_bootstrap, curve, generator(1, "speed"), PLAIN_RESAMPLES),
        options.resamples / PLAIN_RESAMPLES,
    )
    spread = resampled_means(curve, generator(0, "speed"), resamples=options.resamples).std(axis=0)
    error = curve.std(axis=0, ddof=1) / math.sqrt(options.prompts)
    ratio = spread / error
    print(f"{'  SE of the resamples over sd/sqrt(M)':{NAMES}}{ratio.min():8.3f} to {ratio.max():.3f}")

    prompt = rng.permutation(np.arange(1.0, options.long + 1))[None]
    ns = np.minimum([1, 1000, options.long // 2, options.long], options.long)
    values = _line(table, f"best_of_n, one prompt of {options.long:,}", partial(best_of_n, prompt, ns))
    expected = ns * (options.long + 1) / (ns + 1)
    print(f"{'  largest relative error':{NAMES}}{np.abs(values[0] / expected - 1).max():8.1e}")
    keep(options.csv, table.rows)
    print(f"\npeak memory of the whole process, inputs included: {highest_memory() / 2**30:.2f} GiB")


def _line(
    table: Printout, name: str, ours: Way, plain: Way | None = None, scale: float = 1.0, compare: slice | None = None
) -> np.ndarray:
    """Print one row of the table. Its memory is what `ours` allocates beyond its arguments."""
    tracemalloc.start()
    result, cost = timed(ours)
    memory = f"{tracemalloc.get_traced_memory()[1] / 2**20:.0f} MiB"
    tracemalloc.stop()
    if plain is None:
        table.row(name, f"{cost.cpu:.3f}", "", "", memory)
        return result
    reference, plain_cost = timed(plain)
    if compare is not None:
        np.testing.assert_allclose(result[compare], reference, rtol=1e-9, atol=1e-9)
    seconds = plain_cost.cpu * scale
    table.row(name, f"{cost.cpu:.3f}", f"{seconds:.2f}", f"{seconds / cost.cpu:.1f}x", memory)
    return result


def _plain_best_of_n(proxy: np.ndarray, gold: np.ndarray, sizes: list[int]) -> np.ndarray:
    """Loop over prompts, n and groups of equal scores, with one table of exact binomials."""
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
    """Loop over resamples: draw rows and take their mean; percentiles at the end."""
    means = [values[rng.integers(0, len(values), len(values))].mean(axis=0) for _ in range(resamples)]
    return np.quantile(means, [0.025, 0.975], axis=0)
