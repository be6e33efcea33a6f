"""Choose the prompts to train on: filters of rewards [M, N] that set the rows of other prompts to NaN.

A filter comes before the selection and works with every method, since NaN is never chosen.
"""

import numpy as np

from bench.selection.cells import correct


def every_prompt(rewards: np.ndarray) -> np.ndarray:
    """[M, N]: the rewards unchanged."""
    return np.asarray(rewards, float)


def decidable_only(rewards: np.ndarray) -> np.ndarray:
    """[M, N]: the rewards without prompts whose scored samples are all correct (reward above 0.5) or all wrong.

    On those the reward can't tell completions apart. Source: the dynamic sampling of DAPO (Yu et al. 2025, arXiv
    2503.14476), which keeps prompts with 0 < correct < samples.
    """
    rewards = np.asarray(rewards, float)
    right, wrong = correct(rewards).any(axis=1), (~correct(rewards) & ~np.isnan(rewards)).any(axis=1)
    return np.where((right & wrong)[:, None], rewards, np.nan)


def prompts_dropped(before: np.ndarray, after: np.ndarray) -> int:
    """The number of prompts with a scored sample before a filter and none after it; both [M, N]."""
    return int((~np.isnan(before).all(axis=1) & np.isnan(after).all(axis=1)).sum())
