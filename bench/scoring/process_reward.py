"""Process reward models: every step of reasoning gets a probability of being correct, and a completion their summary.

python -m bench scoring=process_reward scoring.model=PATH_OR_HUB_ID scoring.aggregate=min
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np

from bench.artifacts import Completions, Prompts, Rewards
from bench.config.rules import DTYPE, TRUE_OR_FALSE, Count, Rule, one_of, or_null, text
from bench.devices import device, resolve_dtype
from bench.errors import BenchError
from bench.models.loading import refusing_code
from bench.progress import bar, say
from bench.scoring.reward_model import ENDLESS, HEADS, PADDING, TRUST, RewardModel, batches, find, in_float32
from bench.scoring.units import scored
from bench.store import current
from bench.training import steps

STAGE = "score_process_reward"
VERSION = 2  # raise it when equal settings give other scores or counts
AGGREGATE = ("last", "min", "product", "mean")
OUTCOMES = WITHOUT_STEPS, TOO_LONG, NOT_FINITE = ("without_steps", "too_long", "not_finite")


def _is_separator(value: Any) -> bool:
    try:
        return isinstance(value, str) and re.compile(value).match("") is None
    except re.error:
        return False


SEPARATOR = Rule(_is_separator, "a regular expression that matches what ends a step, and not nothing")
MARKER = text(r"(?s).+", "a text")
OUTPUT = Rule(
    lambda value: isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool) and value >= 0),
    "the number of an output, from 0, or its name in the model's configuration",
)


def process_reward(
    prompts: Prompts,
    completions: Completions,
    *,
    model: Annotated[str, text(r"[^\0\n]+", "a hub id or the path of a folder")],
    revision: Annotated[str, text(r"[^\0\s]+", "a branch, tag or commit of the hub")] = "main",
    correct: Annotated[int | str, OUTPUT] = 1,
    separator: Annotated[str, SEPARATOR],
    answer_marker: Annotated[str | None, or_null(MARKER)] = None,
    ending: Annotated[str | None, or_null(MARKER)] = None,
    aggregate: Annotated[str, one_of(*AGGREGATE)],
    dtype: Annotated[str, DTYPE] = "auto",
    batch_tokens: Count = 16_384,
    trust_remote_code: Annotated[bool, TRUE_OR_FALSE] = False,
) -> Rewards:
    """[M, N]: a summary of the probabilities that a token classifier gives a completion's steps of being correct.

    correct: which output says so, by number or by its name in id2label; a model with one output says it by a sigmoid.
    separator, answer_marker: where steps lie (training.steps). ending: what follows each step where the model reads
    it. The score is read at each step's last token.
    aggregate: the "last" step's (Snell et al. 2024, "Scaling LLM Test-Time Compute Optimally ..."), "min" (Wang et al.
    2023, "Math-Shepherd"), "product" (Lightman et al. 2023, "Let's Verify Step by Step") or "mean".
    trust_remote_code: run the model's own Python files.
    NaN, and counted: a completion without a step (there is nothing to judge, which is not a low score), one longer than
    the model can read (its last steps would be missing), one with a probability that is no number.
    """
    return score(
        prompts,
        completions,
        find(model, revision, trust_remote_code=trust_remote_code),
        correct=correct,
        separator=separator,
        answer_marker=answer_marker,
        ending=ending,
        aggregate=aggregate,
        dtype=dtype,
        batch_tokens=batch_tokens,
    )


def score(
    prompts: Prompts,
    completions: Completions,
    model: RewardModel,
    *,
    correct: int | str,
    separator: str,
    answer_marker: str | None,
    ending: str | None,
    aggregate: str,
    dtype: str,
    batch_tokens: int,
) -> Rewards:
    """[M, N]: as `process_reward`, of a model by its address; loaded where a score is missing in the store."""
    dtype = resolve_dtype(dtype)
    opened: list[StepScorer] = []

    def score_texts(rows: Sequence[int], texts: Sequence[str]) -> tuple[np.ndarray, dict[str, float]]:
        if not opened:
            opened.append(StepScorer(model, correct=correct, dtype=dtype, batch_tokens=batch_tokens))
        inputs = []
        for row, completion in zip(rows, texts, strict=True):
            found = steps.split(completion, separator=separator, answer_marker=answer_marker)
            inputs.append(steps.encode(opened[0].tokenizer, prompts.messages[row], found, ending=ending))
        probabilities, counts = opened[0].probabilities(inputs)
        return np.array([summary(values, aggregate) for values in probabilities], float), counts

    earlier = len(current().uses)
    rewards = scored(
        prompts,
        completions,
        score_texts,
        stage=STAGE,
        version=VERSION,
        settings={
            "correct": correct,
            "separator": separator,
            "answer_marker": answer_marker,
            "ending": ending,
            "aggregate": aggregate,
            "dtype": dtype,
        },
        parents={"process_reward_model": model.key},
    )
    _report([use.counts for use in current().uses[earlier:] if use.stage == STAGE])
    return rewards


def summary(probabilities: np.ndarray, aggregate: str) -> float:
    """One number of the steps' probabilities [S]; NaN for no step, or where one is NaN."""
    if len(probabilities) == 0 or np.isnan(probabilities).any():
        return math.nan
    if aggregate == "last":
        return float(probabilities[-1])
    reduce: dict[str, Callable[[np.ndarray], np.floating]] = {"min": np.min, "product": np.prod, "mean": np.mean}
    return float(reduce[aggregate](probabilities))


class StepScorer:
    """A loaded process reward model and its tokenizer."""

    def __init__(self, model: RewardModel, *, correct: int | str, dtype: str, batch_tokens: int) -> None:
        from transformers import AutoTokenizer

        self.model = load(model, dtype=dtype)
        with refusing_code(model.name, TRUST, trusted=model.trust_remote_code):
            self.tokenizer = AutoTokenizer.from_pretrained(model.name, **model.found)
        self.batch_tokens = batch_tokens
        config = self.model.config
        self.output = _output(correct, config.num_labels, config.id2label, model.name)
        limit = getattr(config.get_text_config(), "max_position_embeddings", None) or ENDLESS
        self.readable = min(limit, self.tokenizer.model_max_length)

    def probabilities(self, inputs: Sequence[tuple[list[int], list[int]]]) -> tuple[list[np.ndarray], dict[str, float]]:
        """The probability [S] of each step of D inputs (see `bench.training.steps.encode`), and what was counted.

        Without any for an input that has no step, or more tokens than the model can read.
        """
        import torch

        found: list[np.ndarray] = [np.empty(0)] * len(inputs)
        lengths = np.array([len(ids) for ids, _ in inputs], dtype=int)
        has_steps = np.array([bool(ends) for _, ends in inputs], dtype=bool)
        fits = lengths <= self.readable
        scorable = np.flatnonzero(has_steps & fits)
        with bar("score steps", total=len(scorable), unit="completions") as progress, torch.inference_mode():
            for batch in batches(lengths[scorable], self.batch_tokens, PADDING[self.model.device.type]):
                chosen = scorable[batch]
                for place, values in zip(chosen, self._forward([inputs[i] for i in chosen]), strict=True):
                    found[place] = values
                progress.advance(len(batch))
        tokens = int(lengths[scorable].sum())
        return found, {
            "scored_texts": len(inputs),
            "scored_steps": sum(map(len, found)),
            "scored_tokens": tokens,
            "parameters": self.model.num_parameters(),
            "flops": 2.0 * self.model.num_parameters() * tokens,
            WITHOUT_STEPS: int((~has_steps).sum()),
            TOO_LONG: int((has_steps & ~fits).sum()),
            NOT_FINITE: sum(bool(np.isnan(values).any()) for values in found),
        }

    def _forward(self, inputs: list[tuple[list[int], list[int]]]) -> list[np.ndarray]:
        """[S] float64 of each input. Padding is to the right and masked: no earlier token attends to it."""
        import torch

        width = max(len(ids) for ids, _ in inputs)
        tokens = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in inputs])
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in inputs])
        device = self.model.device
        logits = self.model(input_ids=tokens.to(device), attention_mask=mask.to(device)).logits.double()  # (B, T, L)
        correct = logits[..., 0].sigmoid() if logits.shape[-1] == 1 else logits.softmax(dim=-1)[..., self.output]
        values = correct.cpu().numpy()
        return [values[row, ends] for row, (_, ends) in enumerate(inputs)]


def load(model: RewardModel, *, dtype: str) -> Any:
    """The token classifier in evaluation mode, its last layer in float32, on a GPU where there is one."""
    import torch
    from transformers import AutoModelForTokenClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # a missing layer is refused below in our words
    try:
        with refusing_code(model.name, TRUST, trusted=model.trust_remote_code):
            loaded, info = AutoModelForTokenClassification.from_pretrained(
                model.name, dtype=getattr(torch, dtype), output_loading_info=True, **model.found
            )
    finally:
        logging.set_verbosity(verbosity)
    if info["missing_keys"]:
        raise BenchError(
            f"{model.name} is no process reward model (a token classifier): its files lack "
            f"{', '.join(sorted(info['missing_keys']))}, which would be random numbers."
        )
    for name in HEADS:
        if hasattr(loaded, name):
            in_float32(getattr(loaded, name))
    return loaded.to(device()).eval()


def _output(correct: int | str, outputs: int, names: dict[int, str], model: str) -> int:
    """The number of the output that says correct."""
    if outputs == 1:
        return 0
    known = {str(name): int(number) for number, name in names.items()} | {str(number): number for number in names}
    if str(correct) not in known:
        raise BenchError(
            f"scoring.correct={correct} is no output of {model}; it has {outputs}: "
            f"{', '.join(f'{number} ({name})' for number, name in names.items())}."
        )
    return int(known[str(correct)])


def _report(counts: Sequence[dict[str, float]]) -> None:
    """Say what a reader of the scores must know; the numbers are in the lineage too."""
    total = int(sum(count.get("scored_texts", 0) for count in counts))
    unscored = {name: int(sum(count.get(name, 0) for count in counts)) for name in OUTCOMES}
    words = ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in unscored.items() if number)
    if words:
        say(f"warning: of {total:,} completions the process reward model leaves some unscored: {words}")
