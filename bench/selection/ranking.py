"""Methods that keep the best by reward (per prompt, over the pool, above a line), and the random controls they need.

Further methods sample or weight by the reward instead: softmax, statistical rejection, pessimism.
"""

import math
from typing import Annotated

import numpy as np

from bench.artifacts import Selection
from bench.config.rules import ABOVE_ZERO, Count, CountPerPrompt, number
from bench.estimators.soft import pessimistic_weights
from bench.selection.cells import at_most_samples, best_k, cells, finite, indifferent, ranks_within_prompt, same_shape


def top_per_prompt(rewards: np.ndarray, rng: np.random.Generator) -> Selection:
    """The best completion per prompt. Source: Llama 2 (Touvron et al. 2023), section 3.2.3.

    rewards: [M, N]. Returns at most M cells, one per prompt with a scored sample.
    """
    return cells(ranks_within_prompt(rewards, rng) == 0)


def top_k_per_prompt(rewards: np.ndarray, rng: np.random.Generator, *, k: CountPerPrompt) -> Selection:
    """The k best completions per prompt; a prompt with fewer scored samples gives all of them.

    rewards: [M, N]. BenchError where k is above N. Source: that of top_per_prompt, with k in the place of one.
    """
    at_most_samples(k, rewards)
    ranks = ranks_within_prompt(rewards, rng)
    return cells((ranks >= 0) & (ranks < k))


def top_k_overall(rewards: np.ndarray, rng: np.random.Generator, *, k: Count) -> Selection:
    """The k best completions of the pool: easy prompts may crowd out hard ones. BenchError where fewer are scored.

    rewards: [M, N]. Source: reward-ranked filtering over the whole pool, as in RAFT (Dong et al. 2023), section 3.
    """
    return best_k(rewards, k, rng)


def threshold(rewards: np.ndarray, rng: np.random.Generator, *, threshold: Annotated[float, number()]) -> Selection:
    """Every completion whose reward is above `threshold`, those equal to it excluded. rewards: [M, N]; `rng` is unused.

    Source: the filter of ReST's Improve step (Gulcehre et al. 2023, arXiv 2308.08998).
    """
    return cells(np.asarray(rewards, float) > threshold)  # NaN compares false


def quantile(
    rewards: np.ndarray, rng: np.random.Generator, *, q: Annotated[float, number(0, 1, open_high=True)]
) -> Selection:
    """The best share 1 - q of all scored completions: all but floor(q x scored), ties at the line broken at random.

    rewards: [M, N]. At least one is kept where one is scored, none where none is. A line drawn at a reward would keep
    none or all of the tied completions, which with a verifier is everything.
    """
    scored = int((~np.isnan(np.asarray(rewards, float))).sum())
    dropped = math.floor(q * scored + 1e-9)  # 0.29 x 100 is 28.999999999999996
    return best_k(rewards, scored - dropped, rng) if scored else cells(np.zeros(np.shape(rewards), bool))


def worst_per_prompt(rewards: np.ndarray, rng: np.random.Generator) -> Selection:
    """The worst scored completion per prompt: a negative control, which should train a worse policy.

    rewards: [M, N]. Ours; nothing in the field selects so on purpose.
    """
    return top_per_prompt(-np.asarray(rewards, float), rng)


def kl_regularised(
    rewards: np.ndarray, rng: np.random.Generator, *, logprob: np.ndarray, beta: Annotated[float, number(0)]
) -> Selection:
    """The completion with the largest r + beta log pi0(y) per prompt; beta = 0 is top_per_prompt.

    rewards: [M, N]; logprob: [M, N] nats per sequence under the raw base (temperature 1, top-p 1). ValueError where a
    scored completion has no finite logprob. Source: KL-regularised Best-of-N (Jinnai et al. 2024, arXiv 2404.01054).
    """
    rewards, logprob = finite(rewards), np.asarray(logprob, float)
    same_shape("logprob", logprob, rewards)
    if not np.isfinite(logprob[~np.isnan(rewards)]).all():
        raise ValueError("logprob is not finite at a scored completion; it must be its log-probability in nats.")
    return top_per_prompt(rewards + beta * logprob, rng)


def random_per_prompt(rewards: np.ndarray, rng: np.random.Generator) -> Selection:
    """One scored completion per prompt, uniformly: the random control of top_per_prompt. rewards: [M, N]."""
    return top_per_prompt(indifferent(rewards), rng)


def random_k_overall(rewards: np.ndarray, rng: np.random.Generator, *, k: Count) -> Selection:
    """k scored completions, uniformly: the random control of top_k_overall. rewards: [M, N]."""
    return best_k(indifferent(rewards), k, rng)


def matched_random(chosen: Selection, rewards: np.ndarray, rng: np.random.Generator) -> Selection:
    """The random control of a selection: as many completions per prompt, with the same weights, drawn uniformly.

    rewards: [M, N], read only for which completions are scored. A method that keeps a completion several times is
    matched by as many draws, distinct while a prompt has enough. Pairs are matched by pairs of any two completions.
    """
    scored = ~np.isnan(np.asarray(rewards, float))
    by_row = np.argsort(chosen.row, kind="stable")
    prompts, starts = np.unique(chosen.row[by_row], return_index=True)
    columns = np.empty_like(chosen.column)
    rejected = None if chosen.rejected is None else np.empty_like(chosen.rejected)
    for row, places in zip(prompts, np.split(by_row, starts)[1:], strict=True):
        available = np.flatnonzero(scored[row])
        if rejected is None:
            columns[places] = rng.choice(available, size=len(places), replace=len(places) > len(available))
        elif 2 * len(places) <= len(available):
            columns[places], rejected[places] = rng.choice(available, size=(2, len(places)), replace=False)
        else:
            drawn = [rng.choice(available, size=2, replace=False) for _ in places]
            columns[places], rejected[places] = np.transpose(drawn)
    order = np.lexsort((columns, chosen.row))
    return Selection(
        chosen.row[order], columns[order], chosen.weight[order], None if rejected is None else rejected[order]
    )


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
    rewards: np.ndarray, rng: np.random.Generator, *, k: CountPerPrompt, beta: Annotated[float, ABOVE_ZERO]
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
