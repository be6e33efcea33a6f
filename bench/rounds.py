"""Rejection sampling in rounds (expert iteration): each round draws from the policy of the round before.

python -m bench procedure=rounds procedure.rounds=3 procedure.start=current procedure.train_on=union
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from bench.artifacts import Completions, Policy, Prompts, Rewards, Selection, content_hash
from bench.balance import Adapted, with_threshold
from bench.blocks import side_by_side
from bench.config.rules import Samples, checked, one_of, whole
from bench.errors import BenchError
from bench.models.sampler import RAW
from bench.procedures.findings import ArtifactGraph, Findings, Results, TrainingCost, in_pairs, selection_key
from bench.procedures.parts import Parts
from bench.seeds import generator, small_seed
from bench.selection import matched_random
from bench.selection.cells import in_order, moved, prompts_dropped
from bench.store import Use
from bench.tasks import Task
from bench.training.sft import last_epoch_loss


@dataclass(frozen=True)
class Round:
    """One round of one arm."""

    number: int  # from 1
    arm: str  # tuned or control
    drawn_by: Policy
    pool: Completions  # [M, N] of this round
    rewards: Rewards | None  # [M, N]; None for the control, whose pool is not scored
    own: Selection  # [K] completions selected in this round; with train_on="best", from all pools so far
    chosen: Selection  # [K'] the training set, from this arm's pools since round 1, side by side
    prompts_filtered: int  # prompts that the prompt filter left out
    start: Policy  # the policy that fine-tuning started from
    policy: Policy  # the fine-tuned policy
    adapted: Adapted | None  # the temperature and threshold of this round; None: the run's own
    validation: float | None = None  # pass@1 on validation prompts, if the stop rule needs it

    @property
    def name(self) -> str:
        return self.policy.name

    def metrics(self, pools: list[Completions], train: Prompts, task: Task) -> dict[str, float]:
        """The metrics of this round. pools: those of this arm since round 1."""
        metrics: dict[str, float] = {
            "selected": len(self.own),
            "kept": len(self.chosen),
            "kept_correct": kept_correct(self.chosen, pools, train, task),
            "prompts_covered": self.chosen.prompts_covered,
            "distinct_paths": distinct_paths(self.chosen, pools, task),
            "pool_tokens": float(self.pool.length.sum()),
            "train_loss": last_epoch_loss(self.policy),
        }
        if self.rewards is not None:
            metrics |= {"pool_reward": float(np.nanmean(self.rewards.value)), "unscored": self.rewards.unscored}
        if self.adapted is not None:
            metrics |= {"temperature": self.adapted.temperature, "balance_score": self.adapted.score}
            if self.adapted.threshold is not None:
                metrics["threshold"] = self.adapted.threshold
        if self.validation is not None:
            metrics["validation_pass@1"] = self.validation
        return metrics


@dataclass(frozen=True)
class Rounds(Findings):
    """All rounds of an experiment."""

    each: tuple[Round, ...]  # by number: the tuned round, then its control
    base_validation: float | None  # the base's pass@1 on validation prompts, if the stop rule needs it

    def of(self, arm: str) -> list[Round]:
        return [round for round in self.each if round.arm == arm]

    @property
    def arms(self) -> list[str]:
        return [round.arm for round in self.each if round.number == 1]

    def metrics(self, results: Results, task: Task, uses: Sequence[Use], *, seed: int) -> dict[str, float | str]:
        """The metrics of each round under its name, e.g. round_2/kept and round_2_control/kept.

        selected: completions selected in this round. kept: completions in the training set; kept_correct: those of them
        that the task's verifier accepts; prompts_covered: their prompts; distinct_paths: their distinct pairs of prompt
        and reasoning path. pool_tokens: generated for the round's pool; pool_reward: its mean reward. train_loss: nats
        per token. validation_pass@1: if the stop rule needs it; for the base, base/validation_pass@1.
        """
        tuned = self.of("tuned")
        result = next(round for round in tuned if round.policy == results.policies["tuned"])
        metrics: dict[str, float | str] = {"rounds/run": len(tuned), "rounds/result": result.number}
        if self.base_validation is not None:
            metrics["base/validation_pass@1"] = self.base_validation
        for rounds in map(self.of, self.arms):
            for last, round in enumerate(rounds):
                own = round.metrics([before.pool for before in rounds[: last + 1]], results.train, task)
                metrics |= {f"{round.name}/{name}": value for name, value in own.items()}
        return metrics

    def drawn_by(self, results: Results) -> list[str]:
        names = ["base", *(round.name for round in self.of("tuned"))]
        drawn = zip(names, self.of("tuned"), strict=False)  # each round draws from the policy before it
        return [name for name, round in drawn for _ in range(round.pool.shape[1])]

    def cost(self, results: Results, uses: Sequence[Use]) -> TrainingCost:
        """The cost; each round reads all prompts and trains on its own training set."""
        tuned = self.of("tuned")
        return replace(
            super().cost(results, uses),
            completions_trained=sum(round.chosen.completions for round in tuned),
            completions_compared=in_pairs([round.chosen for round in tuned]),
            trainings=tuple(len(round.chosen) for round in tuned),
            prompt_reads=float(len(tuned)),
            pools=tuple(round.pool for round in self.each),
        )

    def add_to(self, graph: ArtifactGraph, results: Results) -> None:
        """Add what each round of each arm made, under its policy's name; the last, as "tuned" and "control"."""
        graph.policy("base", results.policies["base"])
        pools: dict[str, list[str]] = {arm: [] for arm in self.arms}
        scored: dict[str, list[str]] = {arm: [] for arm in self.arms}  # the parents of an arm's selections
        for round in self.each:
            role = round.arm if round.policy == results.policies[round.arm] else round.name
            made_from = graph.pool(role, round.pool, [f"policy-{round.drawn_by.fingerprint}"])
            M, N = round.pool.shape
            if round.rewards is not None:
                cells = {"row": np.repeat(np.arange(M), N), "sample": np.tile(np.arange(N), M)}
                key = content_hash(round.pool.key, round.rewards.value)
                columns = {**cells, "reward": round.rewards.value.ravel()}
                made_from = graph.rewards(role, key, f"rewards_{role}.parquet", columns, [made_from])
            scored[round.arm].append(made_from)
            pools[round.arm].append(round.pool.key)
            drawn_in, sample = np.divmod(np.asarray(round.chosen.column), N)  # all rounds draw equally many samples
            columns = {"row": round.chosen.row, "sample": sample, "round": drawn_in + 1}
            columns["weight"] = np.asarray(round.chosen.weight, float)
            if (rejected := round.chosen.rejected) is not None:
                columns |= {"rejected": rejected % N, "rejected_round": rejected // N + 1}
            parents = [scored[round.arm][number] for number in np.unique(drawn_in).tolist()]
            selection = graph.selection(role, selection_key(pools[round.arm], round.chosen), columns, parents)
            graph.policy(role, round.policy, [f"policy-{round.start.fingerprint}", selection])


def check_settings(config: Mapping[str, Any]) -> None:
    """BenchError where trainings would keep policies: only the last policy of each round is judged."""
    if (every := config["training"].get("keep_every")) is not None:
        raise BenchError(
            f"training.keep_every={every} is not allowed with procedure=rounds, which judges only the last policy of "
            "each training; set it to null, or use another procedure."
        )


@checked(check_settings)
def in_rounds(
    parts: Parts,
    *,
    rounds: Annotated[int, whole(1, 1_000)],
    start: Annotated[str, one_of("base", "current")],
    train_on: Annotated[str, one_of("last", "union", "best")],
    stop: Annotated[str, one_of("none", "validation")],
    validation_completions: Samples,
    adapt: Callable[..., Adapted] | None,
) -> Results:
    """Sample the current policy, score, select and fine-tune, `rounds` times. Every KL is to the original base.

    start: each round fine-tunes the "base" or the "current" policy. train_on: "last", the selection from this round's
    pool; "union", the selections of all rounds together; "best", one selection from all pools so far. adapt: chooses
    the temperature and the threshold of each round (see bench.balance); None: the run's own.

    stop: with "validation", rounds end when pass@1 on validation prompts does not exceed its best value so far, that of
    the base included; the best round is the result, or round 1. pass@1 is by the task's own verifier, from
    `validation_completions` samples per prompt at temperature 1.

    Round 1 equals `bench.experiment.run` and has its seed, so that both share artifacts. The control ("matched") has
    rounds of its own: it draws from its own last policy. In each round it trains on as many completions of the same
    prompts as the tuned arm, chosen without the reward.
    """
    if adapt is not None and not callable(adapt):
        raise BenchError(
            f"procedure.adapt={adapt} is not allowed: it must be null or a function, as in experiment/b_star.yaml."
        )
    arms = ("tuned",) if parts.control == "none" else ("tuned", "control")
    history: dict[str, list[Round]] = {arm: [] for arm in arms}
    of_tuned = history["tuned"]

    def pass_at_1(policy: Policy) -> float:
        prompts = parts.prompts("validation")
        pool = parts.generation(
            prompts, policy, num_completions=validation_completions, seed=parts.seed, **RAW.settings
        )
        return float(parts.verified(prompts, pool).mean())

    first = pass_at_1(parts.base) if stop == "validation" else None
    best, kept = first, 0  # kept: index of the round that is the result
    for number in range(1, rounds + 1):
        current = of_tuned[-1].policy if of_tuned else parts.base
        adapted = adapt and adapt(parts, current, seed=round_seed(parts.seed, number))
        for arm, before in history.items():
            before.append(_one_round(parts, arm, before, of_tuned, number, start, train_on, adapted))
        if best is not None:
            reached = pass_at_1(of_tuned[-1].policy)
            of_tuned[-1] = replace(of_tuned[-1], validation=reached)
            if reached <= best:
                break
            best = reached
        kept = number - 1

    done = tuple(round for arm in zip(*history.values(), strict=True) for round in arm)
    results = {arm: before[kept] for arm, before in history.items()}
    outcomes = {"base": parts.judge(parts.base)} | {round.name: parts.judge(round.policy) for round in done}
    scored = [round.rewards.value for round in of_tuned if round.rewards is not None]
    return Results(
        train=parts.train,
        pool=side_by_side([round.pool for round in of_tuned]),
        rewards=Rewards(np.concatenate(scored, axis=1)),
        prompts_filtered=results["tuned"].prompts_filtered,
        selections={"tuned": results["tuned"].chosen},
        policies={"base": parts.base} | {arm: round.policy for arm, round in results.items()},
        split=parts.split,
        test=parts.test,
        outcomes={"base": outcomes["base"]} | {arm: outcomes[round.name] for arm, round in results.items()} | outcomes,
        best_of_n=parts.best_of_n(),
        findings=Rounds(done, first),
    )


def _one_round(
    parts: Parts,
    arm: str,
    before: Sequence[Round],
    of_tuned: Sequence[Round],
    number: int,
    start: str,
    train_on: str,
    adapted: Adapted | None,
) -> Round:
    """Draw from the arm's current policy, select, and fine-tune. of_tuned: the rounds of the tuned arm so far."""
    base, train, seed = parts.base, parts.train, round_seed(parts.seed, number)
    sampler = {} if adapted is None else {"temperature": adapted.temperature}
    current = before[-1].policy if before else base
    pool = parts.generation(train, current, num_completions=parts.num_completions, seed=seed, **sampler)  # [M, N]
    rewards = parts.scorer(train, pool) if arm == "tuned" else None  # [M, N]
    pools = side_by_side([*(round.pool for round in before), pool])  # [M, N x number]
    within = pools if train_on == "best" else pool
    if rewards is None:
        dropped = 0
        own = matched_random(of_tuned[-1].own, np.zeros(within.shape), generator(seed, "control"))
    else:
        select = parts.selection if adapted is None else with_threshold(parts.selection, adapted.threshold)
        scored = [round.rewards for round in before if train_on == "best"] + [rewards]
        seen = np.concatenate([values.value for values in scored if values is not None], axis=1)
        eligible = parts.prompt_filter(seen)
        dropped = prompts_dropped(seen, eligible)
        evidence = parts.evidence(select, within, rescored_on=train if number > 1 else None)
        own = select(eligible, generator(seed, "selection"), **evidence)
    every = [*(round.own for round in before), own]
    chosen = own if train_on == "best" else buffer(every, parts.num_completions, train_on)
    origin = base if start == "base" else current
    name = f"round_{number}{'' if arm == 'tuned' else f'_{arm}'}"
    policy = parts.fine_tune(name, origin, pools, chosen, seed=seed)
    return Round(number, arm, current, pool, rewards, own, chosen, dropped, origin, policy, adapted)


def round_seed(seed: int, number: int) -> int:
    """The seed of a round. Round 1 has the run's seed, so that it equals the experiment of a single round."""
    return seed if number == 1 else small_seed(seed, "round", number)


def buffer(own: Sequence[Selection], num_completions: int, train_on: str) -> Selection:
    """The training set of the last of these rounds, as a selection from the pools side by side, in order of rows.

    own: each round's selection from its own pool [M, num_completions]. train_on: "last" or "union".
    """
    first = 0 if train_on == "union" else len(own) - 1
    return in_order([moved(each, number * num_completions) for number, each in enumerate(own)][first:])


def distinct_paths(chosen: Selection, pools: list[Completions], task: Task) -> int:
    """The number of distinct (prompt, reasoning path) among the chosen completions that have a path."""
    return len({(row, path) for row, text in _texts(chosen, pools) if (path := task.path(text)) is not None})


def kept_correct(chosen: Selection, pools: list[Completions], train: Prompts, task: Task) -> int:
    """The number of chosen completions that the task's own verifier accepts."""
    texts = _texts(chosen, pools)
    return int(np.sum(task.are_correct([text for _, text in texts], [str(train.answer[row]) for row, _ in texts])))


def _texts(chosen: Selection, pools: list[Completions]) -> list[tuple[int, str]]:
    """The row and the text of each chosen completion. pools: side by side, as `chosen` counts columns."""
    texts = side_by_side(pools).text
    return [(row, texts[row, column]) for row, column in zip(chosen.row.tolist(), chosen.column.tolist(), strict=True)]
