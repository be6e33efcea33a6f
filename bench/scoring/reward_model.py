"""Reward models: any sequence-classification model with one output, by hub id or local folder.

python -m bench scoring=reward_model scoring.model=PATH_OR_HUB_ID
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import Annotated

import numpy as np

from bench.artifacts import Completions, Prompts, Rewards
from bench.config.rules import DTYPE, TRUE_OR_FALSE, or_null, text, whole
from bench.devices import resolve_dtype
from bench.models.classifiers import Classifier, find, find_configured
from bench.models.reward_models import RewardModel, report
from bench.scoring import Scorer
from bench.scoring.units import scored

VERSION = 2  # raise it when equal settings give other scores or counts
STAGE = "score_reward_model"


@Scorer(check=find_configured)
def reward_model(
    prompts: Prompts,
    completions: Completions,
    *,
    model: Annotated[str, text(r"[^\0\n]+", "a hub id or the path of a folder")],
    revision: Annotated[str, text(r"[^\0\s]+", "a branch, tag or commit of the hub")] = "main",
    max_length: Annotated[int | None, or_null(whole(2))] = None,
    dtype: Annotated[str, DTYPE] = "auto",
    batch_tokens: Annotated[int | None, or_null(whole(1, 1_000_000_000))] = None,
    trust_remote_code: Annotated[bool, TRUE_OR_FALSE] = False,
) -> Rewards:
    """[M, N]: the model's single output for each prompt with the completion as the assistant's turn.

    max_length: tokens; a longer input loses what follows its first token, so that the completion's end is read; such
    inputs are counted and reported. None: what the model can read. dtype: of the weights, "auto" being bfloat16 on a
    GPU and float32 on a CPU; the last layers are float32 always. batch_tokens: rows x longest of one batch;
    None: 2,048 on a CPU, 16,384 on a GPU. trust_remote_code: run the model's own Python files.
    Scores that are not finite are NaN. Raises BenchError where the model has another number of outputs than one, or
    no trained output layer.
    """
    address = find(model, revision, trust_remote_code=trust_remote_code)
    return score(prompts, completions, address, max_length=max_length, dtype=dtype, batch_tokens=batch_tokens)


def score(
    prompts: Prompts,
    completions: Completions,
    model: Classifier,
    *,
    max_length: int | None,
    dtype: str,
    batch_tokens: int | None,
) -> Rewards:
    """[M, N]: as `reward_model`, of a model by its address, which is loaded where the store lacks a score."""
    dtype = resolve_dtype(dtype)
    loaded = cache(lambda: RewardModel(model, max_length=max_length, dtype=dtype, batch_tokens=batch_tokens))

    def score_texts(rows: Sequence[int], texts: Sequence[str]) -> tuple[np.ndarray, dict[str, float]]:
        return loaded().score([prompts.messages[row] for row in rows], texts)

    return scored(
        prompts,
        completions,
        score_texts,
        stage=STAGE,
        version=VERSION,
        settings={"max_length": max_length, "dtype": dtype},
        parents={"reward_model": model.key},
        report=partial(report, max_length=max_length),
    )
