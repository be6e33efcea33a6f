"""Adaptive sampling: the number of samples per training prompt depends on the rewards of its samples.

python -m bench procedure=adaptive control=none num_completions=64                   stop at the first accepted
python -m bench procedure=adaptive control=none procedure.allocate=hard              16 per prompt, most to the hard
python -m bench procedure=adaptive control=none procedure.stop=none                  16 for every prompt
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

import numpy as np

from bench.artifacts import Completions, Policy, Prompts, Rewards
from bench.blocks import Placement, stopped
from bench.config.rules import Samples, checked, number, one_of, require
from bench.errors import BenchError
from bench.estimators.arrays import StoppedOutcomes
from bench.estimators.bootstrap import intervals_and_bands
from bench.estimators.curves import pass_at_k
from bench.estimators.sequential import BetaPrior, beta_prior, expected_gains, stopped_pass_at_k
from bench.estimators.sequential import allocate as by_gain
from bench.evaluation.measures import powers_of_two, with_ends
from bench.generation.pool import Engine, sharing
from bench.procedures.findings import Findings, Results
from bench.procedures.parts import Parts
from bench.progress import stage
from bench.scoring import refuse_comparing, refuse_too_low
from bench.seeds import generator
from bench.selection.cells import prompts_dropped
from bench.selection.pairs import refuse_pairs
from bench.store import Use
from bench.tasks import Task

Score = Callable[[Prompts, Completions], Rewards]


@dataclass(frozen=True)
class Plan(Findings):
    """The rule for the number of samples per prompt: the settings of `adaptively`."""

    stop: str  # accepted, none
    enough: int  # accepted samples at which a prompt stops; further ones have no value
    accept_above: float
    allocate: str  # uniform, hard
    num_completions: int  # N: the most samples per prompt (uniform), or their mean (hard)
    look: int  # hard: samples of every prompt before the rest is allocated
    most: int  # hard: the most samples per prompt
    block: int  # samples per prompt between two checks of acceptance

    @property
    def limit(self) -> int:
        """The most samples per prompt."""
        return self.most if self.allocate == "hard" else self.num_completions

    @property
    def is_fixed(self) -> bool:
        """Whether every prompt gets equally many samples, whatever their rewards."""
        return self.stop == "none" and self.allocate == "uniform"

    @property
    def always(self) -> int:
        """The number of samples that every prompt gets, whatever their rewards."""
        if self.allocate == "hard":
            return self.look
        return self.limit if self.is_fixed else self.block

    def check(self) -> None:
        """BenchError where the settings do not fit together."""
        hard = {"procedure.look": self.look, "procedure.most": self.most}
        for name, value in (hard if self.allocate == "hard" else {"num_completions": self.num_completions}).items():
            if value % self.block and not self.is_fixed:
                raise BenchError(f"procedure.block={self.block} is not allowed with {name}={value}: it must divide it.")
        if self.stop == "accepted" and self.enough > self.limit:
            raise BenchError(
                f"procedure.enough={self.enough} is not allowed: a prompt has at most {self.limit} samples, so that "
                "none would ever stop."
            )
        if self.allocate == "hard" and not self.look <= self.num_completions <= self.most:
            raise BenchError(
                f"num_completions={self.num_completions} is not allowed with procedure.allocate=hard: it must lie "
                f"between procedure.look={self.look} and procedure.most={self.most}."
            )

    def metrics(self, results: Results, task: Task, uses: Sequence[Use], *, seed: int) -> dict[str, float | str]:
        """The metrics under adaptive/.

        samples_total: samples of the training prompts; samples_saved: how many fewer than `num_completions` per prompt;
        samples_a_prompt: their mean per prompt. accepted: completions above `accept_above`. prompts_covered: prompts
        with an accepted completion; coverage: their share. prompts_stopped_short: prompts with fewer accepted
        completions than `enough`. pass@k: the probability that at least one of k samples is accepted, unbiased, with a
        bootstrap interval over prompts. pass_estimator: the source of pass@k: the counts of a pool that acceptance
        stopped, or the samples that every prompt has.
        """
        drawn = results.pool.drawn.sum(axis=1)  # [M]
        accepted = (np.asarray(results.rewards.value) > self.accept_above).sum(axis=1)
        total, covered = int(drawn.sum()), int((accepted > 0).sum())
        counts: dict[str, float | str] = {
            "adaptive/samples_total": total,
            "adaptive/samples_a_prompt": total / len(drawn),
            "adaptive/samples_saved": self.num_completions * len(drawn) - total,
            "adaptive/accepted": int(accepted.sum()),
            "adaptive/prompts_covered": covered,
            "adaptive/coverage": covered / len(drawn),
            "adaptive/prompts_stopped_short": int((accepted < self.enough).sum()),
        }
        sequential = self.allocate == "uniform" and self.stop == "accepted"
        sizes = powers_of_two(self.limit if sequential else self.always)
        if sequential:
            estimates = stopped_pass_at_k(
                accepted, drawn, sizes, enough=self.enough, limit=self.limit, block=self.block
            )  # [M, sizes]
        else:
            fixed = np.asarray(results.rewards.value)[:, : self.always]
            estimates = pass_at_k(np.where(np.isnan(fixed), np.nan, fixed > self.accept_above), sizes)
        low, high, _ = intervals_and_bands(estimates, [], generator(seed, "adaptive"), shares=True)
        for k, *numbers in zip(sizes, np.nanmean(estimates, axis=0), low, high, strict=True):
            counts |= with_ends(f"adaptive/pass@{k}", *map(float, numbers))
        counts["adaptive/pass_estimator"] = (
            "stopped, by the orders that lead to its counts" if sequential else f"the first {self.always} samples"
        )
        return counts


def check_settings(config: Mapping[str, Any]) -> None:
    """BenchError where settings that are allowed by themselves do not fit together."""
    refuse_pairs(config, "procedure=adaptive", "it trains on accepted completions alone")
    require(config, "control", one_of("none"))
    names = [field.name for field in fields(Plan)]
    Plan(**{name: config["procedure"].get(name, config.get(name)) for name in names}).check()


@checked(check_settings)
def adaptively(
    parts: Parts,
    *,
    stop: Annotated[str, one_of("accepted", "none")],
    enough: Samples,
    accept_above: Annotated[float, number()],
    allocate: Annotated[str, one_of("uniform", "hard")],
    look: Samples,
    most: Samples,
    block: Samples,
) -> Results:
    """Run `bench.experiment.run` with samples where they are expected to help, and train on accepted completions.

    A completion is accepted where its reward is above `accept_above`. stop: "accepted" draws until `enough`
    completions of a prompt are accepted; "none" never stops. allocate: "uniform" allows up to `num_completions` per
    prompt. "hard" draws `look` samples per prompt. It allocates the rest of `num_completions` per prompt, over all
    prompts together, where the expected number of accepted completions, at most `enough` per prompt, grows most (see
    bench.estimators.sequential), with at most `most` samples per prompt. With stop="accepted" it allocates again after
    each block. With `enough` = 1, all prompts without an accepted completion are equal. Acceptance is checked after
    `block` samples of a prompt: 1 wastes no sample; a larger block keeps the engine busier.

    Sample i of a prompt equals sample i of the pool of fixed N with the same seed. The selection sees the accepted
    completions of the prompts that pass the prompt filter. A random control is impossible (control must be none): where
    acceptance decides the number of samples, accepted completions are over-represented, and a random choice depends on
    the reward. Held-out prompts have pools of fixed N. BenchError for a scorer that compares the samples of a prompt,
    and for an engine that can't start at a given sample.
    """
    plan = Plan(stop, enough, accept_above, allocate, parts.num_completions, look, most, block)
    plan.check()
    if not plan.is_fixed:
        if "first_sample" not in inspect.signature(parts.generation).parameters:
            raise BenchError(
                "procedure=adaptive can't draw with this generation, which always starts at a prompt's first sample: "
                "use generation=transformers, vllm or openai."
            )
        refuse_comparing(parts.scoring, "procedure=adaptive can't stop by")
    refuse_too_low(parts.scoring, accept_above, "procedure.accept_above")
    # [M, N], blank where no sample was drawn
    pool, rewards = sample(parts.train, parts.base, parts.generation, parts.scorer, plan, seed=parts.seed)
    left = parts.prompt_filter(rewards.value)  # [M, N], NaN where the prompt is left out
    accepted = np.where(left > accept_above, left, np.nan)
    check_accepted(accepted, np.asarray(rewards.value), plan)
    return parts.train_and_judge(
        pool,
        rewards,
        parts.select(accepted, pool),
        prompts_filtered=prompts_dropped(rewards.value, left),
        findings=plan,
    )


@stage("generate", "base", "train")  # and score
def sample(
    prompts: Prompts, policy: Policy, generation: Callable[..., Completions], scoring: Score, plan: Plan, *, seed: int
) -> tuple[Completions, Rewards]:
    """The pool of a plan, and its rewards: an ordinary pool where the plan is fixed. Else a pool with blanks
    (`bench.blocks.stopped`) and `StoppedOutcomes`, NaN where no sample was drawn."""
    if plan.is_fixed:
        pool = generation(prompts, policy, num_completions=plan.limit, seed=seed)
        return pool, scoring(prompts, pool)
    M = len(prompts)
    value, drawn = np.full((M, plan.limit), np.nan), np.zeros(M, int)
    pieces: list[Placement] = []
    opened: list[Engine] = []

    def draw(rows: np.ndarray, samples: int) -> None:
        """Draw `samples` more per prompt, together for prompts that have equally many."""
        for start in np.unique(drawn[rows]).tolist():
            at = rows[drawn[rows] == start]
            part, end = prompts.take(at), start + samples
            with sharing(opened):
                piece = generation(
                    part, policy, num_completions=end, first_sample=start, block_size=plan.block, seed=seed
                )
            value[at, start:end] = scoring(part, piece).value
            pieces.append(Placement(at, start, piece))
            drawn[at] = end

    def accepted() -> np.ndarray:
        return (value > plan.accept_above).sum(axis=1)  # NaN compares false

    if plan.allocate == "uniform":
        while len(rows := np.flatnonzero((drawn < plan.limit) & (accepted() < plan.enough))):
            draw(rows, plan.block)
    else:
        draw(np.arange(M), plan.look)
        prior = beta_prior(accepted(), drawn)
        total, rng = plan.num_completions * M, generator(seed, "allocation")
        while (share := _shares(accepted(), drawn, prior, plan, total, rng)).any():
            for _ in range(1 if plan.stop == "accepted" else int(share.max())):
                draw(np.flatnonzero(share), plan.block)
                share = np.maximum(share - 1, 0)
            if plan.stop == "none":
                break
    width = int(drawn.max())
    return stopped(pieces, M, always=plan.always), Rewards(value[:, :width].view(StoppedOutcomes))


def _shares(
    accepted: np.ndarray, drawn: np.ndarray, prior: BetaPrior, plan: Plan, total: int, rng: np.random.Generator
) -> np.ndarray:
    """[M] the number of further blocks per prompt, out of the rest of `total` samples."""
    gains = expected_gains(accepted, drawn, prior, enough=plan.enough, most=plan.limit - int(drawn.min()))
    room = plan.limit - drawn  # prompts may have different numbers of samples left
    gains = np.where(np.arange(gains.shape[1]) < room[:, None], gains, 0.0)
    by_block = gains.reshape(len(gains), -1, plan.block).sum(axis=2)
    return by_gain(by_block, (total - int(drawn.sum())) // plan.block, rng)


def check_accepted(accepted: np.ndarray, rewards: np.ndarray, plan: Plan) -> None:
    """BenchError where no completion can be trained on; it says whether acceptance or the prompt filter is the cause.

    accepted: [M, N], NaN for completions that are not accepted or filtered out; rewards: [M, N], NaN if unscored.
    """
    if not np.isnan(accepted).all():
        return
    scored = rewards[~np.isnan(rewards)]
    if (scored > plan.accept_above).any():
        raise BenchError("prompt_filter leaves out every prompt with an accepted completion; use prompt_filter=all.")
    highest = f"the highest of {len(scored)} rewards is {scored.max():g}" if len(scored) else "none has a reward"
    raise BenchError(
        f"No completion is above procedure.accept_above={plan.accept_above:g}, {highest}: lower the setting, "
        "or raise num_completions or temperature."
    )
