"""The main comparison, and every paired verdict behind it."""

from collections.abc import Sequence
from typing import Any

from bench.reporting.contrasts import Contrast, of_group, said
from bench.reporting.distillation import kept
from bench.reporting.exhibit import Table
from bench.reporting.groups import Group
from bench.reporting.ranking import Ranked, rank, shared_seeds
from bench.reporting.tables.shared import ARMS, all_runs, over_what, settings_cells, settings_columns, spread

RAW = 1e-6  # nats: below it the run's sampler is the raw base's own


def main(groups: Sequence[Group]) -> Table:
    """One configuration: its policies and Best-of-n. Several: one row each, best first."""
    return _policies(groups[0]) if len(groups) == 1 else _configurations(groups)


def _policies(group: Group) -> Table:
    against, shares = of_group(group), kept(group)
    rows = []
    for arm, name in ARMS.items():
        if arm == "control" and not group.controlled:
            continue
        label = f"tuned: {group.runs[0].selection}" if arm == "tuned" else name
        rows.append(
            {
                "arm": label,
                **spread("greedy", group.mean(arm, "greedy", "accuracy", 1)),
                **spread("sampled", group.mean(arm, "pass", "accuracy", 1)),
                **spread("kl", group.mean(arm, "policy", "kl", 1)),
                "kl_unsolved": None,
                "kl_bound": None,
                **spread("kept", None),
                **_against(against.get(f"tuned_vs_{arm}/pass@1"), group),
            }
        )
    curves = {
        metric: group.series("base", "best_of_n", metric) for metric in ("accuracy", "kl", "kl_sensitivity", "kl_bound")
    }
    for n, accuracy in curves["accuracy"].items():
        if n == 1 and abs(curves["kl"][1].value) <= RAW:
            continue
        unsolved = curves["kl_sensitivity"].get(n)
        rows.append(
            {
                "arm": f"Best-of-{n}",
                **spread("greedy", None),
                **spread("sampled", accuracy),
                **spread("kl", curves["kl"][n]),
                "kl_unsolved": unsolved.value if unsolved else None,
                "kl_bound": curves["kl_bound"][n].value,
                **spread("kept", shares.get(n)),
                **_against(against.get(f"tuned_vs_best_of_{n}/accuracy"), group),
            }
        )
    return Table(
        name="main",
        caption=(
            f"Accuracy and KL from the raw base of each policy and of Best-of-n, and the tuned policy against each row "
            f"in sampled accuracy, paired on the same prompts. {over_what([group])}. p-values but the control's are "
            f"adjusted for their number (Holm), intervals are not; detectable: the difference that these prompts and "
            "seeds find with a power of 80 % in one comparison alone. KL is in nats a sequence; at most: with prompts "
            "that no sample solved at the largest pass rate that fits them; log n bound: log n - (n - 1)/n in place of "
            "the measured KL; gain kept: the share of Best-of-n's gain over the base that the tuned policy keeps, "
            "(tuned - base) / (Best-of-n - base), "
            f"none where that gain is not resolved from 0.{_extrapolated(group)}"
        ),
        rows=rows,
        runs=group.runs,
        columns={
            "arm": "policy",
            "greedy": "greedy accuracy",
            "sampled": "sampled accuracy",
            "kl": "KL (nats)",
            "kl_unsolved": "KL at most",
            "kl_bound": "log n bound",
            "kept": "gain kept",
            "difference": "tuned - this",
            "p_value": "p",
            "detectable": "detectable",
            "verdict": "tuned is",
        },
    )


def _extrapolated(group: Group) -> str:
    size = group.runs[0].metrics["best_of_n/pool_size"]
    beyond = [n for n in group.runs[0].series("base", "best_of_n", "kl") if 4 * n > size]
    return f" KL of Best-of-n beyond n = {size // 4} extrapolates from {size} samples a prompt." if beyond else ""


def _against(found: Contrast | None, group: Group) -> dict[str, Any]:
    return {
        **spread("difference", found.difference if found else None),
        "p_value": found.p_value if found else None,
        "detectable": found.detectable if found else None,
        "verdict": found.verdict if found else None,
        "prompts": found.prompts if found else group.runs[0].metrics["test/prompts"],
        "seeds": len(group.runs),
    }


def ranked_groups(groups: Sequence[Group]) -> tuple[list[tuple[Group, Ranked]], str]:
    """Groups with their ranks, best first, and a sentence on what was left out so that all have the same seeds.

    Groups that share no seed are each taken alone.
    """
    named = {group.label: group for group in groups}
    runs, left_out = shared_seeds({label: group.runs for label, group in named.items()})
    if all(runs.values()):
        note = (
            f" Seeds {', '.join(map(str, left_out))} are left out: not every configuration has them."
            if left_out
            else ""
        )
        return [(named[one.name], one) for one in rank(runs)], note
    alone = [(group, rank({label: group.runs})[0]) for label, group in named.items()]
    return sorted(alone, key=lambda one: -one[1].tuned.value), " No seed is shared by all: they are not compared."


def _configurations(groups: Sequence[Group]) -> Table:
    ranked, note = ranked_groups(groups)
    rows = [
        {
            **settings_cells(group),
            "seeds": one.seeds,
            **spread("tuned", one.tuned),
            **spread("control", one.control),
            **spread("effect", one.effect.difference if one.effect else None),
            "p_effect": one.effect.p_value if one.effect else None,
            "detectable": one.effect.detectable if one.effect else None,
            "effect_verdict": one.effect_verdict,
            **spread("ahead", one.ahead.difference if one.ahead else None),
            "p_ahead": one.ahead.p_value if one.ahead else None,
            "ahead_verdict": one.ahead_verdict,
            **spread("kl", one.kl),
            "prompts": group.runs[0].metrics["test/prompts"],
        }
        for group, one in ranked
    ]
    return Table(
        name="main",
        caption=(
            f"Sampled accuracy (pass@1) of each configuration, best first: against its random control, and the first "
            f"against it, paired by seed and prompt. {over_what(groups)}. Each of the two families of verdicts is "
            "adjusted for its number (Holm), intervals are not; detectable: the difference from the control that these "
            "prompts and seeds find with a power of 80 % in one comparison alone. The first was chosen by what is "
            f"compared, which flatters it.{note}"
        ),
        rows=rows,
        runs=all_runs(groups),
        columns={
            **settings_columns(groups),
            "tuned": "tuned pass@1",
            "control": "control pass@1",
            "effect": "tuned - control",
            "detectable": "detectable",
            "effect_verdict": "tuned is",
            "ahead": "first - this",
            "ahead_verdict": "first is",
            "kl": "KL (nats)",
        },
    )


def all_contrasts(groups: Sequence[Group]) -> Table:
    """Every paired comparison of every configuration."""
    rows = []
    for group in groups:
        for name, one in of_group(group).items():
            ours, theirs, what = said(name)
            rows.append(
                {
                    **settings_cells(group),
                    "comparison": f"{ours} - {theirs}",
                    "of": what,
                    **spread("difference", one.difference),
                    "p_value": one.p_value,
                    "detectable": one.detectable,
                    "verdict": one.verdict,
                    "prompts": one.prompts,
                    "seeds": one.seeds,
                }
            )
    return Table(
        name="contrasts",
        caption=(
            f"Every paired comparison. {over_what(groups)}. In each configuration the primary comparison (tuned - "
            "control in sampled accuracy; tuned - base where there is no control) is judged on its own, the others "
            "are adjusted for their number (Holm): their p-values and verdicts, while intervals and detectable "
            "differences are those of one comparison alone."
        ),
        rows=rows,
        runs=all_runs(groups),
        columns={
            **settings_columns(groups),
            "comparison": "comparison",
            "of": "of",
            "difference": "difference",
            "p_value": "p",
            "detectable": "detectable",
            "verdict": "verdict",
            "prompts": "prompts",
            "seeds": "seeds",
        },
    )
