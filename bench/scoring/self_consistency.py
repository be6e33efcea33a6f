"""Agreement as a score: the share of a prompt's samples that give the same answer."""

from collections import Counter

import numpy as np

from bench.artifacts import Completions, Prompts, Rewards
from bench.scoring import Scorer
from bench.tasks import Task


@Scorer(highest=1.0, compares="self_consistency")
def self_consistency(prompts: Prompts, completions: Completions, *, task: Task) -> Rewards:
    """[M, N]: the share of the prompt's N samples, the completion itself among them, that give the same answer.

    The highest scores are those of the plurality answer (Wang et al. 2022, "Self-Consistency Improves Chain of Thought
    Reasoning in Language Models"); no gold answer is used. A completion without an answer casts no vote and scores 0.
    The share is of all N, so a prompt with few answers has low scores. A prefix of a pool has other scores than the
    pool: scores are counted anew for every pool and never stored.
    """
    value = np.zeros(completions.shape)
    for rows, part in completions.shards():
        for row in range(rows.stop - rows.start):
            answers = [task.extract_answer(text) for text in part.text[row]]
            votes = Counter(answer for answer in answers if answer is not None)
            value[rows.start + row] = [votes[answer] / len(answers) if answer is not None else 0 for answer in answers]
    return Rewards(value)
