"""The learnability gate: which demonstrations a policy finds easy, and what drawing for the other prompts costs."""

from collections.abc import Callable
from typing import Annotated

import numpy as np

from bench.artifacts import Rewards
from bench.config.rules import one_of
from bench.errors import BenchError
from bench.scoring import refuse_comparing, refuse_too_low
from bench.selection.cells import CORRECT
from bench.tasks import Demonstrates, Hints, Task

GATES = ("final_nll", "nll_drop", "initial_nll", "probe_solves", "random")
EasyBy = Annotated[str, one_of(*GATES)]
READS = ("final_nll", "nll_drop", "initial_nll")
NEEDS_PROBE = ("final_nll", "nll_drop", "probe_solves")


def easiness(easy_by: str, nll: np.ndarray, solved: np.ndarray | None) -> np.ndarray:
    """[M], higher is easier.

    nll: [E + 1, M] nats a token of each demonstration: under the base, then after each of the probe's E epochs.
    solved: [M] 0/1, whether the probe's greedy sample passes the scorer; asked for by "probe_solves" alone.
    "final_nll" and "initial_nll": minus the NLL under the probe and under the base; "nll_drop": what an epoch takes off
    it on average; "random": the same for all.
    """
    if easy_by == "random":
        return np.zeros(nll.shape[1])
    if easy_by == "initial_nll":
        return -nll[0]
    if easy_by == "probe_solves":
        if solved is None:
            raise ValueError("probe_solves needs solved [M]: whether the probe's greedy sample passes.")
        return np.asarray(solved, float)
    if len(nll) < 2:
        raise ValueError(f"{easy_by} needs the NLL under a probe: nll [E + 1, M] of at least one epoch.")
    return -nll[-1] if easy_by == "final_nll" else (nll[0] - nll[-1]) / (len(nll) - 1)


def easiest(score: np.ndarray, share: float, rng: np.random.Generator, *, inverted: bool = False) -> np.ndarray:
    """[M] bool: the round(share · M) prompts of the highest score (inverted: the lowest), ties broken at random.

    With one rng the prompts at a smaller share are among those at a larger. ValueError where a score is NaN.
    """
    score = np.asarray(score, float)
    if np.isnan(score).any():
        raise ValueError(f"score is NaN for {int(np.isnan(score).sum())} of {len(score)} prompts; all must be known.")
    order = np.lexsort((rng.random(len(score)), score if inverted else -score))
    easy = np.zeros(len(score), bool)
    easy[order[: int(np.floor(share * len(score) + 0.5))]] = True
    return easy


def samples_paid(accepted: np.ndarray, *, stop_at_first_accept: bool) -> np.ndarray:
    """[H] how many of a prompt's N samples are drawn: all, or those up to and including the first accepted.

    accepted: [H, N] bool, in the order of drawing; a prompt without an accepted one costs all N.
    """
    accepted = np.asarray(accepted, bool)
    rows, samples = accepted.shape
    if not stop_at_first_accept:
        return np.full(rows, samples)
    return np.where(accepted.any(axis=1), accepted.argmax(axis=1) + 1, samples)


def folds_of(prompts: int, folds: int, rng: np.random.Generator) -> np.ndarray:
    """[M] the fold of each prompt, 0 to folds - 1, at random and as equal in size as can be."""
    fold = np.arange(prompts) % folds
    rng.shuffle(fold)
    return fold


def refuse_unfit_parts(
    task: Task,
    scoring: Callable[..., Rewards],
    prompt_filter: Callable[[np.ndarray], np.ndarray],
    *,
    fallback: str,
    solves: bool,
    sampled: bool,
    stops: bool,
) -> None:
    """BenchError, before any work, for parts that do not go together.

    solves: whether the gate asks which greedy samples pass; sampled: whether hard prompts are drawn for, and stops:
    whether the first accepted ends that.
    """
    if solves:
        refuse_comparing(scoring, "procedure.easy_by=probe_solves can't judge one sample of a prompt by")
    if stops:
        refuse_comparing(scoring, "procedure.stop_at_first_accept=true can't stop by")
    if solves or sampled:
        refuse_too_low(scoring, CORRECT, "procedure=hybrid")
    if fallback != "drop" and np.isnan(prompt_filter(np.zeros((1, 2)))).all():
        raise BenchError(
            f"procedure.fallback={fallback} is not allowed with this prompt_filter, which leaves out prompts without "
            "an accepted sample, those that a fallback is for: use prompt_filter=all or procedure.fallback=drop."
        )
    if not isinstance(task, Demonstrates):
        raise BenchError(f"task={task.name} has no demonstrations, which procedure=hybrid trains on.")
    if fallback == "rationalise" and not isinstance(task, Hints):
        raise BenchError(f"procedure.fallback=rationalise is not allowed: task={task.name} can't word a hint.")
