"""Pools that nest: samples are drawn in units of (prompt shard, sample block), each an artifact of its own.

A unit is addressed by its own prompts, its bytes depend on nothing else, and every (prompt, sample) has its own
random stream. So eight samples extended to 32 draw only the missing blocks, eight read a prefix of 64, a shard drawn
alone is the one that the whole pool would have, and a kill loses at most the unit being drawn. The number of samples
asked for is rounded up to whole blocks; the rest stays in the store.
"""

import contextlib
import contextvars
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.artifacts import Completions, Policy, Prompts
from bench.errors import BenchError
from bench.generation.stored import FILE, NUMBERS, Unit, assemble, read, write
from bench.models.tokens import unconfigured_end
from bench.models.truncation import check_sampler
from bench.progress import Bar, bar
from bench.store import Address, current
from bench.store.files import checksum


class Engine(Protocol):
    """A loaded model that can draw."""

    def sample(
        self,
        prompts: Prompts,
        samples: range,
        *,
        temperature: float,
        top_p: float,
        top_k: int,
        max_new_tokens: int,
        seed: int,
        progress: Bar,
    ) -> tuple[Completions, dict[str, float]]:
        """The given samples of every prompt [M, len(samples)], and what was counted (tokens, flops)."""
        ...


_shared: contextvars.ContextVar[list[Engine] | None] = contextvars.ContextVar("shared", default=None)


@contextlib.contextmanager
def sharing(opened: list[Engine]) -> Iterator[None]:
    """Draws inside, all from one policy by one engine, use the engine in `opened`, or leave there the one they open."""
    token = _shared.set(opened)
    try:
        yield
    finally:
        _shared.reset(token)


def draw(
    prompts: Prompts,
    policy: Policy,
    open_engine: Callable[[], Engine],
    *,
    engine: str,
    version: int,
    num_completions: int,
    temperature: float,
    top_p: float,
    top_k: int,
    max_new_tokens: int,
    seed: int,
    dtype: str,
    block_size: int,
    shard_size: int,
    first_sample: int = 0,
) -> Completions:
    """The first `num_completions` samples of every prompt; the engine is opened only where a unit is missing.

    `engine`, `version`, the sampler, seed, dtype and the unit's sizes make the pool's key; num_completions does not.
    first_sample: the samples before it, whole blocks of them, are left out and not drawn.
    BenchError where several samples are asked for at temperature 0, or first_sample begins no block of them.
    """
    check_sampler(temperature, top_p, top_k)
    if num_completions < 1:
        raise BenchError(f"num_completions={num_completions} is not allowed: it must be at least 1.")
    if temperature == 0 and num_completions > 1:
        raise BenchError(
            f"temperature=0 is greedy: num_completions={num_completions} must be 1, or the temperature above 0."
        )
    if first_sample % block_size or not 0 <= first_sample < num_completions:
        raise BenchError(
            f"first_sample={first_sample} is not allowed: it must be a multiple of block_size={block_size} below "
            f"num_completions={num_completions}."
        )
    if temperature == 0:  # what greedy does not depend on must not set its pool apart
        top_p, top_k, seed, block_size = 1.0, 0, 0, 1
    shared = _shared.get()
    opened = [] if shared is None else shared

    def fill(shard: Prompts, samples: range, progress: Bar) -> Callable[[Path], dict[str, float]]:
        def build(folder: Path) -> dict[str, float]:
            if not opened:
                opened.append(open_engine())
            completions, counts = opened[0].sample(
                shard,
                samples,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                max_new_tokens=max_new_tokens,
                seed=seed,
                progress=progress,
            )
            write(completions, folder / FILE)
            return {"completions": completions.logprob.size, **counts}

        return build

    settings: dict[str, Any] = {
        "engine": engine,
        "temperature": float(temperature),
        "top_p": float(top_p),
        "top_k": top_k,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "dtype": dtype,
        "block_size": block_size,
    }
    if (end := unconfigured_end(policy)) is not None:
        settings["turn_end"] = end
    blocks = range(first_sample, num_completions, block_size)
    shards = range(0, len(prompts), shard_size)
    units: list[tuple[Unit, dict[str, np.ndarray]]] = []
    with (
        bar("generate", total=float(len(blocks) * len(shards)), unit="units") as outer,
        bar("  completions", None, "tokens") as inner,
    ):
        for start in shards:
            shard = prompts[start : start + shard_size]
            address = Address("generate", version, settings, {"prompts": shard.key, "policy": policy.key})
            for block in blocks:
                place = address.piece(f"{block // block_size:05d}")
                build = fill(shard, range(block, block + block_size), inner)
                folder = current().make(place, build, Path)
                columns = slice(block - first_sample, block - first_sample + block_size)
                rows = slice(start, start + len(shard))
                unit = Unit(rows, columns, folder, content=checksum(folder, FILE), drawn=columns)
                units.append((unit, read(unit, tuple(NUMBERS))))
                outer.advance()
    return assemble(units).first(num_completions - first_sample)


def describe(completions: Completions) -> dict[str, float]:
    """Counts that a reader of a pool should see: how many, cut at the limit, empty, and repeated within a prompt.

    `twins` are pairs of equal samples of one prompt, `twins_expected` how many independent samples would have by their
    own probabilities; twins_alarm is 1 where that is no accident (see `twins_alarm`). Of pools side by side, each is
    looked at by itself: equal samples of different policies are no twins.
    """
    distinct, empty = 0, 0
    observed, expected, variance = (np.zeros((len(completions.parts), len(completions.logprob))) for _ in range(3))
    for number, pool in enumerate(completions.parts):
        for rows, part in pool.shards():
            counts = [Counter(ids.tobytes() for ids in row) for row in part.token_ids]
            distinct += sum(map(len, counts))
            empty += sum(not text.strip() for text in part.text.ravel())
            observed[number, rows] = [sum(n * (n - 1) / 2 for n in count.values()) for count in counts]
        expected[number], variance[number] = expected_twins(pool.logprob)
    total = completions.logprob.size
    return {
        "completions": total,
        "truncated": int((completions.finish_reason == "length").sum()),
        "empty": empty,
        "duplicate_share": 1 - distinct / total,
        "twins": float(observed.sum()),
        "twins_expected": float(expected.sum()),
        "twins_alarm": int(twins_alarm(observed, expected, variance)),
        "mean_length": float(completions.length.mean()),
    }


def expected_twins(logprob: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each prompt's expected number [M] of pairs of equal samples, were they independent, and its variance [M].

    logprob: [M, N] nats, under the sampler. A sample y meets its twin in another independent one with probability
    μ(y), so the mean of μ(y_i) and of μ(y_i)² estimate Σ μ² and Σ μ³ without bias, from which the moments of the
    number of pairs follow (pairs that share a sample are dependent).
    """
    samples = logprob.shape[1]
    second, third = np.exp(logprob).mean(axis=1), np.exp(2 * logprob).mean(axis=1)
    variance = math.comb(samples, 2) * (second - second**2) + 6 * math.comb(samples, 3) * (third - second**2)
    return math.comb(samples, 2) * second, np.maximum(variance, 0.0)


def twins_alarm(observed: np.ndarray, expected: np.ndarray, variance: np.ndarray) -> bool:
    """Whether samples of a prompt are equal more often than independent ones would be: two shared a random stream.

    observed, expected, variance: [M], of pairs of equal samples. The alarm needs an excess of five standard errors
    and five pairs over all prompts, and of a tenth: that of near-certain samples is skewed.
    """
    excess = float((observed - expected).sum())
    return excess > max(5 * math.sqrt(variance.sum()), 5.0, 0.1 * expected.sum())
