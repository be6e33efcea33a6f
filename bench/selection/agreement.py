"""Methods that let a prompt's samples vote: the answer most agree on, and the completion most like the others."""

from collections import Counter
from collections.abc import Iterable
from itertools import zip_longest
from typing import Annotated

import numpy as np

from bench.artifacts import Selection
from bench.config.rules import number
from bench.selection.cells import cells, finite, indifferent, ranks_within_prompt, same_shape


def self_consistency(rewards: np.ndarray, rng: np.random.Generator, *, answers: np.ndarray) -> Selection:
    """A random completion with the answer that most of a prompt's completions give; what is most wins ties at random.

    rewards: [M, N], of which only what is scored matters; answers: [M, N] objects, None where there is none (it casts
    no vote). A prompt without answers selects nothing. Source: self-consistency (Wang et al. 2022, arXiv 2203.11171),
    its vote as a pseudo-label as in LMSI (Huang et al. 2022, arXiv 2210.11610).
    """
    same_shape("answers", answers, rewards)
    votes = indifferent(rewards)
    for row, given in enumerate(answers):
        voting = zip(given, votes[row], strict=True)
        counted = Counter(answer for answer, vote in voting if answer is not None and vote == 0)
        most = max(counted.values(), default=0)
        plurality = [answer for answer, count in counted.items() if count == most]
        elected = plurality[rng.integers(len(plurality))] if plurality else None
        votes[row, [answer is None or answer != elected for answer in given]] = np.nan
    return cells(ranks_within_prompt(votes, rng) == 0)


def mbr(
    rewards: np.ndarray,
    rng: np.random.Generator,
    *,
    similarity: Iterable[np.ndarray],
    beta: Annotated[float, number(0)],
) -> Selection:
    """The completion with the largest r + beta x mean similarity to the prompt's other scored ones, of every prompt.

    rewards: [M, N]; similarity: [M, N, N], or whatever gives the [N, N] matrices of the prompts in turn (see
    bench.selection.similarity). A lone completion has similarity 0. beta = 0 is top_per_prompt; a large one is minimum
    Bayes risk decoding. ValueError where it has another shape or is not finite between scored completions.
    Source: MBR-regularised Best-of-N (Jinnai et al. 2024, arXiv 2404.01054); there the mean includes a completion's
    similarity to itself, which changes the scale of beta alone.
    """
    rewards = finite(rewards)
    samples = rewards.shape[1]
    objective = np.full(rewards.shape, np.nan)
    for row, (values, matrix) in enumerate(zip_longest(rewards, similarity)):
        if values is None or matrix is None or np.shape(matrix) != (samples, samples):
            raise ValueError(
                f"similarity must give {len(rewards)} matrices [{samples}, {samples}], one a prompt; at prompt {row} "
                f"it gives {'none' if matrix is None else list(np.shape(matrix))}."
            )
        scored = ~np.isnan(values)
        among = np.asarray(matrix, float)[np.ix_(scored, scored)]
        if not np.isfinite(among).all():
            raise ValueError(f"similarity is not finite between two scored completions of prompt {row}.")
        # the whole row less itself, so that identical completions have identical sums, whatever their places
        others = (among.sum(axis=1) - among.diagonal()) / max(len(among) - 1, 1)
        objective[row, scored] = values[scored] + beta * others
    return cells(ranks_within_prompt(objective, rng) == 0)
