"""What the records show, in sentences: each with its interval, and "not resolved" where nothing is shown."""

import math
from collections.abc import Sequence

import numpy as np

from bench.estimators.uncertainty import resampled_means
from bench.records.read import Run, short
from bench.reporting import hybrids, mixes, overoptimisation, transfer
from bench.reporting.contrasts import Contrast, contrast, of_group, primary_of
from bench.reporting.distillation import sentence as sentence_of_distillation
from bench.reporting.figures.pessimism import of_pessimism
from bench.reporting.groups import Group, grouped
from bench.reporting.ranking import Ranked, flattery, primary_of_first, rank, shared_seeds
from bench.reporting.scorer_words import scorers_known
from bench.reporting.tables.adaptive import of_adaptive
from bench.reporting.tables.shared import split
from bench.reporting.ways import scorers
from bench.seeds import generator


def verdicts(runs: Sequence[Run]) -> list[str]:
    """The main findings first, one sentence or two each; BenchError where runs can't stand side by side."""
    groups = grouped(runs)
    lines = _of_one(groups[0]) if len(groups) == 1 else _of_several(groups)
    learned = overoptimisation.sentences(scorers(groups)) if len(runs) > 1 else []
    return [
        *_of_nothing_right(groups),
        *hybrids.sentences(groups),
        *mixes.of_mixes(groups),
        *lines,
        *of_adaptive(groups),
        *transfer.sentences(groups),
        *scorers_known(groups),
        *learned,
    ]


def _of_nothing_right(groups: Sequence[Group]) -> list[str]:
    """More often answers in another form than asked for than a base that can do nothing."""
    coverage = [group.series("base", "pass", "accuracy") for group in groups]
    if any(of_k[max(of_k)].value > 0 for of_k in coverage):
        return []
    return ["No sample of the base is right: see in samples.parquet whether answers stand as the task reads them."]


def _of_one(group: Group, primary: Contrast | None = None) -> list[str]:
    """primary: its primary comparison, where that was adjusted for what the group was chosen among."""
    found = of_group(group)
    if primary is not None:
        found[primary_of(group)] = primary
    largest = max(group.series("base", "best_of_n", "accuracy"))
    lines = [
        _of_selection(group, found),
        _of_best_of_n(found),
        *sentence_of_distillation(group),
        *_equal_kl(group),
        break_even(group, found),
        *_of_bound(group, largest),
        *_of_coverage(group),
        *of_pessimism(group),
    ]
    return [line for line in lines if line]


def _of_selection(group: Group, found: dict[str, Contrast]) -> str:
    name = group.runs[0].selection
    against = "its random control" if group.controlled else "the base"
    line = f"Fine-tuned on {name}, the policy is {_against(found[primary_of(group)], against)} in sampled accuracy"
    if group.controlled and "tuned_vs_base/pass@1" in found:
        line += f", and {_against(found['tuned_vs_base/pass@1'], 'the base')}"
    return f"{line}{_over(group)}."


def _against(one: Contrast, whom: str) -> str:
    """e.g. "better than the base (+.21 [.17, .24])"."""
    if one.verdict == "not resolved":
        return f"not resolved from {whom}{one.adjustment} ({_signed(one)}; {one.power})"
    return f"{one.verdict} than {whom} ({_signed(one)})"


def _signed(one: Contrast) -> str:
    return f"{'+' if one.difference.value > 0 else ''}{one.difference}"


def _over(group: Group) -> str:
    seeds = len(group.runs)
    of = f"{group.runs[0].metrics['test/prompts']} {split([group])} prompts"
    return f" ({of}, {seeds} seed{'s' if seeds > 1 else ''})"


def _of_best_of_n(found: dict[str, Contrast]) -> str:
    by_verdict: dict[str, list[str]] = {}
    for name, one in found.items():
        if name.startswith("tuned_vs_best_of_"):
            n = name.removeprefix("tuned_vs_best_of_").partition("/")[0]
            by_verdict.setdefault(one.verdict, []).append(n)
    words = {"better": "better than", "not resolved": "not resolved from", "worse": "worse than"}
    parts = [f"{words[verdict]} n = {_listed(by_verdict[verdict])}" for verdict in words if verdict in by_verdict]
    return f"One sample of it is, against Best-of-n of the base, {'; '.join(parts)}." if parts else ""


def _equal_kl(group: Group) -> list[str]:
    """At which KL Best-of-n is as accurate as the tuned policy, with an interval over prompts at these seeds."""
    curves = {metric: group.series("base", "best_of_n", metric) for metric in ("accuracy", "kl")}
    sizes = sorted(curves["accuracy"])
    own = group.mean("tuned", "policy", "kl", 1)
    columns = [
        group.per_prompt("base", "best_of_n", metric, n).mean(axis=0) for metric in ("accuracy", "kl") for n in sizes
    ]
    columns.append(group.per_prompt("tuned", "pass", "accuracy", 1).mean(axis=0))
    values = np.stack(columns, axis=1)  # [M, 2 · sizes + 1]
    k = len(sizes)
    centre = np.nanmean(values, axis=0)
    at = _kl_at(sizes, centre[None, :k], centre[None, k:-1], centre[-1:])[0]
    distance = f"It is {own} nats a sequence from the base"
    if not math.isfinite(at):
        return [f"{distance}; no Best-of-n up to n = {sizes[-1]} is as accurate."]
    if centre[-1] <= centre[0]:
        return [f"{distance}."]
    means = resampled_means(values, generator(0, "equal accuracy"))
    drawn = _kl_at(sizes, means[:, :k], means[:, k:-1], means[:, -1])
    low, high = (float(end) for end in np.quantile(drawn, [0.025, 0.975], method="nearest"))
    ends = f"[{short(low)}, {short(high)}]" if math.isfinite(high) else f"[{short(low)}, beyond n = {sizes[-1]}]"
    return [f"{distance}; Best-of-n is as accurate at {short(float(at))} {ends} nats."]


def _kl_at(sizes: Sequence[int], accuracy: np.ndarray, kl: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """[B]: KL where each accuracy curve [B, K] first reaches `wanted` [B], linear in between; inf where it never does.

    A curve that begins above it gives its first KL.
    """
    reached = accuracy >= wanted[:, None]
    first = reached.argmax(axis=1)
    rows, before = np.arange(len(accuracy)), np.maximum(first - 1, 0)
    rise = accuracy[rows, first] - accuracy[rows, before]
    part = np.divide(wanted - accuracy[rows, before], rise, out=np.zeros(len(rise)), where=rise > 0)
    found = kl[rows, before] + part * (kl[rows, first] - kl[rows, before])
    return np.where(reached.any(axis=1), found, np.inf)


def break_even(group: Group, found: dict[str, Contrast]) -> str:
    """After how many queries fine-tuning is cheaper in FLOPs than the Best-of-n that is as accurate.

    Nothing is claimed where the comparison behind it is not resolved. Several seeds give a range, not an interval.
    """
    sizes = sorted(group.series("base", "best_of_n", "accuracy"))
    first = found.get(f"tuned_vs_best_of_{sizes[0]}/accuracy")
    metrics = [run.metrics for run in group.runs]
    if any("break_even/n" not in one for one in metrics) or first is None:
        return ""
    if first.verdict == "worse":
        return "It never pays: one sample of the base is more accurate."
    if first.verdict == "not resolved":
        return "No break-even is given: that it beats one sample of the base is not resolved."
    queries = [one["break_even/queries"] for one in metrics]
    if any(one is None for one in queries):
        of = "" if len(metrics) == 1 else f" under {sum(one is None for one in queries)} of {len(metrics)} seeds"
        return f"No break-even is given: no Best-of-n up to n = {sizes[-1]} is as accurate{of}."
    if len(metrics) == 1:
        (one,) = metrics
        n = f"{one['break_even/n']:.3g} [{_end(one['break_even/n_low'])}, {_end(one['break_even/n_high'], 'above')}]"
        low = "fewer" if one["break_even/queries_low"] is None else f"{one['break_even/queries_low']:,}"
        high = one["break_even/queries_high"]
        ends = f"[{low}, {'never' if high is None else f'{high:,}'}]"
        return f"It is as accurate as Best-of-{n} and costs fewer FLOPs after {queries[0]:,} {ends} queries."
    sizes_matched = sorted(one["break_even/n"] for one in metrics)
    return (
        f"It is as accurate as Best-of-{sizes_matched[0]:.3g} to {sizes_matched[-1]:.3g} and costs fewer FLOPs after "
        f"{min(queries):,} to {max(queries):,} queries (range over {len(metrics)} seeds)."
    )


def _end(value: float | None, missing: str = "below") -> str:
    return f"{missing} all" if value is None else f"{value:.3g}"


def _of_bound(group: Group, n: int) -> list[str]:
    if n == 1:
        return []
    kl, bound = (group.per_prompt("base", "best_of_n", metric, n) for metric in ("kl", "kl_bound"))
    over = contrast(bound, kl, f"bound {n}")
    if over.difference.low <= 0:
        return []
    return [
        f"The log n bound puts Best-of-{n} at {short(float(np.nanmean(bound)))} nats from the base, {over.difference} "
        f"more than the {short(float(np.nanmean(kl)))} measured."
    ]


def _of_coverage(group: Group) -> list[str]:
    """What fine-tuning does to the share of prompts that the most samples measured solve: one comparison of its own."""
    k = max(group.series("tuned", "pass", "accuracy"))
    if k == 1:
        return []
    tuned, base = (group.per_prompt(arm, "pass", "accuracy", k) for arm in ("tuned", "base"))
    one = contrast(tuned, base, f"pass@{k}")
    return [f"In pass@{k} it is {_against(one, 'the base')}."]


def _of_several(groups: Sequence[Group]) -> list[str]:
    named = names(groups)
    runs, _ = shared_seeds({label: group.runs for label, group in named.items()})
    if not all(runs.values()):
        return ["The configurations share no seed, so they are not compared with one another."]
    ranked = rank(runs)
    best = named[ranked[0].name]
    shown = Group(best.settings, tuple(runs[ranked[0].name]))
    lines = [_of_first(ranked, _over(shown)), *_of_choice(runs, len(ranked)), *_of_controls(ranked)]
    primary = primary_of_first(
        ranked, {name: Group(named[name].settings, tuple(found)) for name, found in runs.items()}
    )
    whom = "its control" if shown.controlled else "the base"
    return [
        *lines,
        *(f"The first, {ranked[0].name}: {line}" for line in _of_one(shown, primary)),
        f"Of these comparisons of the first, that with {whom} in sampled accuracy is adjusted for the {len(ranked)} "
        "configurations that it was chosen among, the others are not.",
    ]


def names(groups: Sequence[Group]) -> dict[str, Group]:
    """What sets each group apart; where that is one part's name, without saying which part."""
    labels = [list(group.settings.values()) for group in groups]
    alone = all(len(label) == 1 and label[0][:1].isalpha() for label in labels)
    return {(label[0] if alone else group.label): group for label, group in zip(labels, groups, strict=True)}


def _of_first(ranked: Sequence[Ranked], over: str) -> str:
    first, *others = ranked
    behind = [one.name for one in others if one.ahead_verdict == "better"]
    level = [one.name for one in others if one.ahead_verdict != "better"]
    line = f"Of {len(ranked)} configurations, {first.name} has the highest sampled accuracy, {first.tuned}{over}: "
    if not level:
        return f"{line}better than all others."
    if not behind:
        return f"{line}not resolved from any other."
    return f"{line}better than {len(behind)} ({_listed(behind)}), not resolved from {len(level)} ({_listed(level)})."


def _of_choice(runs: dict[str, list[Run]], configurations: int) -> list[str]:
    found = flattery(runs)
    if found is None:
        return []
    score, gap = found
    return [
        f"Chosen among the {configurations} on one half of the prompts, the best scores {short(score)} on the other "
        f"half: choosing flatters it by {short(gap)}."
    ]


def _of_controls(ranked: Sequence[Ranked]) -> list[str]:
    controlled = [one for one in ranked if one.effect is not None]
    if not controlled:
        return []
    parts = []
    for verdict in ("better", "not resolved", "worse"):
        found = [one.name for one in controlled if one.effect_verdict == verdict]
        if found:
            parts.append(f"{len(found)} {'is' if len(found) == 1 else 'are'} {verdict} ({_listed(found)})")
    return [f"Each against its random control: of {len(controlled)}, {'; '.join(parts)}."]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
