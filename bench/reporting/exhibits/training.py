"""Policies along one run's training: on validation prompts, and on the samples of online training."""

from collections.abc import Sequence
from typing import Any

from bench.evaluation.heldout import VALIDATION
from bench.records.read import Run
from bench.reporting import plots, style, tables
from bench.reporting.exhibit import Figure, shows
from bench.reporting.groups import Group
from bench.reporting.words import setting_words

MEASURES = {"reward": "mean reward", "kl": "KL from the base (nats per sequence)", "length": "tokens per completion"}
ALGORITHMS = {"grpo": "GRPO [@shao2024]", "rloo": "RLOO [@ahmadian2024]"}


@shows("of_one_run", 110)
def training(groups: Sequence[Group]) -> Figure | None:
    """Left: accuracy of one sample after so many updates, the highest ringed. Right: the same against measured KL."""
    (run,) = groups[0].runs
    looks = {arm: style.LOOKS[arm] for arm in plots.TITLES} | style.elsewhere(
        [*dict.fromkeys(policy.arm for policy in run.elsewhere.values())]
    )
    rows = [row for arm in looks for row in _rows(run, arm)]
    if not rows:
        return None
    caption = (
        f"Policies along their training on {run.metrics[f'{VALIDATION}/prompts']} validation prompts (run "
        f"{run.folder.name}, seed {run.config['seed']}); 0 updates is the base. Ringed: the highest accuracy, which, "
        "as the best of several, is a little lower on other prompts. Bars: 95 % intervals over prompts."
    )
    best = {arm: run.metrics.get(f"{arm}/{VALIDATION}_best_updates") for arm in looks}
    size = style.FULL_WIDTH, 0.36 * style.FULL_WIDTH
    return plots.figure(
        "training", caption, rows, groups, lambda canvas, rows: _draw(canvas, rows, best, looks), size, over=""
    )


def _rows(run: Run, arm: str) -> plots.Rows:
    curves = {name: run.series(arm, VALIDATION, name) for name in ("accuracy", "greedy_accuracy", "kl")}
    return [
        {"arm": arm, "updates": updates}
        | {key: end for name, curve in curves.items() for key, end in tables.spread(name, curve.get(updates)).items()}
        for updates in curves["accuracy"]
    ]


def _draw(canvas: Any, rows: plots.Rows, best: dict[str, int | None], looks: dict[str, style.Look]) -> None:
    panels = plots.grid_of(canvas, 2, sharey=True)
    titles = {"updates": "updates", "kl": "KL from the base (nats per sequence)"}
    for axes, (x, title) in zip(panels, titles.items(), strict=True):
        for arm, look in looks.items():
            points = [row for row in plots.where(rows, arm=arm) if row[x] is not None]
            if points:
                plots.line(axes, points, x, "accuracy", look, label=plots.TITLES.get(arm, arm))
            for row in plots.where(points, updates=best[arm]):
                ring = style.Look(look.colour, "o", "none")
                point = plots.bare([row], x, "accuracy")
                plots.line(axes, point, x, "accuracy", ring, markersize=9, markerfacecolor="none")
        axes.set_xlabel(title)
    plots.name_axes(panels, y="accuracy on validation prompts")


@shows("of_one_run", 105)
def online(groups: Sequence[Group]) -> Figure | None:
    """Reward, KL and length of the samples of each update, against the samples drawn so far."""
    (run,) = groups[0].runs
    if "online/updates" not in run.metrics:
        return None
    rows = [{name: row[name] for name in ("arm", "samples", *MEASURES)} for row in run.rows("online.parquet")]
    caption = (
        f"Samples that the policy drew as it was being trained (run {run.folder.name}, seed {run.config['seed']}), one "
        "point per draw. The KL is the mean log-ratio to the base, on the training prompts."
    )
    size = style.FULL_WIDTH, 0.32 * style.FULL_WIDTH
    return plots.figure("online", caption, rows, groups, _draw_online, size, over="")


def _draw_online(canvas: Any, rows: plots.Rows) -> None:
    panels = plots.grid_of(canvas, len(MEASURES))
    for axes, (measure, title) in zip(panels, MEASURES.items(), strict=True):
        for arm, name in plots.TITLES.items():
            if points := plots.where(rows, arm=arm):
                plots.line(axes, points, "samples", measure, style.LOOKS[arm], label=name, markersize=3)
        axes.set_ylabel(title)
    plots.name_axes(panels, x="samples drawn")


@shows("methods_after", 45)
def methods(groups: Sequence[Group]) -> list[str]:
    """How the policy was trained online, for the methods paragraph."""
    lines = []
    for run in (group.runs[0] for group in groups if "online/updates" in group.runs[0].metrics):
        settings, samples = run.config["procedure"], run.config["num_completions"]
        drawn = settings["num_generations"] or samples
        rate, weight, together = (setting_words(settings[n]) for n in ("learning_rate", "beta", "prompts_per_update"))
        control = " The random control was trained in the same way, its rewards permuted at random within each prompt."
        lines.append(
            f"The base was trained by {ALGORITHMS[settings['algorithm']]} on its own samples, {drawn} per prompt in "
            f"each of {samples // drawn} passes over the prompts, with {together} prompts per update (AdamW, learning "
            f"rate {rate}, KL weight {weight}).{control * run.controlled}"
        )
    return lines
