"""The findings of a hybrid run: the samples that were drawn and paid for, and the source of each training example."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.artifacts import Completions, Policy
from bench.estimators.compute import forward_flops
from bench.models import loading
from bench.procedures.difficulty import Probe
from bench.procedures.findings import ArtifactGraph, Columns, Findings, Results, TrainingCost, mean_lengths, total
from bench.store import Use, unique
from bench.tasks import Task

SOURCES = ("demonstration", "samples", "fallback", "hinted", "nothing")


@dataclass(frozen=True)
class Drawn:
    """Samples of some prompts. With early stopping, those after the first accepted one are unpaid and unused."""

    rows: np.ndarray  # [H] indices of the prompts
    pool: Completions  # [H, N]
    rewards: np.ndarray  # [H, N], those of unpaid samples too
    paid: np.ndarray  # [H] samples per prompt that are paid for
    seen: np.ndarray  # [H, N] rewards, NaN where a sample is not paid for
    accepted: np.ndarray  # [H] bool, whether a paid sample is accepted
    hinted: bool  # whether the prompts contained the answer as a hint


@dataclass(frozen=True)
class Gate:
    """The easy ones of M prompts, and the evidence."""

    probe: Probe | None
    nll: np.ndarray  # [E + 1, M] nats per token of the demonstrations; E = 0 without a probe
    solved: np.ndarray | None  # [M] 0/1: whether the probe's greedy sample is accepted; None: not needed
    greedy: tuple[Completions, ...]  # the greedy samples
    easy: np.ndarray  # [M] bool
    judged_by_nll: bool  # whether the gate used nll; else reading the demonstrations is no cost


@dataclass(frozen=True)
class Hybrid(Gate, Findings):
    """The origin of the training set, prompt by prompt."""

    demonstrations: Completions  # [M, 1]
    source: np.ndarray  # [M] a prompt's training examples: demonstration, samples, fallback, hinted or nothing
    samples: Drawn | None  # of the hard prompts
    hinted: Drawn | None  # of unsolved prompts, with the answer as a hint
    columns: tuple[str, ...]  # the origin of each column of the training pool
    samplers: tuple[Policy, ...]  # the policies that drew samples

    @property
    def each_drawn(self) -> list[Drawn]:
        """The samples of the hard prompts, and those with a hint, where there are any."""
        return [drawn for drawn in (self.samples, self.hinted) if drawn is not None]

    @property
    def prompts_sampled(self) -> int:
        """The number of sampled prompts; a prompt that is tried again with a hint counts twice."""
        return sum(len(drawn.rows) for drawn in self.each_drawn)

    @property
    def samples_per_prompt(self) -> float:
        """The mean number of paid samples per sampled prompt."""
        paid = [drawn.paid for drawn in self.each_drawn]
        return float(np.concatenate(paid).mean()) if paid else 0.0

    def metrics(self, results: Results, task: Task, uses: Sequence[Use], *, seed: int) -> dict[str, float | str]:
        """The metrics under hybrid/. Samples and tokens are those paid for, except in samples_drawn.

        samples_total: samples of hard prompts, of hinted prompts, and greedy samples of the probe. samples_drawn: all
        samples in the pools, also those after an early stop. fallbacks: demonstrations used because no sample was
        accepted. hard_unsolved, hinted_unsolved: prompts without an accepted sample. prompts_from_...: prompts by the
        source of their training examples. probe_train_tokens, probe_train_flops, probe_seconds: of all epochs and folds
        of the probe, by lineage. data_flops: the cost of the training set: the probe, reading the demonstrations, and
        the samples (a hinted prompt counts without its hint). nll_...: nats per token, means over demonstrations.
        """
        right = np.array(task.are_correct(self.demonstrations.text[:, 0].tolist(), results.train.answer.tolist()), bool)
        used = np.isin(self.source, ("demonstration", "fallback"))
        prompts = len(results.train)
        probes = sum(pool.shape[0] for pool in self.greedy)
        samples = sum(int(drawn.paid.sum()) for drawn in self.each_drawn) + probes
        tokens = sum(float(pool.length.sum()) for pool in self.greedy)
        for drawn in self.each_drawn:
            tokens += float(drawn.pool.length[np.arange(drawn.pool.shape[1]) < drawn.paid[:, None]].sum())
        trained = self.probe_uses(uses)
        train_flops = total("train_flops", trained)
        read = [use for use in unique(uses) if use.stage == "teacher_forced"] if self.judged_by_nll else []
        base = results.policies["base"]
        pools = [*(drawn.pool for drawn in self.each_drawn), *self.greedy]  # drawn for the training set
        units = frozenset().union(*(pool.stored_as for pool in pools))
        sampled = [use for use in unique(uses) if use.unit in units]
        sampling = forward_flops(loading.count_parameters(base), tokens + total("prompt_tokens", sampled))
        counts = {
            "easy": int(self.easy.sum()),
            "easy_share": float(self.easy.mean()),
            "samples_total": samples,
            "samples_per_prompt": samples / prompts,
            "samples_drawn": sum(drawn.pool.logprob.size for drawn in self.each_drawn) + probes,
            "probe_samples": probes,
            "generated_tokens": tokens,
            "demonstrations_used": int(used.sum()),
            "demonstrations_right": float(right.mean()),
            "demonstrations_too_long": int((self.demonstrations.length > task.max_new_tokens).sum()),
            "fallbacks": int((self.source == "fallback").sum()),
            "probe_train_tokens": total("train_tokens", trained),
            "probe_train_flops": train_flops,
            "probe_seconds": round(sum(use.seconds for use in trained), 3),
            "data_flops": train_flops + total("flops", read) + sampling,
            "nll_initial": float(self.nll[0].mean()),
        }
        if used.any():
            counts["demonstrations_used_right"] = float(right[used].mean())
        for name, some in (("hard", self.samples), ("hinted", self.hinted)):
            if some is not None:
                counts[f"{name}_accepted"] = float(some.accepted.mean())  # the share of solved prompts
                counts[f"{name}_unsolved"] = int((~some.accepted).sum())
        if self.probe is not None:
            counts["nll_final"] = float(self.nll[-1].mean())
            for side, chosen in (("easy", self.easy), ("hard", ~self.easy)):
                if chosen.any():
                    counts[f"nll_final_{side}"] = float(self.nll[-1][chosen].mean())
        counts |= {f"prompts_from_{source}": int((self.source == source).sum()) for source in SOURCES}
        return {f"hybrid/{name}": value for name, value in counts.items()}

    def tables(self, results: Results) -> dict[str, Columns]:
        """hybrid.parquet, with one row per training prompt.

        nll_0: nats per token under the base; nll_1: after the probe's first epoch, and so on. fold: the index of the
        probe that judged the prompt. accepted: None where no sample was drawn.
        """
        prompts = len(results.train)
        columns: dict[str, Any] = {
            "prompt_id": results.train.id.astype(object),
            "easy": self.easy,
            "source": self.source.astype(object),
            **{f"nll_{epoch}": values for epoch, values in enumerate(self.nll)},
            "fold": self.probe.fold if self.probe is not None else np.zeros(prompts, int),
            "probe_solved": self.solved if self.solved is not None else np.full(prompts, np.nan),
        }
        for name, drawn in (("samples", self.samples), ("hinted", self.hinted)):
            paid, accepted = np.zeros(prompts, int), np.full(prompts, None, object)
            if drawn is not None:
                paid[drawn.rows], accepted[drawn.rows] = drawn.paid, drawn.accepted
            columns |= {f"{name}_paid": paid, f"{name}_accepted": accepted}
        return {"hybrid.parquet": columns}

    def drawn(self, results: Results) -> tuple[Completions, np.ndarray]:
        samples = self.samples
        return super().drawn(results) if samples is None else (samples.pool, samples.rewards)

    def drawn_by(self, results: Results) -> list[str]:
        return list(self.columns)

    def cost(self, results: Results, uses: Sequence[Use]) -> TrainingCost:
        """The cost, the gate's work included. Lengths are of the held-out pool, since training may draw nothing."""
        read = [use for use in uses if use.stage == "teacher_forced" and self.judged_by_nll]
        return TrainingCost(
            *mean_lengths(results.best_of_n.completions, len(results.test), uses),
            samples_per_prompt=self.samples_per_prompt,
            prompts_sampled=self.prompts_sampled,
            completions_trained=len(results.selections["tuned"]),
            probing=(*self.probe_uses(uses), *read),
        )

    def pools(self, graph: ArtifactGraph, results: Results, base: str) -> list[str]:
        probes = [policy for policy in self.samplers if policy != results.policies["base"]]
        drawn_by = [graph.policy("probe", policy, [base]) for policy in probes] or [base]
        return [graph.pool("train", results.pool, drawn_by)]

    def probe_uses(self, uses: Sequence[Use]) -> list[Use]:
        """The trainings of all epochs and folds of the probe, each once."""
        places = {policy.path.parts[-2:] for policy in self.probe.trained} if self.probe is not None else set()
        return [use for use in unique(uses) if (use.stage, use.key) in places]
