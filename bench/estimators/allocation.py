"""Whose next sample is worth most: a Beta posterior of each prompt's rate of acceptance, and samples given by gain.

More samples for inputs where they are expected to help is the idea of Damani et al. 2024 (arXiv 2410.04707), who learn
each input's gains; here they follow from a first look at every prompt, which is ours.
"""

import math
from typing import NamedTuple

import numpy as np

from bench.estimators.arrays import as_floats, check_same_shape

STRENGTHS = np.array(sorted(2.0 ** np.arange(-3, 8), key=lambda one: abs(np.log2(one) - 1)))  # samples; 2 first: flat
_log_gamma = np.vectorize(math.lgamma, otypes=[float])


class BetaPrior(NamedTuple):
    """Of the rates of acceptance of all prompts; `accepted` + `refused` is how many samples it weighs as much as."""

    accepted: float
    refused: float


def beta_prior(accepted: np.ndarray, drawn: np.ndarray) -> BetaPrior:
    """The Beta prior under which the prompts' counts are likeliest, by its strength; its mean is the counts' own.

    accepted, drawn: [M], drawn beforehand in equal or given number. The mean is (accepted + 1) / (drawn + 2) over all
    prompts, so that it is neither 0 nor 1. The likelihood is the beta-binomial one (Skellam 1948), its strength one of
    1/8, 1/4, ... 128 samples; where one sample a prompt tells nothing of it, 2.
    """
    accepted, drawn = _counts(accepted, drawn)
    mean = (accepted.sum() + 1) / (drawn.sum() + 2)
    a, b = (share * STRENGTHS[:, None] for share in (mean, 1 - mean))
    likelihood = (_log_beta(a + accepted, b + drawn - accepted) - _log_beta(a, b)).sum(axis=1)  # [strengths]
    best = int(np.argmax(likelihood > likelihood.max() - 1e-9))
    return BetaPrior(float(mean * STRENGTHS[best]), float((1 - mean) * STRENGTHS[best]))


def expected_gains(accepted: np.ndarray, drawn: np.ndarray, prior: BetaPrior, *, enough: int, most: int) -> np.ndarray:
    """[M, most]: by how much each further sample raises the expected number of accepted ones, counted up to `enough`.

    Sample j of a prompt gains the chance that it is accepted while fewer than `enough` were before it, under the
    posterior Beta(accepted + .., refused + ..). Each gains at most what the one before it does. accepted, drawn: [M].
    """
    accepted, drawn = _counts(accepted, drawn)
    yes, no = prior.accepted + accepted, prior.refused + drawn - accepted
    wanted = np.maximum(enough - accepted, 0)  # [M]
    extra = np.arange(enough)  # accepted among the further samples; from `wanted` on nothing is gained
    open_ = extra < wanted[:, None]
    chance = np.where(open_ & (extra == 0), 1.0, 0.0)  # [M, enough], of `extra` accepted so far
    gains = np.empty((len(accepted), most))
    for number in range(most):
        total = (yes + no)[:, None] + number
        hit = chance * (yes[:, None] + extra) / total
        gains[:, number] = hit.sum(axis=1)
        chance = chance - hit
        chance[:, 1:] += hit[:, :-1]
        chance = np.where(open_, chance, 0.0)
    return np.minimum.accumulate(gains, axis=1)  # rounding may not raise one


def allocate(gains: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
    """[M]: how many further samples each prompt gets of `budget` in all, so that the sum of their gains is largest.

    gains: [M, most], falling along each row, so that taking the largest ones first is best. Ties: the earlier sample
    of a prompt first, then at random. What gains nothing is not drawn.
    """
    gains = as_floats("gains", gains, 2, shape="[M, most]")
    if (np.diff(gains, axis=1) > 0).any():
        raise ValueError(f"gains {list(gains.shape)} rise along a row; falling gains are expected")
    number = np.broadcast_to(np.arange(gains.shape[1]), gains.shape)
    shuffled = np.broadcast_to(rng.permutation(len(gains))[:, None], gains.shape)
    order = np.lexsort((shuffled.ravel(), number.ravel(), -gains.ravel()))[: max(budget, 0)]
    chosen = np.zeros(gains.size, bool)
    chosen[order] = True
    return (chosen.reshape(gains.shape) & (gains > 0)).sum(axis=1)


def _log_beta(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _log_gamma(a) + _log_gamma(b) - _log_gamma(a + b)


def _counts(accepted: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    accepted, drawn = as_floats("accepted", accepted, 1, shape="[M]"), as_floats("drawn", drawn, 1, shape="[M]")
    check_same_shape(accepted=accepted, drawn=drawn)
    if (accepted < 0).any() or (accepted > drawn).any():
        raise ValueError(f"accepted {list(accepted.shape)} must lie between 0 and drawn")
    return accepted, drawn
