"""Online training of one run: reward, KL and length of each draw, and its sentence in the methods paragraph."""

from collections.abc import Sequence
from typing import Any

from bench.reporting import plots, style
from bench.reporting.exhibit import Figure, shows
from bench.reporting.groups import Group
from bench.reporting.words import setting_words

MEASURES = {"reward": "mean reward", "kl": "KL from the base (nats per sequence)", "length": "tokens per completion"}
ALGORITHMS = {"grpo": "GRPO [@shao2024]", "rloo": "RLOO [@ahmadian2024]"}


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
    return plots.figure("online", caption, rows, groups, _draw, size, over="")


def _draw(canvas: Any, rows: plots.Rows) -> None:
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
    runs = [group.runs[0] for group in groups if "online/updates" in group.runs[0].metrics]
    return [in_words(run.config, controlled=run.controlled) for run in runs]


def in_words(config: dict[str, Any], *, controlled: bool) -> str:
    """config: of a run with procedure=online."""
    settings, samples = config["procedure"], config["num_completions"]
    group = settings["num_generations"] or samples
    words = {name: setting_words(settings[name]) for name in ("learning_rate", "beta", "prompts_per_update")}
    text = (
        f"The base was trained by {ALGORITHMS[settings['algorithm']]} on its own samples, {group} per prompt in "
        f"each of {samples // group} passes over the prompts, with {words['prompts_per_update']} prompts per update "
        f"(AdamW, learning rate {words['learning_rate']}, KL weight {words['beta']})."
    )
    control = " The random control was trained in the same way, its rewards permuted at random within each prompt."
    return text + control if controlled else text
