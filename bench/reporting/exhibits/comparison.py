"""The main comparison, every paired verdict behind it, and policies that were trained elsewhere."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bench.estimators.bootstrap import UNDEFINED
from bench.estimators.training_seeds import ratio_over_seeds
from bench.records.read import Estimate
from bench.reporting import tables
from bench.reporting.contrasts import GREEDY, SAMPLED, Contrast, in_words, of_group, of_groups, shared_seeds
from bench.reporting.exhibit import Table, shows
from bench.reporting.groups import Group, recorded
from bench.reporting.ranking import Ranked, rank
from bench.reporting.words import ARMS, best_of_n_name, listed, over_what, place_words

FREEDOM = "df: degrees of freedom of the t interval."
POOLED = (
    "With several configurations the variance between seeds' means is pooled over them, as far as they are alike; "
    f"{FREEDOM}"
)
HEADINGS = {"p_value": "p", "freedom": "df", "verdict": "first vs second"}
RAW = 1e-6  # nats: below it the run's sampler is the raw base's own


@shows("tables", 5)
def main(groups: Sequence[Group]) -> Table | None:
    """One configuration: its policies and Best-of-n. Several: one row for each, best first."""
    trained = [group for group in groups if group.trained]
    if len(trained) < 2:
        return policies(trained[0]) if trained else None
    return _configurations(trained)


class _Of(NamedTuple):
    """A group, and what was found of it: its place among configurations, or one of its comparisons."""

    group: Group
    name: str
    found: Ranked | Contrast


class _Row(NamedTuple):
    """A policy, or Best-of-n of the base."""

    group: Group
    arm: str  # base, tuned, control or one from elsewhere; "" for Best-of-n
    n: int

    def mean(self, metric: str) -> Estimate | None:
        """In sampled accuracy or in KL."""
        if not self.arm:
            return self.group.series("base", "best_of_n", metric).get(self.n)
        return self.group.series(self.arm, "pass" if metric == "accuracy" else "policy", metric).get(1)

    def value(self, metric: str) -> float | None:
        """Of Best-of-n, without its interval."""
        found = None if self.arm else self.mean(metric)
        return found.value if found else None

    @property
    def label(self) -> str:
        label = ARMS.get(self.arm, self.arm) or f"Best-of-{self.n}"
        return f"tuned: {self.group.runs[0].selection}" if self.arm == "tuned" else label


def policies(group: Group) -> Table:
    """Each policy and Best-of-n at each n, in accuracy and KL, and the tuned policy against each."""
    contrasts, kept = of_group(group), gain_kept(group)
    kl = group.series("base", "best_of_n", "kl")
    rows = [_Row(group, arm, 1) for arm in ("base", *group.arms, *group.runs[0].elsewhere)]
    sizes = group.series("base", "best_of_n", "accuracy")
    rows += [_Row(group, "", n) for n in sizes if n > 1 or abs(kl[n].value) > RAW]

    def against(row: _Row) -> Contrast | None:
        other = f"{row.arm}/pass@1" if row.arm else f"best_of_{row.n}/accuracy"
        return contrasts.get(f"tuned_vs_{other}")

    def prompts(row: _Row) -> int:
        found = against(row)
        return found.prompts if found else group.runs[0].metrics["test/prompts"]

    made = tables.table(
        "main",
        f"Accuracy of each policy and of {best_of_n_name(group.runs)}, and its KL from the raw base in nats per "
        "sequence. The last columns compare the tuned policy with each row in sampled accuracy, paired on the same "
        f"prompts. {over_what([group])}. p-values other than the control's are adjusted for their number (Holm); "
        "intervals are not. Detectable: the difference that one comparison on these prompts and seeds finds with a "
        "power of 80 %. KL, upper limit: prompts that no sample solved count at the largest pass rate that fits them. "
        "log n bound: log n - (n - 1)/n in place of the measured KL. Share of gain: (tuned - base) / (Best-of-n - "
        f"base), empty where the denominator is not shown to be above 0.{_extrapolated(group)}",
        rows,
        [
            tables.Column("arm", "policy", lambda row: row.label),
            tables.interval("greedy", "greedy accuracy", lambda row: group.mean(row.arm, *GREEDY) if row.arm else None),
            tables.interval("sampled", "sampled accuracy", lambda row: row.mean("accuracy")),
            tables.interval("kl", "KL (nats)", lambda row: row.mean("kl")),
            tables.Column("kl_unsolved", "KL, upper limit", lambda row: row.value("kl_sensitivity")),
            tables.Column("kl_bound", "log n bound", lambda row: row.value("kl_bound")),
            tables.interval("kept", "share of gain", lambda row: None if row.arm else kept.get(row.n)),
            *tables.contrasted(
                against,
                difference=("difference", "tuned - this row"),
                p_value=("p_value", "p"),
                detectable=("detectable", "detectable"),
                verdict=("verdict", "tuned vs this row"),
            ),
            tables.Column("prompts", None if len(set(map(prompts, rows))) == 1 else "prompts", prompts),
            tables.SEEDS,
        ],
    )
    assert made is not None  # the base is always there
    return made


def _extrapolated(group: Group) -> str:
    size = group.runs[0].metrics["best_of_n/pool_size"]
    if all(4 * n <= size for n in group.runs[0].series("base", "best_of_n", "kl")):
        return ""
    return f" KL of Best-of-n beyond n = {size // 4} extrapolates from {size} samples per prompt."


def gain_kept(group: Group) -> dict[int, Estimate | None]:
    """n -> (tuned - base) / (Best-of-n - base) in sampled accuracy for each n above 1: the efficiency of distillation.

    None where Best-of-n's gain is not resolved above 0 or known of fewer than two prompts, and where an older run did
    not record it. Of several seeds the interval is for new seeds on new prompts.
    """
    base, tuned = (group.per_prompt(arm, *SAMPLED) for arm in ("base", "tuned"))  # [S, M]
    shares: dict[int, Estimate | None] = {}
    for n in group.series("base", "best_of_n", "accuracy"):
        if n == 1:
            continue
        gain = group.per_prompt("base", "best_of_n", "accuracy", n) - base
        ratio = recorded(group.runs[0], f"distillation/best_of_{n}")
        if len(group.runs) > 1:
            known = np.isfinite(gain).all(axis=0).sum() > 1
            ratio = Estimate(*(ratio_over_seeds(tuned - base, gain) if known else UNDEFINED))
        shares[n] = ratio if math.isfinite(ratio.value) and np.nanmean(gain) > 0 else None
    return shares


def _configurations(groups: Sequence[Group]) -> Table | None:
    by_label = {group.label: group for group in groups}
    shared, left_out = shared_seeds(by_label)
    if all(group.runs for group in shared.values()):
        ranked, pooled = rank(shared), POOLED
        compared = "Two comparisons, paired by seed and prompt: "
        compared += "tuned with its random control, and the first row with each other"
        note = "The first row was chosen on the prompts shown, so that its lead is likely too large."
        if left_out:
            note += f" Seeds {', '.join(map(str, left_out))} are left out: not every configuration has them."
    else:
        ranked, pooled = rank(by_label, shared=False), FREEDOM
        compared = "Tuned is compared with its random control, paired by seed and prompt"
        note = "No seed is shared by all: they are not compared."

    def sampled(name: str) -> tables.Column:
        return tables.interval(name, f"{name} pass@1", lambda row: row.group.series(name, *SAMPLED[:2]).get(1))

    return tables.table(
        "main",
        f"Sampled accuracy (pass@1) of each configuration, best first. {compared}. {over_what(groups)}. The verdicts "
        "of each kind are adjusted for their number (Holm), intervals are not; 'sampled only': greedy it is not "
        f"resolved. {pooled} Detectable: the difference from the control that one comparison on these prompts and "
        f"seeds finds with a power of 80 %. {note}",
        [_Of(by_label[method.name], method.name, method) for method in ranked],
        [
            *tables.settings_columns(groups),
            tables.Column("seeds", None, lambda row: row.found.seeds),
            tables.interval("tuned", "tuned pass@1", lambda row: row.found.tuned),
            tables.interval("control", "control pass@1", lambda row: row.found.control),
            *map(sampled, dict.fromkeys(name for group in groups for name in group.runs[0].elsewhere)),
            *tables.contrasted(
                lambda row: row.found.effect,
                difference=("effect", "tuned - control"),
                p_value=("p_effect", None),
                freedom=("freedom", "df"),
                detectable=("detectable", "detectable"),
            ),
            tables.Column("effect_verdict", "tuned vs control", lambda row: row.found.effect_verdict),
            *tables.contrasted(
                lambda row: row.found.ahead, difference=("ahead", "first - this row"), p_value=("p_ahead", None)
            ),
            tables.Column("ahead_verdict", "first vs this row", lambda row: row.found.ahead_verdict),
            tables.interval("kl", "KL (nats)", lambda row: row.found.kl),
            tables.PROMPTS,
        ],
        tables.all_runs(groups),
    )


@shows("tables", 140)
def contrasts(groups: Sequence[Group]) -> Table | None:
    """Every paired comparison of every configuration."""
    names = ("difference", "p_value", "freedom", "detectable", "verdict", "prompts", "seeds")
    return tables.table(
        "contrasts",
        f"Every paired comparison. {over_what(groups)}. The primary comparison of a configuration is tuned - random "
        "control in sampled accuracy, or tuned - base where there is no control: it is not adjusted. The p-values and "
        "verdicts of the others are adjusted for their number (Holm), intervals and detectable differences are not. "
        f"{POOLED}",
        [
            _Of(group, *compared)
            for group, own in zip(groups, of_groups(groups), strict=True)
            for compared in own.items()
        ],
        [
            *tables.settings_columns(groups),
            tables.Column("comparison", "comparison", lambda row: " - ".join(in_words(row.name)[:2])),
            tables.Column("of", "metric", lambda row: in_words(row.name)[2]),
            *tables.contrasted(lambda row: row.found, **{n: (n, HEADINGS.get(n, n)) for n in names}),
        ],
        tables.all_runs(groups),
    )


@shows("sentences", 66)
def of_elsewhere(groups: Sequence[Group]) -> list[str]:
    """One sentence for each policy from elsewhere and each sampler of the base, and what is not known of it."""
    lines: dict[object, str] = {}
    for group, contrasts in zip(groups, of_groups(groups), strict=True):
        for name in group.runs[0].elsewhere:
            found = contrasts[f"{name}_vs_base/pass@1"]
            kl = group.series(name, "policy", "kl").get(1)
            tokens = str(group.runs[0].metrics[f"{name}/token_ids"]).removeprefix("another ")
            far = f"its KL from the base is {kl} nats" if kl else f"it has no KL: its {tokens} differs from the base's"
            key = name, group.key_of([(name, "pass", "accuracy", 1), ("base", "pass", "accuracy", 1)])
            line = f"In sampled accuracy, {name}, which was trained elsewhere, is {found.against('the base')}; {far}."
            lines.setdefault(key, line)
    return list(lines.values())


@shows("methods_after", 60)
def methods(groups: Sequence[Group]) -> list[str]:
    """Which policies these are, for the methods paragraph."""
    found = {
        f"{name} ({place_words(place)})": None
        for run in tables.all_runs(groups)
        for name, (_, place, _) in run.elsewhere.items()
    }
    if not found:
        return []
    return [
        f"Policies that were trained elsewhere were judged alike: {listed([*found], 'and')}. "
        "What their training cost is unknown."
    ]
