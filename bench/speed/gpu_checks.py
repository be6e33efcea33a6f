"""Numbers of this device beside those of plain code on a CPU in float32, each within a tolerance that is stated."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.artifacts import Completions, Policy, Prompts
from bench.devices import resolve_dtype
from bench.errors import BenchError, first_line, quoted
from bench.models import chat, loading
from bench.models.classifiers import find
from bench.models.logprobs import divergence_samples, sequence_logprobs
from bench.models.reward_models import RewardModel
from bench.selection.cells import cells
from bench.speed.generation import SamplingWork, draw, open_engine
from bench.speed.random_llama import random_policy, random_reward_model
from bench.store import Store, using
from bench.tasks.word_problems import WordProblems
from bench.training.sft import fine_tune
from bench.training.trainers import training_log

TEMPERATURE = 0.7  # of the sampler whose KL to its own policy is measured
UPDATES = 8


@dataclass
class Case:
    """A small random policy, 64 of its completions, and their log-probabilities in float32 on a CPU."""

    folder: Path
    dtype: str  # of the device's computations

    @cached_property
    def policy(self) -> Policy:
        return random_policy(self.folder / "policy", 2, 128, 500)

    @cached_property
    def prompts(self) -> Prompts:
        return WordProblems().prompts("train")[:16]

    @cached_property
    def pool(self) -> Completions:
        return self.drawn(self.dtype)

    @cached_property
    def model(self) -> Any:
        return loading.load_model(self.policy)

    def drawn(self, dtype: str, **changed: Any) -> Completions:
        """Completions [M, N] of the engine on this device."""
        work = SamplingWork(self.prompts, samples=4, max_new_tokens=24)._replace(**changed)
        return draw(open_engine(self.policy, dtype), work, 0)

    @cached_property
    def reference(self) -> list[Any]:
        """Of each cell the log-probabilities [T, V] at its steps, read alone."""
        return [self.steps(cell // 4, ids) for cell, ids in enumerate(self.pool.token_ids.flat)]

    def steps(self, row: int, ids: np.ndarray) -> Any:
        import torch

        prompt = chat.encode(loading.load_tokenizer(self.policy), self.prompts.messages[row])
        with torch.inference_mode():
            logits = self.model(torch.tensor([[*prompt, *ids.tolist()]])).logits[0, len(prompt) - 1 : -1]
            return logits.double().log_softmax(dim=-1)

    @cached_property
    def logprobs(self) -> np.ndarray:
        """[M, N] nats per sequence."""
        pairs = zip(self.reference, self.pool.token_ids.flat, strict=True)
        return np.array([steps[range(len(ids)), ids].sum().item() for steps, ids in pairs]).reshape(16, 4)

    def losses(self, *, packing: bool = False) -> np.ndarray:
        """The loss of each update, where every update reads all 64 completions."""
        chosen = cells(np.ones(self.pool.shape, bool))
        recipe: dict[str, Any] = {"epochs": None, "updates": UPDATES, "batch_size": 64, "learning_rate": 1e-4}
        with using(Store(self.folder / f"packing_{packing}")):  # packing is no part of an artifact's key
            made = fine_tune(self.policy, self.prompts, self.pool, chosen, **recipe, packing=packing, seed=0)
        return np.array([update["loss"] for update in training_log(made)])


def _greedy(case: Case) -> float:
    ours = list(case.drawn("float32", samples=1, temperature=0.0).token_ids.flat)
    likeliest = [case.steps(row, ids).argmax(dim=-1).numpy() for row, ids in enumerate(ours)]
    return _differing(ours, likeliest)


def _differing(left: Iterable[np.ndarray], right: Iterable[np.ndarray]) -> float:
    return float(np.mean([not np.array_equal(a, b) for a, b in zip(left, right, strict=True)]))


def _repeated(case: Case) -> float:
    return _differing(case.pool.token_ids.flat, case.drawn(case.dtype).token_ids.flat)


def _distribution(case: Case) -> float:
    """Distance in total variation of first tokens from the policy, in units of what as many exact draws would give."""
    count = 2048
    drawn = case.drawn(case.dtype, prompts=case.prompts[:1], samples=count, max_new_tokens=1)
    ids = np.concatenate(list(drawn.token_ids.flat))
    exact = case.steps(0, np.array([0])).exp().numpy()[0]
    expected = np.sqrt(2 * exact * (1 - exact) / (np.pi * count)).sum() / 2  # mean of the normal approximation
    return float(np.abs(np.bincount(ids, minlength=len(exact)) / count - exact).sum() / 2 / expected)


def _drawn_logprobs(case: Case) -> float:
    return float(np.abs(case.pool.policy_logprob - case.logprobs).sum() / case.pool.length.sum())


def _read_logprobs(dtype: str, case: Case) -> float:
    ours = sequence_logprobs(case.policy, case.prompts, case.pool, dtype=dtype or case.dtype)
    return float(np.abs(ours - case.logprobs).sum() / case.pool.length.sum())


def _kl(dtype: str, case: Case) -> float:
    read = (case.policy, case.policy, case.prompts, case.pool)
    drawn = divergence_samples(*read, temperature=TEMPERATURE, top_p=1.0, dtype=dtype or case.dtype)
    tempered = [(steps / TEMPERATURE).log_softmax(dim=-1) for steps in case.reference]
    exact = [(ours.exp() * (ours - raw)).sum().item() for ours, raw in zip(tempered, case.reference, strict=True)]
    return float(abs(drawn.rao_blackwell.mean() / np.mean(exact) - 1))


def _scores(case: Case) -> float:
    import torch

    messages = [case.prompts.messages[cell // 4] for cell in range(64)]
    texts = list(case.pool.text.flat)
    random_reward_model(case.folder / "reward", messages, texts, hidden=64, layers=2, longest=256)
    place = find(str(case.folder / "reward"))
    scorer = RewardModel(place, max_length=None, dtype=case.dtype, batch_tokens=None)
    ours = scorer.score(messages, texts)[0]
    rows = chat.encode_conversations(scorer.tokenizer, messages, texts)
    plain = scorer.model.to("cpu", torch.float32)
    with torch.inference_mode():
        exact = np.array([plain(torch.tensor([row["input_ids"]])).logits.item() for row in rows])
    return float(np.abs(ours - exact).max() / exact.std())


def _first_loss(case: Case) -> float:
    return float(abs(case.losses()[0] * case.pool.length.sum() / -case.logprobs.sum() - 1))


def _packed_losses(case: Case) -> float:
    return float(np.abs(case.losses(packing=True) / case.losses() - 1).max())


def _learns(case: Case) -> float:
    losses = case.losses()
    return float(losses[-1] / losses[0])


class Check(NamedTuple):
    measure: Callable[[Case], float]
    allowed: float
    unit: str


NATS = "nats per token, mean"
CHECKS = {
    "greedy tokens are the most probable ones, float32": Check(_greedy, 0.05, "share of rows that differ"),
    "the same seed draws the same tokens": Check(_repeated, 0.0, "share of rows that differ"),
    "draws follow the policy": Check(_distribution, 1.5, "x the distance of as many exact draws"),
    "log-probabilities of draws": Check(_drawn_logprobs, 0.02, NATS),
    "log-probabilities read, float32": Check(partial(_read_logprobs, "float32"), 1e-3, NATS),
    "log-probabilities read": Check(partial(_read_logprobs, ""), 0.02, NATS),
    "KL, float32": Check(partial(_kl, "float32"), 1e-3, "relative"),
    "KL": Check(partial(_kl, ""), 0.01, "relative"),
    "scores of a reward model": Check(_scores, 0.15, "standard deviations, largest"),
    "loss of the first update": Check(_first_loss, 0.01, "relative"),
    "losses with packing": Check(_packed_losses, 0.02, "relative to those without, largest"),
    f"loss of update {UPDATES} on the same examples": Check(_learns, 0.9, "x that of the first"),
}


def rows(folder: Path, deadline: float = math.inf) -> Iterator[dict[str, Any]]:
    """A row per check; BenchError at the end names those whose difference is above what is allowed.

    deadline: of time.monotonic(); no check begins after it.
    """
    case, missed = Case(folder, resolve_dtype()), []
    with using(Store(folder / "store")):
        for name, check in CHECKS.items():
            if time.monotonic() > deadline:
                break
            try:
                difference, reason = check.measure(case), ""
            except Exception as error:
                difference, reason = float("nan"), f"{type(error).__name__}: {quoted(first_line(error))}"
            met = difference <= check.allowed
            missed += [] if met else [name]
            verdict = "met" if met else reason or "MISSED"
            row = {"check": name, "difference": difference, "allowed": check.allowed, "unit": check.unit}
            yield row | {"verdict": verdict}
    if missed:
        raise BenchError(f"{len(missed)} of {len(CHECKS)} checks are not met: {'; '.join(missed)}.")
