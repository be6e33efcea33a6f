"""The learnability gate: the probe, which demonstrations are easy, and the samples that other prompts cost."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from bench.artifacts import FIELDS, Completions, Policy, content_hash
from bench.config.rules import one_of
from bench.errors import BenchError
from bench.procedures.parts import Parts
from bench.scoring import refuse_comparing, refuse_too_low
from bench.seeds import generator, small_seed
from bench.selection.cells import CORRECT, cells
from bench.tasks import Hints

GATES = ("final_nll", "nll_drop", "initial_nll", "probe_solves", "random")
EasyBy = Annotated[str, one_of(*GATES)]
READS = ("final_nll", "nll_drop", "initial_nll")
NEEDS_PROBE = ("final_nll", "nll_drop", "probe_solves")


@dataclass(frozen=True)
class Probe:
    """The base after some epochs on the demonstrations. With folds, no policy judges what it was trained on."""

    fold: np.ndarray  # [M] the index of the policy that judges each prompt, and samples it where the probe samples
    policies: tuple[Policy, ...]  # one per fold, after the last epoch
    trained: tuple[Policy, ...]  # the policies of every epoch of every fold
    nll: np.ndarray  # [E + 1, M] nats per token of the demonstrations: under the base, then after each epoch


def probed(parts: Parts, written: Completions, *, epochs: int, folds: int | None) -> Probe:
    """Train the base on the demonstrations [M, 1] for `epochs`, and measure their NLL before and after each epoch.

    folds: None trains one probe on all; K trains K probes, each on the demonstrations of the other folds.
    """
    base, train, seed, prompts = parts.base, parts.train, parts.seed, len(parts.train)
    if folds is not None and folds > prompts:
        raise BenchError(f"procedure.folds={folds} is not allowed: there are {prompts} training prompts to share out.")
    fold = np.zeros(prompts, int) if folds is None else folds_of(prompts, folds, generator(seed, "folds"))
    nll = np.empty((epochs + 1, prompts))
    nll[0] = parts.nll(base, train, written)
    last, trained = [], []
    length: dict[str, Any] = {"epochs": 1, "updates": None}
    if parts.training_settings.get("keep_every") is not None:
        length["keep_every"] = None  # no policy on the way of a probe is judged
    for number in range(folds or 1):
        seen = cells((fold != number)[:, None] if folds is not None else np.ones((prompts, 1), bool))
        judged = np.flatnonzero(fold == number)
        policy, own = base, _rows(written, judged)
        for epoch in range(1, epochs + 1):
            stream = small_seed(seed, "probe", number, epoch)
            policy = parts.fine_tune("probe", policy, written, seen, **length, seed=stream)
            nll[epoch, judged] = parts.nll(policy, train.take(judged), own)
            trained.append(policy)
        last.append(policy)
    return Probe(fold, tuple(last), tuple(trained), nll)


def by_fold(probe: Probe, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Policy]]:
    """For each of the probe's policies that has prompts among `rows`: their positions in `rows`, and the policy."""
    for number, policy in enumerate(probe.policies):
        at = np.flatnonzero(probe.fold[rows] == number)
        if len(at):
            yield at, policy


def _rows(pool: Completions, rows: np.ndarray) -> Completions:
    """The completions of some prompts, of a pool in memory."""
    return Completions(**{name: getattr(pool, name)[rows] for name in FIELDS}, key=content_hash(pool.key, rows))


def easiness(easy_by: str, nll: np.ndarray, solved: np.ndarray | None) -> np.ndarray:
    """The easiness of each prompt [M]; higher is easier.

    nll: [E + 1, M] nats per token of each demonstration: under the base, then after each of the probe's E epochs.
    solved: [M] 0/1, whether the scorer accepts the probe's greedy sample; "probe_solves" alone needs it.
    "final_nll" and "initial_nll": minus the NLL under the probe and under the base; "nll_drop": the mean decrease of
    the NLL per epoch; "random": the same for all.
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

    With equal rng, the prompts at a smaller share are among those at a larger one. ValueError where a score is NaN.
    """
    score = np.asarray(score, float)
    if np.isnan(score).any():
        raise ValueError(f"score is NaN for {int(np.isnan(score).sum())} of {len(score)} prompts; all must be known.")
    order = np.lexsort((rng.random(len(score)), score if inverted else -score))
    easy = np.zeros(len(score), bool)
    easy[order[: int(np.floor(share * len(score) + 0.5))]] = True
    return easy


def samples_paid(accepted: np.ndarray, *, stop_at_first_accept: bool) -> np.ndarray:
    """The number of samples per prompt that count as cost [H]: all N, or those up to the first accepted one.

    accepted: [H, N] bool, in the order of drawing. A prompt without an accepted sample costs all N.
    """
    accepted = np.asarray(accepted, bool)
    rows, samples = accepted.shape
    if not stop_at_first_accept:
        return np.full(rows, samples)
    return np.where(accepted.any(axis=1), accepted.argmax(axis=1) + 1, samples)


def folds_of(prompts: int, folds: int, rng: np.random.Generator) -> np.ndarray:
    """[M] the fold of each prompt, 0 to folds - 1, at random; sizes differ by at most 1."""
    fold = np.arange(prompts) % folds
    rng.shuffle(fold)
    return fold


def refuse_unfit_parts(parts: Parts, *, fallback: str, solves: bool, sampled: bool, stops: bool) -> None:
    """BenchError, before any work, for parts that do not fit together.

    solves: whether the gate needs greedy samples; sampled: whether hard prompts are sampled; stops: whether sampling
    stops at the first accepted sample.
    """
    if solves:
        refuse_comparing(parts.scoring, "procedure.easy_by=probe_solves can't judge one sample of a prompt by")
    if stops:
        refuse_comparing(parts.scoring, "procedure.stop_at_first_accept=true can't stop by")
    if solves or sampled:
        refuse_too_low(parts.scoring, CORRECT, "procedure=hybrid")
    if fallback != "drop" and np.isnan(parts.prompt_filter(np.zeros((1, 2)))).all():
        raise BenchError(
            f"procedure.fallback={fallback} is not allowed with this prompt_filter, which leaves out prompts without "
            "an accepted sample, those that a fallback is for: use prompt_filter=all or procedure.fallback=drop."
        )
    if fallback == "rationalise" and not isinstance(parts.task, Hints):
        raise BenchError(f"procedure.fallback=rationalise is not allowed: task={parts.task.name} can't word a hint.")
