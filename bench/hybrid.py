"""Fine-tuning on demonstrations where they are easy to learn, and on the policy's own accepted samples elsewhere.

    python -m bench experiment=hybrid procedure.easy_by=final_nll procedure.easy_share=0.5

A hybrid of supervised and rejection-sampling fine-tuning. A probe, the base after an epoch or a few on the task's
demonstrations, says which of them a policy learns soon: those prompts keep theirs and cost no sample. The others are
sampled, and what the scorer accepts is trained on. The ends are full SFT (easy_share 1) and full RFT (easy_share 0,
sample_from base); that the gate matters at all is shown only by what it gains over a random one at equal samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from bench.artifacts import Completions, Policy, Prompts, Rewards, Selection
from bench.config.keys import settings_key
from bench.config.rules import TRUE_OR_FALSE, Count, number, one_of, or_null, whole
from bench.errors import BenchError
from bench.evaluation.heldout import Outcomes
from bench.experiment import Results, trained_and_judged
from bench.generation.pooled import pooled
from bench.generation.scattered import scattered
from bench.procedures.demonstrations import demonstrations, nll_per_token
from bench.procedures.difficulty import NEEDS_PROBE, READS, EasyBy, easiest, easiness, refuse_unfit_parts, samples_paid
from bench.procedures.probe import Probe, by_fold, probed
from bench.scoring import prepared
from bench.seeds import generator
from bench.selection.cells import CORRECT, correct, in_order
from bench.selection.evidence import evidence_for
from bench.selection.prompt_filter import prompts_dropped
from bench.sweeps.workload import Asks, Config, Name, drawn, examples, fine_tuned
from bench.tasks import Task

GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": 0}
NOTHING = Selection(np.array([], int), np.array([], int), np.array([], float))


@dataclass(frozen=True)
class Drawn:
    """Samples of some prompts, of which those behind the first accepted may be neither paid for nor trained on."""

    rows: np.ndarray  # [H] the prompts
    pool: Completions  # [H, N]
    rewards: np.ndarray  # [H, N], also of what is not paid for
    paid: np.ndarray  # [H] how many samples of each prompt were needed
    seen: np.ndarray  # [H, N] rewards, NaN where not paid for
    accepted: np.ndarray  # [H] bool, whether any sample paid for passes
    hinted: bool  # whether the prompts gave the answer away


@dataclass(frozen=True)
class Hybrid:
    """How an experiment's training set came about, prompt by prompt; M prompts in all."""

    demonstrations: Completions  # [M, 1]
    probe: Probe | None
    nll: np.ndarray  # [E + 1, M] nats a token; E = 0 without a probe
    solved: np.ndarray | None  # [M] 0/1, whether the probe's greedy sample passes, where the gate asks for it
    greedy: tuple[Completions, ...]  # those samples
    easy: np.ndarray  # [M] bool
    judged_by_nll: bool  # whether the gate looked at it: else reading the demonstrations is nothing that it cost
    source: np.ndarray  # [M] what a prompt gave to the training: demonstration, samples, fallback, hinted or nothing
    samples: Drawn | None  # of the hard prompts
    hinted: Drawn | None  # of those that no sample solved, with the answer as a hint
    columns: tuple[str, ...]  # of each column of the training pool, where it comes from
    samplers: tuple[Policy, ...]  # that drew samples

    @property
    def prompts_sampled(self) -> int:
        """A prompt that was tried again with a hint counts twice."""
        return sum(len(one.rows) for one in (self.samples, self.hinted) if one is not None)

    @property
    def samples_a_prompt(self) -> float:
        """The mean number paid for, of prompts that were sampled at all."""
        paid = [one.paid for one in (self.samples, self.hinted) if one is not None]
        return float(np.concatenate(paid).mean()) if paid else 0.0


def with_demonstrations(
    task: Task,
    policy: Callable[..., Policy],
    generation: Callable[..., Completions],
    scoring: Callable[..., Rewards],
    prompt_filter: Callable[[np.ndarray], np.ndarray],
    selection: Callable[..., Selection],
    training: Callable[..., Policy],
    evaluation: Callable[..., Outcomes],
    *,
    easy_by: EasyBy,
    easy_share: Annotated[float, number(0, 1)],
    inverted: Annotated[bool, TRUE_OR_FALSE],
    foreign: Annotated[float, number(0, 1)],
    noise: Annotated[float, number(0, 1)],
    probe_epochs: Count,
    folds: Annotated[int | None, or_null(whole(2))],
    hard: Annotated[str, one_of("sample", "drop")],
    sample_from: Annotated[str, one_of("probe", "base")],
    stop_at_first_accept: Annotated[bool, TRUE_OR_FALSE],
    fallback: Annotated[str, one_of("drop", "demonstration", "rationalise")],
    num_completions: int,
    baseline_completions: int,
    control: Annotated[str, one_of("none")],
    split: str,
    seed: int,
) -> Results:
    """Demonstrations of the easy prompts and accepted samples of the hard ones, fine-tuned on from the base.

    easy_by: what makes a prompt easy; inverted takes the hardest for easy. easy_share: of the prompts. foreign, noise:
    the shares of demonstrations in another style than the base's, and wrong. hard: "sample" draws up to
    `num_completions` of every hard prompt, "drop" trains on the easy ones alone. sample_from: the "probe" or the
    "base". stop_at_first_accept: what lies behind a prompt's first accepted sample is not paid for and not
    trained on; it is drawn all the same, as pools are drawn in blocks. fallback: what a prompt without an accepted
    sample gives, "drop": nothing; "demonstration": its own; "rationalise": accepted samples drawn with the answer as a
    hint and trained on without it (STaR, Zelikman et al. 2022, arXiv 2203.14465). A prompt that the filter leaves out
    gives nothing. The run's selection chooses among the accepted (reward above 0.5), each prompt's own or hinted.

    The probe is trained by the run's own `training`, one epoch at a time: each is a fine-tuning of its own from the one
    before (AdamW and its schedule begin anew), so that the probe of E epochs is that of E - 1 and one more. folds: None
    judges each demonstration by a probe that has seen it; K, by one of K that has not, which then samples its prompt.

    There is no random twin within a run (control must be none): the control of a gate is easy_by "random".
    """
    gated = 0 < easy_share < 1
    sampled = hard == "sample" and easy_share < 1
    refuse_unfit_parts(
        task,
        scoring,
        prompt_filter,
        fallback=fallback if sampled else "drop",
        solves=gated and easy_by == "probe_solves",
        sampled=sampled,
        stops=sampled and stop_at_first_accept,
    )
    train = task.prompts("train")
    if hard == "drop" and round(easy_share * len(train)) == 0:
        raise BenchError(
            f"procedure.easy_share={easy_share} is not allowed with procedure.hard=drop: of {len(train)} prompts none "
            "would be left."
        )
    base = policy(task)
    scoring = prepared(scoring, base=base, task=task, generation=generation)
    written = demonstrations(task, train, base, foreign=foreign, noise=noise, seed=seed)  # [M, 1]
    everyone = np.arange(len(train))

    probe, nll = None, nll_per_token(base, train, written)[None]
    if (gated and easy_by in NEEDS_PROBE) or (sampled and sample_from == "probe"):
        probe = probed(base, train, written, training, epochs=probe_epochs, folds=folds, seed=seed)
        nll = probe.nll

    def draw(
        prompts: Prompts, rows: np.ndarray, by: Probe | None, **how: float
    ) -> list[tuple[np.ndarray, Completions]]:
        """Positions among `rows` and their completions, a part for each policy that draws."""
        parts = [(np.arange(len(rows)), base)] if by is None else list(by_fold(by, rows))
        return [(at, generation(prompts.take(at), one, seed=seed, **how)) for at, one in parts]

    solved, greedy = None, []
    if gated and easy_by == "probe_solves":
        greedy = draw(train, everyone, probe, num_completions=1, **GREEDY)
        solved = np.empty(len(train))
        for at, pool in greedy:
            solved[at] = correct(scoring(train.take(at), pool).value)[:, 0]
    score = easiness(easy_by, nll, solved) if gated else np.zeros(len(train))
    easy = easiest(score, easy_share, generator(seed, "gate"), inverted=inverted)

    sampler = probe if sample_from == "probe" else None

    def sample(rows: np.ndarray, prompts: Prompts, *, hinted: bool = False) -> Drawn:
        """Up to N samples of the prompts `rows`, drawn from them as `prompts` words them."""
        parts = draw(prompts, rows, sampler, num_completions=num_completions)
        rewards = np.empty((len(rows), num_completions))
        for at, pool in parts:
            rewards[at] = scoring(train.take(rows[at]), pool).value
        pool = parts[0][1] if len(parts) == 1 else scattered(parts, len(rows))
        paid = samples_paid(correct(rewards), stop_at_first_accept=stop_at_first_accept)
        seen = np.where(np.arange(num_completions) < paid[:, None], rewards, np.nan)
        return Drawn(rows, pool, rewards, paid, seen, np.asarray(correct(seen).any(axis=1)), hinted)

    def choose(drawn: Drawn) -> Selection:
        """Of the prompts' accepted samples those that the run's selection takes, as cells of the drawn pool."""
        eligible = prompt_filter(drawn.seen)
        eligible = np.where(correct(eligible), eligible, np.nan)
        if np.isnan(eligible).all():
            return NOTHING
        others = sampler is not None or drawn.hinted  # it is to be the base's, of the prompt trained on
        asked = train.take(drawn.rows) if others else None
        evidence = evidence_for(selection, drawn.pool, task, base, rescored_on=asked)
        return selection(eligible, generator(seed, "selection", *["hinted"] * drawn.hinted), **evidence)

    samples = hinted = None
    source = np.where(easy, "demonstration", "nothing").astype("<U13")
    pools, values = [written], [scoring(train, written).value]
    columns = ["demonstration"]
    cells = [Selection(np.flatnonzero(easy), np.zeros(easy.sum(), int), np.ones(easy.sum()))]

    def add(drawn: Drawn, name: str) -> None:
        """Its pool beside those before, and what is chosen of it to what is trained on."""
        chosen = choose(drawn)
        rows = drawn.rows[chosen.row]
        source[rows] = "hinted" if drawn.hinted else "samples"
        cells.append(Selection(rows, chosen.column + len(columns), chosen.weight))
        pools.append(scattered([(drawn.rows, drawn.pool)], len(train)))
        values.append(np.full((len(train), num_completions), np.nan))
        values[-1][drawn.rows] = drawn.rewards
        columns.extend([name] * num_completions)

    dropped = 0
    if sampled and not easy.all():
        rows = np.flatnonzero(~easy)
        samples = sample(rows, train.take(rows))
        add(samples, sample_from)
        filtered = prompt_filter(samples.seen)
        dropped = prompts_dropped(samples.seen, filtered)
        unsolved = rows[~samples.accepted & ~np.isnan(filtered).all(axis=1)]
        if fallback == "demonstration":
            cells.append(Selection(unsolved, np.zeros(len(unsolved), int), np.ones(len(unsolved))))
            source[unsolved] = "fallback"
        elif fallback == "rationalise" and len(unsolved):
            hinted = sample(unsolved, task.with_hint(train.take(unsolved)), hinted=True)  # type: ignore[attr-defined]
            add(hinted, f"{sample_from}, hinted")

    pool = pooled(pools)
    chosen = in_order(cells)
    if not len(chosen):
        raise BenchError(
            "No completion to train on: no demonstration is used, and no sample that prompt_filter leaves has a reward "
            f"above {CORRECT}; raise num_completions, temperature or procedure.easy_share, or use another scoring."
        )
    hybrid = Hybrid(
        demonstrations=written,
        probe=probe,
        nll=nll,
        solved=solved,
        greedy=tuple(pool for _, pool in greedy),
        easy=easy,
        judged_by_nll=gated and easy_by in READS,
        source=source,
        samples=samples,
        hinted=hinted,
        columns=tuple(columns),
        samplers=() if samples is None else (base,) if sampler is None else sampler.policies,
    )
    return trained_and_judged(
        task,
        base,
        pool,
        Rewards(np.concatenate(values, axis=1)),
        dropped,
        {"tuned": chosen},
        generation,
        scoring,
        training,
        evaluation,
        num_completions=num_completions,
        baseline_completions=baseline_completions,
        split=split,
        seed=seed,
        procedure=hybrid,
    )


def asks(cfg: Config, prompts: Callable[[str], int]) -> Asks:
    """What `with_demonstrations` will draw and train, if every hard prompt has an accepted sample."""
    how, train = cfg["procedure"], prompts("train")
    itself, folds = settings_key(cfg, "procedure"), how["folds"] or 1
    easy = round(how["easy_share"] * train)
    hard = train - easy if how["hard"] == "sample" else 0
    gated = 0 < how["easy_share"] < 1
    needs_probe = (gated and how["easy_by"] in NEEDS_PROBE) or (hard and how["sample_from"] == "probe")
    told = (settings_key(cfg, "training"), how["foreign"], how["noise"], how["folds"])
    steps = [(fold, epoch) for fold in range(folds) for epoch in range(how["probe_epochs"])] if needs_probe else []
    seen = train if how["folds"] is None else train * (folds - 1) / folds
    of_gate: dict[Name, float] = {("gate", itself): train} if gated and how["easy_by"] == "probe_solves" else {}
    return Asks(
        pools={(itself,): hard * drawn(cfg, cfg["num_completions"])} if hard else {},
        tuned={fine_tuned(cfg, "tuned", itself): easy * cfg["training"].get("epochs", 1) + examples(cfg, hard)},
        probes={(*told, *step): seen for step in steps},
        choosing=of_gate,
    )
