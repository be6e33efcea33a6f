"""What is recorded of a hybrid of demonstrations and samples: what was drawn, what was paid for, what prompts gave."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.estimators.compute import forward_flops
from bench.experiment import Results
from bench.hybrid import Drawn, Hybrid
from bench.models import loading
from bench.store import Use, unique
from bench.tasks import Task

SOURCES = ("demonstration", "samples", "fallback", "hinted", "nothing")


def hybrid_counts(hybrid: Hybrid, results: Results, task: Task, uses: Sequence[Use]) -> dict[str, float]:
    """Numbers under hybrid/. Samples and tokens are those paid for unless said otherwise.

    samples_total: of hard prompts, of hinted ones, and the probe's greedy ones, each once; samples_drawn: those that
    lie in the pools, with what early stopping would have left out. fallbacks: demonstrations that stood in for samples
    none of which was accepted; hard_unsolved, hinted_unsolved: prompts without an accepted one. prompts_from_...: by
    what they gave to the training. probe_train_tokens, probe_train_flops, probe_seconds: of all epochs and folds of the
    probe, by lineage. data_flops: what the training set took: the probe, reading the demonstrations, and the samples (a
    hinted prompt read as the prompt is). nll_...: nats a token, means over demonstrations.
    """
    right = np.array(task.are_correct(hybrid.demonstrations.text[:, 0].tolist(), results.train.answer.tolist()), bool)
    used = np.isin(hybrid.source, ("demonstration", "fallback"))
    prompts = len(results.train)
    several = [one for one in (hybrid.samples, hybrid.hinted) if one is not None]
    probes = [one.shape[0] for one in hybrid.greedy]
    total = sum(int(one.paid.sum()) for one in several) + sum(probes)
    tokens = sum(_tokens_paid(one) for one in several) + sum(float(one.length.sum()) for one in hybrid.greedy)
    trained = probe_uses(hybrid, uses)
    train_flops = _total("train_flops", trained)
    read = [use for use in unique(uses) if use.stage == "teacher_forced"] if hybrid.judged_by_nll else []
    base = results.policies["base"]
    sampled = [use for use in unique(uses) if f"{use.key}/{use.part}" in stored(hybrid)]
    sampling = forward_flops(loading.count_parameters(base), tokens + _total("prompt_tokens", sampled))
    counts = {
        "easy": int(hybrid.easy.sum()),
        "easy_share": float(hybrid.easy.mean()),
        "samples_total": total,
        "samples_per_prompt": total / prompts,
        "samples_drawn": sum(one.pool.logprob.size for one in several) + sum(probes),
        "probe_samples": sum(probes),
        "generated_tokens": tokens,
        "demonstrations_used": int(used.sum()),
        "demonstrations_right": float(right.mean()),
        "demonstrations_too_long": int((hybrid.demonstrations.length > task.max_new_tokens).sum()),
        "fallbacks": int((hybrid.source == "fallback").sum()),
        "probe_train_tokens": _total("train_tokens", trained),
        "probe_train_flops": train_flops,
        "probe_seconds": round(sum(use.seconds for use in trained), 3),
        "data_flops": train_flops + _total("flops", read) + sampling,
        "nll_initial": float(hybrid.nll[0].mean()),
    }
    if used.any():
        counts["demonstrations_used_right"] = float(right[used].mean())
    for name, one in (("hard", hybrid.samples), ("hinted", hybrid.hinted)):
        if one is not None:
            counts[f"{name}_accepted"] = float(one.accepted.mean())  # prompts with an accepted sample
            counts[f"{name}_unsolved"] = int((~one.accepted).sum())
    if hybrid.probe is not None:
        counts["nll_final"] = float(hybrid.nll[-1].mean())
        for side, chosen in (("easy", hybrid.easy), ("hard", ~hybrid.easy)):
            if chosen.any():
                counts[f"nll_final_{side}"] = float(hybrid.nll[-1][chosen].mean())
    counts |= {f"prompts_from_{source}": int((hybrid.source == source).sum()) for source in SOURCES}
    return {f"hybrid/{name}": value for name, value in counts.items()}


def hybrid_rows(hybrid: Hybrid, results: Results) -> dict[str, Any]:
    """Columns with a row a training prompt, for hybrid.parquet: nll_0 is under the base, nll_1 after the probe's first
    epoch, ...; fold: of which probe; accepted: None where nothing was drawn."""
    prompts = len(results.train)
    columns: dict[str, Any] = {
        "prompt_id": results.train.id.astype(object),
        "easy": hybrid.easy,
        "source": hybrid.source.astype(object),
        **{f"nll_{epoch}": values for epoch, values in enumerate(hybrid.nll)},
        "fold": hybrid.probe.fold if hybrid.probe is not None else np.zeros(prompts, int),
        "probe_solved": hybrid.solved if hybrid.solved is not None else np.full(prompts, np.nan),
    }
    for name, one in (("samples", hybrid.samples), ("hinted", hybrid.hinted)):
        paid, accepted = np.zeros(prompts, int), np.full(prompts, None, object)
        if one is not None:
            paid[one.rows], accepted[one.rows] = one.paid, one.accepted
        columns |= {f"{name}_paid": paid, f"{name}_accepted": accepted}
    return columns


def probe_uses(hybrid: Hybrid, uses: Sequence[Use]) -> list[Use]:
    """The trainings of the probe's epochs and folds, each once."""
    places = {one.path.parts[-2:] for one in hybrid.probe.trained} if hybrid.probe is not None else set()
    return [use for use in unique(uses) if (use.stage, use.key) in places]


def stored(hybrid: Hybrid) -> frozenset[str]:
    """The stored units of all samples drawn for the training set."""
    pools = [one.pool for one in (hybrid.samples, hybrid.hinted) if one is not None]
    return frozenset().union(*(pool.stored_as for pool in (*pools, *hybrid.greedy)))


def _tokens_paid(drawn: Drawn) -> float:
    return float(drawn.pool.length[np.arange(drawn.pool.shape[1]) < drawn.paid[:, None]].sum())


def _total(name: str, uses: Sequence[Use]) -> float:
    return float(sum(use.counts.get(name, 0) for use in uses))
