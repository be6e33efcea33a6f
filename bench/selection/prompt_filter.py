"""Which prompts may be trained on at all: rewards [M, N] -> rewards [M, N], NaN in the rows that are left out.

A filter comes before the selection and composes with every method, since NaN is never chosen.
"""

import numpy as np

from bench.selection.cells import correct


def every_prompt(rewards: np.ndarray) -> np.ndarray:
    """[M, N]: the rewards as they are."""
    return np.asarray(rewards, float)


def decidable_only(rewards: np.ndarray) -> np.ndarray:
    """[M, N]: without the prompts whose scored samples are all correct (reward above 0.5) or all wrong.

    On those the reward can't tell completions apart. Source: the dynamic sampling of DAPO (Yu et al. 2025, arXiv
    2503.14476), which keeps prompts with 0 < correct < samples.
    """
    rewards = np.asarray(rewards, float)
    right, wrong = correct(rewards).any(axis=1), (~correct(rewards) & ~np.isnan(rewards)).any(axis=1)
    return np.where((right & wrong)[:, None], rewards, np.nan)


def prompts_dropped(before: np.ndarray, after: np.ndarray) -> int:
    """Prompts with a scored sample before a filter and none after it; both [M, N]."""
    return int((~np.isnan(before).all(axis=1) & np.isnan(after).all(axis=1)).sum())
