"""Rejection sampling in rounds (expert iteration): each round draws from the policy that the last one fine-tuned.

python -m bench procedure=rounds procedure.rounds=3 procedure.start=current procedure.train_on=union
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from bench.artifacts import Completions, Policy, Rewards, Selection
from bench.balance import Adapted, with_threshold
from bench.config.keys import settings_key
from bench.config.rules import Count, one_of
from bench.errors import BenchError
from bench.evaluation.heldout import Outcomes, grade
from bench.experiment import Results
from bench.generation.pooled import pooled
from bench.scoring import prepared
from bench.scoring.verifier import verify
from bench.seeds import generator, small_seed
from bench.selection import matched_random
from bench.selection.evidence import evidence_for
from bench.selection.prompt_filter import prompts_dropped
from bench.sweeps.workload import Asks, Config, Name, arms, drawn, examples, fine_tuned
from bench.tasks import Task


@dataclass(frozen=True)
class Round:
    """What one arm did in one round."""

    number: int  # from 1
    arm: str  # tuned or control
    drawn_by: Policy
    pool: Completions  # [M, N] of this round
    rewards: Rewards | None  # [M, N]; the control asks for none
    own: Selection  # [K] cells kept in it; where the best of all rounds are kept, cells of all pools
    chosen: Selection  # [K'] what it trained on: cells of this arm's pools from round 1 on, side by side
    prompts_filtered: int  # that the prompt filter left out
    start: Policy  # what fine-tuning started from
    policy: Policy  # and what came of it
    adapted: Adapted | None  # the sampler chosen for this round
    validation: float | None = None  # pass@1 on validation prompts, where the stop rule asks for it

    @property
    def name(self) -> str:
        """Its policy's, in every record."""
        return f"round_{self.number}" + ("" if self.arm == "tuned" else f"_{self.arm}")


@dataclass(frozen=True)
class Rounds:
    """All rounds of an experiment, those of the policy that is the result among them."""

    each: tuple[Round, ...]  # by number: the tuned one, then its control
    base_validation: float | None  # pass@1 on validation prompts that round 1 is to beat, where the stop rule asks

    def of(self, arm: str) -> list[Round]:
        return [one for one in self.each if one.arm == arm]

    @property
    def arms(self) -> list[str]:
        return [one.arm for one in self.each if one.number == 1]


def in_rounds(
    task: Task,
    policy: Callable[..., Policy],
    generation: Callable[..., Completions],
    scoring: Callable[..., Rewards],
    prompt_filter: Callable[[np.ndarray], np.ndarray],
    selection: Callable[..., Selection],
    training: Callable[..., Policy],
    evaluation: Callable[..., Outcomes],
    *,
    rounds: Count,
    start: Annotated[str, one_of("base", "current")],
    train_on: Annotated[str, one_of("last", "union", "best")],
    stop: Annotated[str, one_of("none", "validation")],
    validation_completions: Count,
    adapt: Callable[..., Adapted] | None,
    num_completions: int,
    baseline_completions: int,
    control: str,
    split: str,
    seed: int,
) -> Results:
    """`rounds` times: sample the current policy, score, select, fine-tune; every KL is to the original base.

    start: each round fine-tunes the "base" or the "current" policy. train_on: "last", the selection's choice in this
    round's pool; "union", those of all rounds together; "best", its choice among all that was drawn so far, e.g. each
    prompt's best. stop: "validation" ends with the first round whose pass@1 on validation prompts, by the task's own
    verifier on `validation_completions` samples each at temperature 1, is not above the best before it (the base's
    included) and keeps that best round, or round 1. adapt: chooses each round's temperature and threshold (see
    bench.balance); None: the run's own.

    Round 1 is `bench.experiment.run`, drawn with its seed, so that both share what the store has. The control
    ("matched") goes through rounds of its own: it draws from its own last policy and trains, in every round, on as many
    completions of the same prompts as the tuned one, chosen without the reward.
    """
    if adapt is not None and not callable(adapt):
        raise BenchError(f"procedure.adapt={adapt} is not allowed: it must be null or a function, as in b_star.")
    train, test = task.prompts("train"), task.prompts(split)
    base = policy(task)
    scoring = prepared(scoring, base=base, task=task, generation=generation)
    history: dict[str, list[Round]] = {arm: [] for arm in (("tuned",) if control == "none" else ("tuned", "control"))}
    of_tuned = history["tuned"]

    def pass_at_1(of: Policy) -> float:
        prompts = task.prompts("validation")
        sampler = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
        drawn = generation(prompts, of, num_completions=validation_completions, seed=seed, **sampler)
        return float(verify(prompts, drawn, task=task).value.mean())

    first = pass_at_1(base) if stop == "validation" else None
    best, kept = first, 0  # kept: index of the round that is the result
    for number in range(1, rounds + 1):
        stream = round_seed(seed, number)
        adapted = adapt and adapt(
            train,
            of_tuned[-1].policy if of_tuned else base,
            base,
            task,
            generation,
            scoring,
            selection,
            num_completions=num_completions,
            seed=stream,
        )
        sampler = {} if adapted is None else {"temperature": adapted.temperature}
        select = selection if adapted is None else with_threshold(selection, adapted.threshold)
        for arm, before in history.items():
            current = before[-1].policy if before else base
            pool = generation(train, current, num_completions=num_completions, seed=stream, **sampler)  # [M, N]
            rewards = scoring(train, pool) if arm == "tuned" else None  # [M, N]
            pools = pooled([*(one.pool for one in before), pool])  # [M, N x number]
            within = pools if train_on == "best" else pool
            if rewards is None:
                dropped, shape = 0, within.shape
                own = matched_random(of_tuned[-1].own, np.zeros(shape), generator(stream, "control"))
            else:
                scored = [one.rewards for one in before if train_on == "best"] + [rewards]
                seen = np.concatenate([one.value for one in scored if one is not None], axis=1)
                eligible = prompt_filter(seen)
                dropped = prompts_dropped(seen, eligible)
                evidence = evidence_for(select, within, task, base, rescored_on=train if number > 1 else None)
                own = select(eligible, generator(stream, "selection"), **evidence)
            chosen = (
                own if train_on == "best" else buffer([*(one.own for one in before), own], num_completions, train_on)
            )
            origin = base if start == "base" else current
            made = training(origin, train, pools, chosen, seed=stream)
            before.append(Round(number, arm, current, pool, rewards, own, chosen, dropped, origin, made, adapted))
        if best is not None:
            found = pass_at_1(of_tuned[-1].policy)
            of_tuned[-1] = replace(of_tuned[-1], validation=found)
            if found <= best:
                break
            best = found
        kept = number - 1

    done = tuple(one for arm in zip(*history.values(), strict=True) for one in arm)
    policies = {"base": base} | {one.name: one.policy for one in done}
    outcomes = {
        name: evaluation(one, base, test, generation, scoring, task, seed=seed) for name, one in policies.items()
    }
    results = {arm: before[kept] for arm, before in history.items()}
    baseline = generation(test, base, num_completions=max(num_completions, baseline_completions), seed=seed)
    return Results(
        train=train,
        pool=pooled([one.pool for one in of_tuned]),
        rewards=Rewards(np.concatenate([one.rewards.value for one in of_tuned if one.rewards is not None], axis=1)),
        prompts_filtered=results["tuned"].prompts_filtered,
        selections={"tuned": results["tuned"].chosen},
        policies={"base": base} | {arm: one.policy for arm, one in results.items()},
        split=split,
        test=test,
        outcomes={"base": outcomes["base"]} | {arm: outcomes[one.name] for arm, one in results.items()} | outcomes,
        best_of_n=grade(test, baseline, scoring, task),
        procedure=Rounds(done, first),
    )


def round_seed(seed: int, number: int) -> int:
    """The seed of a round's own stream; round 1 has the run's, so that it is the experiment of a single round."""
    return seed if number == 1 else small_seed(seed, "round", number)


def buffer(own: Sequence[Selection], num_completions: int, train_on: str) -> Selection:
    """What the last of these rounds trains on, as cells of the pools side by side, row by row.

    own: each round's cells [K] of its own pool [M, num_completions]. train_on: "last" or "union"; in the first round
    there is no more than its own.
    """
    kept = range(len(own)) if train_on == "union" else [len(own) - 1]
    row, weight = (np.concatenate([getattr(own[i], name) for i in kept]) for name in ("row", "weight"))
    column = np.concatenate([own[i].column + i * num_completions for i in kept])
    order = np.lexsort((column, row))
    return Selection(row[order], column[order], weight[order])


def asks(cfg: Config, prompts: Callable[[str], int]) -> Asks:
    """What `in_rounds` will draw and train, if no round is the last before its time; see bench.sweeps.workload."""
    how, train, N = cfg["procedure"], prompts("train"), drawn(cfg, cfg["num_completions"])
    itself, adapt = settings_key(cfg, "procedure"), how.get("adapt")
    pools: dict[Name, float] = {}
    tuned: dict[Name, float] = {}
    choosing: dict[Name, float] = {}
    for arm in arms(cfg):
        current: Name = ()
        for number in range(1, how["rounds"] + 1):
            own: Name = (number, itself) if number > 1 or adapt else ()  # the first is that of a single round
            pools[(*current, itself) if adapt else current] = train * N
            if adapt and arm == "tuned":
                probed = min(adapt.get("prompts_probed", train), train)
                choosing["adapt", *current, itself] = len(adapt.get("temperatures", ())) * probed * N
            current = fine_tuned(cfg, arm, *own)
            times = number if how["train_on"] == "union" else 1
            tuned[current] = times * examples(cfg, train, rounds=number if how["train_on"] == "best" else 1)
    if how["stop"] == "validation":
        each = prompts("validation") * drawn(cfg, how["validation_completions"])
        choosing |= {("validation", *name): each for name in ((), *tuned) if "control" not in name}
    return Asks(pools, tuned, choosing=choosing)
