"""Process reward models: each step of reasoning gets a probability of being correct, each completion their summary.

python -m bench scoring=process_reward scoring.model=PATH_OR_HUB_ID scoring.aggregate=min
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Annotated

import numpy as np

from bench.artifacts import Completions, Prompts, Rewards
from bench.config.rules import DTYPE, TRUE_OR_FALSE, Rule, Tokens, one_of, or_null, regex, text, whole
from bench.devices import resolve_dtype
from bench.errors import BenchError
from bench.models.classifiers import Classifier, LoadedClassifier, find, find_configured
from bench.models.tokens import padded
from bench.progress import bar
from bench.scoring import Scorer
from bench.scoring.units import scored, warn_unscored
from bench.training.process_reward import encode, split

STAGE = "score_process_reward"
VERSION = 2  # raise it when equal settings give other scores or counts
AGGREGATE = ("last", "min", "product", "mean")
OUTCOMES = WITHOUT_STEPS, TOO_LONG, NOT_FINITE = ("without_steps", "too_long", "not_finite")
REPORT = "of {total:,} completions the process reward model leaves some unscored"

SEPARATOR = regex(
    "a regular expression that matches what ends a step, and not nothing", lambda pattern: pattern.match("") is None
)
MARKER = text(r"(?s).+", "a text")
OUTPUT = Rule(
    lambda value: isinstance(value, str) or whole(0, 100_000).allows(value),
    "the number of an output, from 0, or its name in the model's configuration",
)


@Scorer(highest=1.0, check=find_configured)
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
    batch_tokens: Tokens = 16_384,
    trust_remote_code: Annotated[bool, TRUE_OR_FALSE] = False,
) -> Rewards:
    """[M, N]: a summary of the probabilities of being correct that a token classifier gives a completion's steps.

    correct: the output that says "correct", by number or by its name in id2label; of a model with one output, the
    sigmoid is read. separator, answer_marker: where steps lie (see training.process_reward.split). ending: the text
    that follows each step where the model reads it. The probability is read at each step's last token.
    aggregate: the "last" step's (Snell et al. 2024, "Scaling LLM Test-Time Compute Optimally ..."), "min" (Wang et al.
    2023, "Math-Shepherd"), "product" (Lightman et al. 2023, "Let's Verify Step by Step") or "mean".
    trust_remote_code: run the model's own Python files.
    NaN, and counted: a completion without a step (nothing to judge is not a low score), one longer than the model can
    read (its last steps would be missing), one with a probability that is NaN.
    """
    address = find(model, revision, trust_remote_code=trust_remote_code)
    reading = StepReading(correct, separator, answer_marker, ending, aggregate, resolve_dtype(dtype))
    return score(prompts, completions, address, reading, batch_tokens=batch_tokens)


@dataclass(frozen=True)
class StepReading:
    """The settings by which a process reward model reads a completion; see `process_reward`."""

    correct: int | str
    separator: str
    answer_marker: str | None
    ending: str | None
    aggregate: str
    dtype: str  # a torch name


def score(
    prompts: Prompts, completions: Completions, model: Classifier, reading: StepReading, *, batch_tokens: int
) -> Rewards:
    """[M, N]: as `process_reward`, of a model by its address, which is loaded where the store lacks a score."""
    loaded = cache(lambda: StepScorer(model, correct=reading.correct, dtype=reading.dtype, batch_tokens=batch_tokens))

    def score_texts(rows: Sequence[int], texts: Sequence[str]) -> tuple[np.ndarray, dict[str, float]]:
        inputs = []
        for row, completion in zip(rows, texts, strict=True):
            steps = split(completion, separator=reading.separator, answer_marker=reading.answer_marker)
            inputs.append(encode(loaded().tokenizer, prompts.messages[row], steps, ending=reading.ending))
        probabilities, counts = loaded().probabilities(inputs)
        return np.array([summary(values, reading.aggregate) for values in probabilities], float), counts

    return scored(
        prompts,
        completions,
        score_texts,
        stage=STAGE,
        version=VERSION,
        settings=asdict(reading),
        parents={"process_reward_model": model.key},
        report=partial(warn_unscored, outcomes=OUTCOMES, of=("scored_texts",), words=REPORT),
    )


def summary(probabilities: np.ndarray, aggregate: str) -> float:
    """One number of the steps' probabilities [S]; NaN for no step, or where one is NaN."""
    if len(probabilities) == 0 or np.isnan(probabilities).any():
        return math.nan
    if aggregate == "last":
        return float(probabilities[-1])
    reduce: dict[str, Callable[[np.ndarray], np.floating]] = {"min": np.min, "product": np.prod, "mean": np.mean}
    return float(reduce[aggregate](probabilities))


class StepScorer(LoadedClassifier):
    """A loaded process reward model."""

    def __init__(self, address: Classifier, *, correct: int | str, dtype: str, batch_tokens: int) -> None:
        super().__init__(address, "process reward model", dtype=dtype)
        self.batch_tokens = batch_tokens
        config = self.model.config
        self.output = _output(correct, config.num_labels, config.id2label, address.name)

    def probabilities(self, inputs: Sequence[tuple[list[int], list[int]]]) -> tuple[list[np.ndarray], dict[str, float]]:
        """The probability [S] of each step of D inputs (see `bench.training.process_reward.encode`), and the counts.

        An input without steps, or with more tokens than the model can read, has no probabilities.
        """
        import torch

        found: list[np.ndarray] = [np.empty(0)] * len(inputs)
        lengths = np.array([len(ids) for ids, _ in inputs], dtype=int)
        has_steps = np.array([bool(ends) for _, ends in inputs], dtype=bool)
        fits = lengths <= self.readable
        scorable = np.flatnonzero(has_steps & fits)
        with bar("score steps", total=len(scorable), unit="completions") as progress, torch.inference_mode():
            batches = (scorable[batch] for batch in self.batches(lengths[scorable], self.batch_tokens))
            for chosen, scored in self.halving.each(lambda rows: self._forward([inputs[i] for i in rows]), batches):
                for place, values in zip(chosen, scored, strict=True):
                    found[place] = values
                progress.advance(len(chosen))
        tokens = int(lengths[scorable].sum())
        return found, {
            "scored_texts": len(inputs),
            "scored_steps": sum(map(len, found)),
            "scored_tokens": tokens,
            **self.compute_counts(tokens),
            WITHOUT_STEPS: int((~has_steps).sum()),
            TOO_LONG: int((has_steps & ~fits).sum()),
            NOT_FINITE: sum(bool(np.isnan(values).any()) for values in found),
        }

    def _forward(self, inputs: list[tuple[list[int], list[int]]]) -> list[np.ndarray]:
        """[S] float64 of each input."""
        batch = padded([{"input_ids": ids} for ids, _ in inputs], {}, self.model.device)
        logits = self.model(**batch).logits.double()  # (B, T, L)
        correct = logits[..., 0].sigmoid() if logits.shape[-1] == 1 else logits.softmax(dim=-1)[..., self.output]
        values = correct.cpu().numpy()
        return [values[row, ends] for row, (_, ends) in enumerate(inputs)]


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
