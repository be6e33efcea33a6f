"""Fine-tuning on demonstrations where they are easy to learn, and on the policy's own accepted samples elsewhere.

    python -m bench experiment=hybrid procedure.easy_by=final_nll procedure.easy_share=0.5

A hybrid of supervised and rejection-sampling fine-tuning. A probe, the base after some epochs on the demonstrations,
shows which of them are easy to learn. Easy prompts train on their demonstrations and cost no samples. The others are
sampled, and their accepted samples are trained on. The extremes are full SFT (easy_share 1) and full RFT (easy_share 0,
sample_from base). Compare a gate with a random gate (easy_by random) at equal numbers of samples.
"""

from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Annotated, Any

import numpy as np

from bench.artifacts import Completions, Prompts, Rewards, Selection
from bench.blocks import scattered, side_by_side
from bench.config.rules import TRUE_OR_FALSE, checked, number, one_of, or_null, require, whole
from bench.errors import BenchError
from bench.models.sampler import GREEDY
from bench.procedures import difficulty
from bench.procedures.difficulty import Probe
from bench.procedures.findings import Results
from bench.procedures.hybrid_findings import Drawn, Gate, Hybrid
from bench.procedures.parts import Parts
from bench.progress import stage
from bench.seeds import generator
from bench.selection.cells import CORRECT, cells, correct, in_order, prompts_dropped
from bench.selection.pairs import refuse_pairs


def check_settings(config: Mapping[str, Any]) -> None:
    """BenchError for a random control, and for pairs."""
    refuse_pairs(config, "procedure=hybrid", "it trains on accepted completions and demonstrations alone")
    require(config, "control", one_of("none"))


@checked(check_settings)
def with_demonstrations(
    parts: Parts,
    *,
    easy_by: difficulty.EasyBy,
    easy_share: Annotated[float, number(0, 1)],
    inverted: Annotated[bool, TRUE_OR_FALSE],
    foreign: Annotated[float, number(0, 1)],
    noise: Annotated[float, number(0, 1)],
    probe_epochs: Annotated[int, whole(1, 1_000)],
    folds: Annotated[int | None, or_null(whole(2, 1_000))],
    hard: Annotated[str, one_of("sample", "drop")],
    sample_from: Annotated[str, one_of("probe", "base")],
    stop_at_first_accept: Annotated[bool, TRUE_OR_FALSE],
    fallback: Annotated[str, one_of("drop", "demonstration", "rationalise")],
) -> Results:
    """Fine-tune the base on demonstrations of the easy prompts and accepted samples of the hard prompts.

    easy_by: the measure of easiness (see bench.procedures.difficulty); inverted: take the hardest prompts as easy.
    easy_share: the share of easy prompts. foreign: the share of demonstrations in a style that the base has not seen;
    noise: the share of wrong demonstrations; both are 0 except for tasks that write demonstrations. hard: "sample"
    draws N samples per hard prompt; "drop" trains on the easy prompts alone. sample_from: the policy that draws,
    "probe" or "base". stop_at_first_accept: samples after a prompt's first accepted one are not paid for and not
    trained on, though pools are drawn in whole blocks.

    fallback: the training examples of a prompt without an accepted sample: "drop", none; "demonstration", its own
    demonstration; "rationalise", accepted samples that are drawn with the answer as a hint, and trained on without the
    hint (STaR, Zelikman et al. 2022, arXiv 2203.14465). A prompt that the prompt filter leaves out gives no example.
    The run's selection chooses among the accepted samples (reward above 0.5). A run has no random control; the control
    of a gate is a run with easy_by "random".
    """
    parts.refuse_without_solutions(foreign=foreign, noise=noise)
    gated, sampled = 0 < easy_share < 1, hard == "sample" and easy_share < 1
    difficulty.refuse_unfit_parts(
        parts,
        fallback=fallback if sampled else "drop",
        solves=gated and easy_by == "probe_solves",
        sampled=sampled,
        stops=sampled and stop_at_first_accept,
    )
    train, base = parts.train, parts.base
    if hard == "drop" and round(easy_share * len(train)) == 0:
        only = f"procedure.easy_share={easy_share} is not allowed with procedure.hard=drop"
        raise BenchError(f"{only}: of {len(train)} prompts none would be left.")
    score = parts.scorer
    written = parts.demonstrations(foreign=foreign, noise=noise)  # [M, 1]

    judge = easy_by if gated else None
    epochs = probe_epochs if judge in difficulty.NEEDS_PROBE or (sampled and sample_from == "probe") else 0
    gate = _gate(parts, written, judge, easy_share, inverted=inverted, epochs=epochs, folds=folds)
    sampler, rewards = gate.probe if sample_from == "probe" else None, score(train, written).value
    mixture = Mixture(parts, sampler, sample_from, stop_at_first_accept, written, rewards, gate.easy)
    samples = hinted = None
    dropped = 0
    if sampled and not gate.easy.all():
        rows = np.flatnonzero(~gate.easy)
        samples = mixture.sample(rows, train.take(rows))
        filtered = parts.prompt_filter(samples.seen)
        dropped = prompts_dropped(samples.seen, filtered)
        unsolved = rows[~samples.accepted & ~np.isnan(filtered).all(axis=1)]
        if fallback == "demonstration":
            mixture.fall_back(unsolved)
        elif fallback == "rationalise" and len(unsolved):
            hinted = mixture.sample(unsolved, parts.hinted(train.take(unsolved)), hinted=True)
    return parts.train_and_judge(
        side_by_side(mixture.pools),
        Rewards(np.concatenate(mixture.rewards, axis=1)),
        {"tuned": mixture.chosen()},
        prompts_filtered=dropped,
        findings=Hybrid(
            **vars(gate),
            demonstrations=written,
            source=mixture.source,
            samples=samples,
            hinted=hinted,
            columns=tuple(mixture.columns),
            samplers=() if samples is None else (base,) if mixture.sampler is None else mixture.sampler.policies,
        ),
    )


@stage("probe")
def _gate(
    parts: Parts,
    written: Completions,
    easy_by: str | None,
    easy_share: float,
    *,
    inverted: bool,
    epochs: int,
    folds: int | None,
) -> Gate:
    """Judge which prompts are easy (see bench.procedures.difficulty). easy_by: None where no judgement is needed.

    epochs: of the probe; 0: no probe. Each epoch is a fine-tuning of its own, from the policy of the last epoch, with a
    new optimizer and schedule, so that the probe of E epochs extends that of E - 1. folds: with None, the probe that
    judges a demonstration was trained on it; with K, a probe of K judges, and samples, prompts that it has not seen.
    """
    train, M = parts.train, len(parts.train)
    nll = parts.nll(parts.base, train, written)[None]
    probe = difficulty.probed(parts, written, epochs=epochs, folds=folds) if epochs else None
    nll = nll if probe is None else probe.nll
    greedy, solved = [], None
    if easy_by == "probe_solves":
        greedy = _draw(parts, train, np.arange(M), probe, 1, GREEDY.settings)
        solved = np.empty(M)
        for at, pool in greedy:
            solved[at] = correct(parts.scorer(train.take(at), pool).value)[:, 0]
    easiness_of = np.zeros(M) if easy_by is None else difficulty.easiness(easy_by, nll, solved)
    easy = difficulty.easiest(easiness_of, easy_share, generator(parts.seed, "gate"), inverted=inverted)
    return Gate(probe, nll, solved, tuple(pool for _, pool in greedy), easy, judged_by_nll=easy_by in difficulty.READS)


@dataclass
class Mixture:
    """A training set that is being built: pools side by side, and the completions of them to train on.

    It begins with the demonstrations [M, 1] and their rewards; those of easy prompts [M] are trained on.
    """

    parts: Parts
    sampler: Probe | None  # None: the base draws
    sampler_name: str
    stop_at_first_accept: bool
    written: InitVar[Completions]
    rewarded: InitVar[np.ndarray]
    easy: InitVar[np.ndarray]

    def __post_init__(self, written: Completions, rewarded: np.ndarray, easy: np.ndarray) -> None:
        self.source = np.where(easy, "demonstration", "nothing").astype("<U13")  # [M] of a prompt's training examples
        self.pools, self.rewards = [written], [rewarded]  # [M, 1], [M, N], ...
        self.columns, self.cells = ["demonstration"], list[Selection]()  # the origin of each column; what to train on
        self._keep(np.flatnonzero(easy))

    def sample(self, rows: np.ndarray, prompts: Prompts, *, hinted: bool = False) -> Drawn:
        """Draw N samples per prompt in `rows`, and add the chosen ones. prompts: their wording, e.g. with a hint."""
        parts, N, M = self.parts, self.parts.num_completions, len(self.source)
        rewards = np.empty((len(rows), N))
        with stage("generate", self.sampler_name, prompts.split, *["hinted"] * hinted):  # and score
            drawn = _draw(parts, prompts, rows, self.sampler, N, {})
            for at, pool in drawn:
                rewards[at] = parts.scorer(parts.train.take(rows[at]), pool).value
        pool = drawn[0][1] if len(drawn) == 1 else scattered(drawn, len(rows))
        paid = difficulty.samples_paid(correct(rewards), stop_at_first_accept=self.stop_at_first_accept)
        seen = np.where(np.arange(N) < paid[:, None], rewards, np.nan)
        samples = Drawn(rows, pool, rewards, paid, seen, np.asarray(correct(seen).any(axis=1)), hinted)

        chosen = self._choose(samples)
        self.source[rows[chosen.row]] = "hinted" if hinted else "samples"
        self.cells.append(Selection(rows[chosen.row], chosen.column + len(self.columns), chosen.weight))
        self.pools.append(scattered([(rows, pool)], M))
        self.rewards.append(np.full((M, N), np.nan))
        self.rewards[-1][rows] = rewards
        self.columns += [f"{self.sampler_name}, hinted" if hinted else self.sampler_name] * N
        return samples

    def fall_back(self, rows: np.ndarray) -> None:
        """Train on the demonstrations of unsolved prompts."""
        self._keep(rows)
        self.source[rows] = "fallback"

    def chosen(self) -> Selection:
        """The selection to train on; BenchError where it is empty."""
        chosen = in_order(self.cells)
        if not len(chosen):
            raise BenchError(
                "No completion to train on: no demonstration is used, and no sample that passes prompt_filter has a "
                f"reward above {CORRECT}; raise num_completions, temperature or procedure.easy_share, or use another "
                "scoring."
            )
        return chosen

    def _keep(self, rows: np.ndarray) -> None:
        self.cells.append(Selection(rows, np.zeros(len(rows), int), np.ones(len(rows))))

    def _choose(self, drawn: Drawn) -> Selection:
        """The run's selection among the accepted samples, from the drawn pool."""
        parts = self.parts
        eligible = parts.prompt_filter(drawn.seen)
        eligible = np.where(correct(eligible), eligible, np.nan)
        if np.isnan(eligible).all():
            return cells(np.zeros(eligible.shape, bool))  # none
        others = self.sampler is not None or drawn.hinted  # evidence is by the base, on the prompts that are trained on
        evidence = parts.evidence(parts.selection, drawn.pool, parts.train.take(drawn.rows) if others else None)
        rng = generator(parts.seed, "selection", *["hinted"] * drawn.hinted)
        return parts.selection(eligible, rng, **evidence)


def _draw(
    parts: Parts, prompts: Prompts, rows: np.ndarray, by: Probe | None, num_completions: int, sampler: dict[str, Any]
) -> list[tuple[np.ndarray, Completions]]:
    """(positions in `rows`, their completions) for each policy that draws. by: the probe; None: the base draws."""
    drawers = [(np.arange(len(rows)), parts.base)] if by is None else list(difficulty.by_fold(by, rows))
    return [
        (at, parts.generation(prompts.take(at), policy, num_completions=num_completions, seed=parts.seed, **sampler))
        for at, policy in drawers
    ]
