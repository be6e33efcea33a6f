"""Tables of one run, from its records, as aligned Markdown."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.estimators.uncertainty import seed_interval
from bench.reporting.collect import Estimate, Run

RAW = 1e-6  # nats: below it the run's sampler is the raw base's own
PLACES = ("store", "outputs", "name", "tracking")


def main_table(run: Run) -> str:
    """Base, fine-tuned policy, its random twin and Best-of-N at each n: accuracy and KL, with 95 % intervals.

    Best-of-1 is a row of its own where the run's sampler is not the raw base, which the policies are sampled like.
    """
    names = {"base": "base", "tuned": f"tuned: {run.selection}", "control": "control: random twin"}
    rows: list[tuple[str, ...]] = [
        ("policy", "greedy accuracy", "sampled accuracy", "KL, nats/sequence", "KL bound", "tuned is")
    ]
    for arm, name in names.items():
        if arm == "control" and not run.controlled:
            continue
        rows.append(
            (
                name,
                str(run.series(arm, "greedy", "accuracy")[1]),
                str(run.series(arm, "pass", "accuracy")[1]),
                str(run.series(arm, "policy", "kl")[1]),
                "",
                run.metrics.get(f"tuned_vs_{arm}/pass@1/verdict", ""),
            )
        )
    accuracy, kl, bound = (run.series("base", "best_of_n", metric) for metric in ("accuracy", "kl", "kl_bound"))
    rows += [
        (
            f"Best-of-{n}",
            "",
            str(accuracy[n]),
            str(kl[n]),
            f"{bound[n].value:.2f}",
            run.metrics[f"tuned_vs_best_of_{n}/accuracy/verdict"],
        )
        for n in accuracy
        if n > 1 or abs(kl[1].value) > RAW
    ]
    return markdown(rows)


def headline(run: Run) -> str:
    """One line: the tuned policy's accuracy and KL, and what the selection did."""
    difference, verdict = _selection_effect(run)
    against = f", {difference} over control: {verdict}" if difference else ""
    return (
        f"tuned pass@1 {run.series('tuned', 'pass', 'accuracy')[1]}{against}; "
        f"KL {run.series('tuned', 'policy', 'kl')[1].value:.2f} nats"
    )


def runs_table(runs: Sequence[Run]) -> str:
    """One row a run, by what differs in their settings: both arms' accuracy and the paired selection effect.

    Runs that differ in nothing but the seed, and have a control, get a last row: their mean, with an interval for new
    seeds on new prompts.
    """
    settings = {run.folder: _flat(run.config) for run in runs}
    differing = _differing(list(settings.values()))
    runs = sorted(runs, key=lambda run: [str(settings[run.folder].get(key)) for key in differing])
    effects = (("tuned", "pass"), ("control", "pass"), ("tuned", "greedy"), ("control", "greedy"))
    names = ("tuned pass@1", "control pass@1", "tuned greedy", "control greedy")
    rows = [("run", *(key.removesuffix("._target_") for key in differing), *names, "tuned - control", "verdict")]
    for run in runs:
        rows.append(
            (
                run.folder.name,
                *(str(settings[run.folder].get(key)).removeprefix("bench.selection.") for key in differing),
                *(_accuracy(run, *effect) for effect in effects),
                *_selection_effect(run),
            )
        )
    if differing == ["seed"] and all(run.controlled for run in runs):
        scores = [np.stack([run.per_prompt(*effect, "accuracy", 1) for run in runs]) for effect in effects]  # [S, M]
        means = [seed_interval(values) for values in (*scores, scores[0] - scores[1])]
        estimates = [Estimate(found.mean, found.low, found.high) for found in means]
        verdict = "better" if estimates[-1].low > 0 else "worse" if estimates[-1].high < 0 else "not resolved"
        rows.append(("mean", f"all {len(runs)}", *map(str, estimates), verdict))
    return markdown(rows)


def _accuracy(run: Run, arm: str, method: str) -> str:
    return str(run.series(arm, method, "accuracy")[1]) if arm != "control" or run.controlled else ""


def _selection_effect(run: Run) -> tuple[str, str]:
    """Tuned less control with its interval, and the verdict on it."""
    if not run.controlled:
        return "", "no control"
    ends = (run.metrics[f"tuned_vs_control/pass@1/difference{end}"] for end in ("", "_low", "_high"))
    return str(Estimate(*ends)), run.metrics["tuned_vs_control/pass@1/verdict"]


def _differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Keys of settings that are not alike in all, without those that only repeat one at the top, e.g. policy.seed."""

    def inherited(key: str) -> bool:
        top = key.rsplit(".", 1)[-1]
        return top != key and all(setting.get(key) == setting.get(top) for setting in settings)

    keys = dict.fromkeys(key for setting in settings for key in setting)
    different = [key for key in keys if len({str(setting.get(key)) for setting in settings}) > 1]
    return [key for key in different if key.split(".")[0] not in PLACES and not inherited(key)]


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in node.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def markdown(rows: Sequence[tuple[str, ...]]) -> str:
    """The first row is the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
