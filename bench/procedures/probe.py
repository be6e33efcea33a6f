"""The probe of a learnability gate: the base after a little fine-tuning on demonstrations, and what it finds likely."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.artifacts import Completions, Policy, Selection, content_hash
from bench.errors import BenchError
from bench.procedures.difficulty import folds_of
from bench.procedures.parts import Parts
from bench.seeds import generator, small_seed


@dataclass(frozen=True)
class Probe:
    """What was learned of each demonstration, by policies of which with several folds none has seen it."""

    fold: np.ndarray  # [M] which of the policies judges and, where it is asked to, samples the prompt
    policies: tuple[Policy, ...]  # one a fold, after the last epoch
    trained: tuple[Policy, ...]  # those of every epoch of every fold
    nll: np.ndarray  # [E + 1, M] nats a token of the demonstrations: under the base, then after each epoch


def probed(parts: Parts, written: Completions, *, epochs: int, folds: int | None) -> Probe:
    """The base after each of `epochs` on the demonstrations [M, 1], and their NLL before and after each.

    folds: None: one probe, trained on all; K: K probes, each trained on the other folds' demonstrations.
    """
    base, train, seed, prompts = parts.base, parts.train, parts.seed, len(parts.train)
    if folds is not None and folds > prompts:
        raise BenchError(f"procedure.folds={folds} is not allowed: there are {prompts} training prompts to share out.")
    fold = np.zeros(prompts, int) if folds is None else folds_of(prompts, folds, generator(seed, "folds"))
    nll = np.empty((epochs + 1, prompts))
    nll[0] = parts.nll(base, train, written)
    last, trained = [], []
    for number in range(folds or 1):
        seen = np.arange(prompts) if folds is None else np.flatnonzero(fold != number)
        judged = np.flatnonzero(fold == number)
        cells = Selection(seen, np.zeros(len(seen), int), np.ones(len(seen)))
        policy, own = base, _rows(written, judged)
        for epoch in range(1, epochs + 1):
            stream = small_seed(seed, "probe", number, epoch)
            policy = parts.training(policy, train, written, cells, epochs=1, seed=stream)
            nll[epoch, judged] = parts.nll(policy, train.take(judged), own)
            trained.append(policy)
        last.append(policy)
    return Probe(fold, tuple(last), tuple(trained), nll)


def by_fold(probe: Probe, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Policy]]:
    """Positions among `rows` of the prompts that each of the probe's policies has to draw, where there are any."""
    for number, policy in enumerate(probe.policies):
        at = np.flatnonzero(probe.fold[rows] == number)
        if len(at):
            yield at, policy


def _rows(pool: Completions, rows: np.ndarray) -> Completions:
    """Some prompts' completions, of a pool in memory."""
    names = ("text", "token_ids", "finish_reason", "logprob", "policy_logprob")
    text, token_ids, finish_reason, logprob, policy_logprob = (getattr(pool, name)[rows] for name in names)
    return Completions(text, token_ids, finish_reason, logprob, policy_logprob, key=content_hash(pool.key, rows))
