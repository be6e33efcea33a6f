"""Methods that sample or weight by the reward instead of taking the best: softmax, statistical rejection, pessimism."""

from typing import Annotated

import numpy as np

from bench.artifacts import Selection
from bench.config.rules import ABOVE_ZERO, CountPerPrompt
from bench.estimators.soft import pessimistic_weights
from bench.selection.cells import at_most_samples, cells, finite
from bench.selection.ranking import top_per_prompt


def softmax(rewards: np.ndarray, rng: np.random.Generator, *, temperature: Annotated[float, ABOVE_ZERO]) -> Selection:
    """One completion per prompt, drawn with probability proportional to exp(r / temperature).

    rewards: [M, N]. A temperature near 0 is top_per_prompt, a large one random_per_prompt. Source: soft Best-of-n
    (Verdun et al. 2025, arXiv 2505.03156), drawn by the largest of r / temperature + Gumbel noise.
    """
    rewards = finite(rewards)
    best = np.max(rewards, axis=1, keepdims=True, where=~np.isnan(rewards), initial=-np.inf)  # [M, 1]
    below_best = rewards - np.where(np.isinf(best), 0, best)  # at most 0, so that no temperature overflows upwards
    with np.errstate(over="ignore"):
        noisy = below_best / temperature + rng.gumbel(size=rewards.shape)
    return top_per_prompt(noisy, rng)


def rso(
    rewards: np.ndarray,
    rng: np.random.Generator,
    *,
    k: CountPerPrompt,
    beta: Annotated[float, ABOVE_ZERO],
) -> Selection:
    """k completions per prompt by statistical rejection sampling; a prompt with fewer scored samples gives all of them.

    Each pass visits a prompt's remaining completions in random order and accepts one with probability
    exp((r - r_max) / beta), where r_max is the best remaining reward when the pass begins. Accepted completions leave,
    until there are k. With many samples of the base, the first accepted follow its tilt, pi0(y) exp(r / beta) / Z.
    rewards: [M, N]. BenchError where k is above N. Source: RSO (Liu et al. 2023, arXiv 2309.06657), Algorithm 1. There,
    completions with equal text count once, and are visited in the order they were drawn.
    """
    rewards = finite(rewards)
    at_most_samples(k, rewards)
    chosen = np.zeros(rewards.shape, bool)
    for row, values in enumerate(rewards):
        remaining = np.flatnonzero(~np.isnan(values))
        wanted = min(k, len(remaining))
        while wanted:
            remaining = rng.permutation(remaining)
            ratio = np.exp((values[remaining] - values[remaining].max()) / beta)
            accepted = np.flatnonzero(rng.random(len(remaining)) < ratio)[:wanted]  # never none: the best's ratio is 1
            chosen[row, remaining[accepted]] = True
            remaining = np.delete(remaining, accepted)
            wanted -= len(accepted)
    return cells(chosen)


def pessimism(rewards: np.ndarray, rng: np.random.Generator, *, beta: Annotated[float, ABOVE_ZERO]) -> Selection:
    """Every completion that a pessimist would draw, weighted by its probability; a prompt's weights sum to 1.

    weight = relu((r - lambda) / beta) / N with lambda such that they sum to 1: the policy closest to maximal reward
    under a chi-square penalty beta to the base, on a prompt's N scored samples. A large beta keeps all with equal
    weights, a small one only the best. rewards: [M, N]; `rng` is unused. Source: InferenceTimePessimism (Huang et al.
    2025, arXiv 2503.21878), which draws one completion by these weights; training takes all of them, as expected.
    """
    weight = pessimistic_weights(finite(rewards), beta)
    return cells(weight > 0, weight)
