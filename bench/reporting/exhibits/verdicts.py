"""The main findings in sentences: one configuration against its control, the base and Best-of-n; several by rank."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from bench.estimators.bootstrap import resampled_means
from bench.estimators.compute import first_reached
from bench.records.read import short
from bench.reporting.contrasts import IN_WORDS, SAMPLED, Contrast, of_group, of_groups, primary_of, shared_seeds
from bench.reporting.exhibit import shows
from bench.reporting.exhibits.by_n import of_bound, of_pessimism
from bench.reporting.exhibits.comparison import gain_kept
from bench.reporting.exhibits.compute import of_break_even
from bench.reporting.exhibits.coverage import of_coverage
from bench.reporting.groups import Group
from bench.reporting.ranking import Ranked, flattery, primary_of_first, rank
from bench.reporting.words import counted, ended, listed, split
from bench.seeds import generator

SHORT = 100  # characters of configurations' names: where they are longer, a sentence gives their number alone


@shows("sentences", 62)
def verdicts(groups: Sequence[Group]) -> list[str]:
    """Of one configuration: what it gains. Of several: their order, and what the first gains."""
    trained = [group for group in groups if group.trained]
    return of_one(trained[0], of_group(trained[0])) if len(trained) == 1 else _of_several(trained) if trained else []


def of_one(group: Group, contrasts: Mapping[str, Contrast]) -> list[str]:
    return [
        _of_selection(group, contrasts),
        *_of_best_of_n(contrasts),
        *of_gain_kept(group),
        *_of_equal_kl(group),
        *of_break_even(group, contrasts),
        *of_bound(group),
        *of_coverage(group),
        *of_pessimism(group),
    ]


def _of_selection(group: Group, contrasts: Mapping[str, Contrast]) -> str:
    against = contrasts[primary_of(group)].against("its random control" if group.controlled else "the base")
    line = f"In sampled accuracy ({_over(group)}), the policy fine-tuned with {group.runs[0].selection} is {against}"
    if group.controlled and "tuned_vs_base/pass@1" in contrasts:
        line += f", and {contrasts['tuned_vs_base/pass@1'].against('the base')}"
    return f"{line}."


def _over(group: Group) -> str:
    return f"{group.runs[0].metrics['test/prompts']} {split([group])} prompts, {counted(len(group.runs), 'seed')}"


def _of_best_of_n(contrasts: Mapping[str, Contrast]) -> list[str]:
    by_verdict: dict[str, list[str]] = {}
    for name, found in contrasts.items():
        if name.startswith("tuned_vs_best_of_"):
            n = name.removeprefix("tuned_vs_best_of_").partition("/")[0]
            by_verdict.setdefault(found.verdict, []).append(n)
    parts = [
        f"{words} Best-of-n at n = {', '.join(by_verdict[key])}" for key, words in IN_WORDS.items() if key in by_verdict
    ]
    return [f"One sample of the tuned policy is {'; it is '.join(parts)}."] if parts else []


def of_gain_kept(group: Group) -> list[str]:
    """How much of the largest n's gain it keeps; or that there is no such share, where no gain is shown."""
    n, share = max(gain_kept(group).items(), default=(1, None))
    if share is not None:
        kept = ended(share, short, "no bound", "no bound")
        if share.value <= 0:
            return [f"The tuned policy is not above the base, so it keeps none of Best-of-{n}'s gain (share {kept})."]
        if not share.low > 0:
            return [f"The tuned policy is not shown to keep a part of Best-of-{n}'s gain over the base (share {kept})."]
        return [f"The tuned policy's gain over the base is {kept} times Best-of-{n}'s."]
    if f"distillation/best_of_{n}" not in group.runs[0].metrics:
        return []
    return [f"Best-of-{n} is not shown to be above the base, so no share of its gain is given."]


def _of_equal_kl(group: Group) -> list[str]:
    """At which KL Best-of-n is as accurate as the tuned policy, with an interval over prompts at these seeds."""

    def of(metric: str, n: int) -> np.ndarray:
        return group.per_prompt("base", "best_of_n", metric, n).mean(axis=0)

    known = {n: np.isfinite(of("accuracy", n)).sum() for n in group.series("base", "best_of_n", "accuracy")}
    sizes = [n for n in known if 2 * known[n] >= max(known.values())]  # of a larger n few prompts would be left
    columns = [of(metric, n) for metric in ("accuracy", "kl") for n in sizes]
    columns.append(group.per_prompt("tuned", *SAMPLED).mean(axis=0))
    values = np.stack(columns, axis=1)  # [M, 2 · sizes + 1]
    k, values = len(sizes), values[~np.isnan(values).any(axis=1)]  # the same prompts on both sides
    if not len(values):
        return []  # completions from elsewhere, whose KL is not known
    centre = values.mean(axis=0)
    at = float(first_reached(centre[None, :k], centre[None, k:-1], centre[-1:])[0])
    distance = f"The tuned policy's KL from the base is {group.mean('tuned', 'policy', 'kl', 1)} nats per sequence"
    if not math.isfinite(at):
        return [f"{distance}; no Best-of-n up to n = {sizes[-1]} is shown to be as accurate."]
    if centre[-1] <= centre[0]:
        return [f"{distance}."]
    means = resampled_means(values, generator(0, "equal accuracy"))
    resampled = first_reached(means[:, :k], means[:, k:-1], means[:, -1])
    low, high = (float(end) for end in np.quantile(resampled, [0.025, 0.975], method="nearest"))
    end = short(high) if math.isfinite(high) else f"beyond n = {sizes[-1]}"
    return [f"{distance}; Best-of-n reaches the same accuracy at {short(at)} [{short(max(low, 0.0))}, {end}] nats."]


def names(groups: Sequence[Group]) -> dict[str, Group]:
    """The settings that set each group apart; where that is one part's name, without saying which part."""
    labels = [list(group.settings.values()) for group in groups]
    alone = all(len(label) == 1 and label[0][:1].isalpha() for label in labels)
    return {(label[0] if alone else group.label): group for label, group in zip(labels, groups, strict=True)}


def _of_several(groups: Sequence[Group]) -> list[str]:
    named = names(groups)
    shared, _ = shared_seeds(named)
    if not all(group.runs for group in shared.values()):
        seeds = [run.config["seed"] for group in groups for run in group.runs]
        common = max(sorted(set(seeds)), key=seeds.count)
        rest = [name for name, group in named.items() if all(run.config["seed"] != common for run in group.runs)]
        if seeds.count(common) == 1:
            return ["No two configurations share a seed, so they are not compared with one another."]
        kept = _of_several([group for name, group in named.items() if name not in rest])
        return [f"Not compared, without a seed that the other configurations share: {listed(rest, 'and')}.", *kept]
    ranked = rank(shared)
    first = shared[ranked[0].name]
    of_each = dict(zip(shared, of_groups([*shared.values()]), strict=True))
    contrasts = of_each[ranked[0].name] | {primary_of(first): primary_of_first(ranked, shared)}
    whom = "its random control" if first.controlled else "the base"
    who = ranked[0].name if 3 * len(ranked[0].name) <= SHORT else "The most accurate"
    return [
        _of_first(ranked, _over(first)),
        *_of_choice(shared),
        *_of_controls(ranked),
        *(f"{who}: {line}" for line in of_one(first, contrasts)),
        f"It was chosen among {len(ranked)} configurations: only its comparison with {whom} in sampled accuracy is "
        "adjusted for that choice.",
    ]


def _of_first(ranked: Sequence[Ranked], over: str) -> str:
    best, *others = ranked
    behind, level = (
        [
            _scoped(other.name, other.ahead)
            for other in others
            if other.ahead and (other.ahead.verdict == "better") == so
        ]
        for so in (True, False)
    )
    line = f"The most accurate of {len(ranked)} configurations is {best.name}: sampled accuracy {best.tuned} ({over}), "
    if not level:
        less = [other.name for other in others if other.ahead and other.ahead.scope]
        return f"{line}better than all others{f', but greedy not than {_named(less)}' if less else ''}."
    if not behind:
        return f"{line}not shown to differ from any other."
    return f"{line}better than {_named(behind)} and not shown to differ from {_named(level)}."


def _scoped(name: str, found: Contrast) -> str:
    return f"{name} ({found.scope})" if found.scope else name


def _named(names: Sequence[str]) -> str:
    """The names of configurations, or their number where the names are long."""
    joined = listed(names, "and")
    return joined if len(joined) <= SHORT else f"{len(names)} of them"


def _of_choice(groups: Mapping[str, Group]) -> list[str]:
    flattered = flattery(groups)
    if flattered is None:
        return []
    score, gap = flattered
    less = f"{short(gap)} less than" if gap >= 0.0005 else "no less than"
    return [
        f"The most accurate of the {len(groups)} on one half of the prompts scores {short(score)} on the other half, "
        f"{less} on the half that chose it."
    ]


def _of_controls(ranked: Sequence[Ranked]) -> list[str]:
    controlled = [(method.name, method.effect) for method in ranked if method.effect is not None]
    parts = []
    for verdict, words in IN_WORDS.items():
        names = [_scoped(name, effect) for name, effect in controlled if effect.verdict == verdict]
        if names:
            parts.append(f"{_named(names)} {'is' if len(names) == 1 else 'are'} {words.rpartition(' ')[0]}")
    return [f"Each compared with its own random control: {'; '.join(parts)}."] if parts else []
