"""Runs in rounds: accuracy, diversity, KL and entropy after each round, and what each round trained on."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from bench.records.read import Estimate
from bench.reporting import arrange, plots, style, tables
from bench.reporting.axes import NONE, Wanted, choice
from bench.reporting.exhibit import Figure, Table, shows
from bench.reporting.groups import Group
from bench.reporting.words import ARMS

KL = "KL from the base (nats per sequence)"
APART = 0.05  # rounds between the lines of two groups, so that their bars can be told apart
COUNTED = {
    "kept": "trained on",
    "kept_correct": "of it right",
    "distinct_paths": "distinct paths",
    "pool_reward": "mean reward",
    "validation_pass@1": "pass@1 on validation",
}
STARTS = {"base": "the base", "current": "the policy of the round before"}
TRAINED_ON = {
    "union": "what all rounds selected",
    "last": "what this round selected",
    "best": "what is selected from all that was drawn so far",
}


class RoundStep(NamedTuple):
    """One arm of a group after one round; the base is round 0."""

    group: Group
    arm: str
    round: int
    policy: str  # base, round_1, round_1_control, ...: as the records call it

    def mean(self, method: str, metric: str, n: int = 1) -> Estimate:
        return self.group.mean(self.policy, method, metric, n)


def steps(groups: Sequence[Group]) -> list[RoundStep]:
    """Every round of every group that has rounds: tuned and, where there is one, control.

    Rounds that only some of a group's seeds ran are left out.
    """
    made = []
    for group in groups:
        rounds = min(int(run.metrics.get("rounds/run", 0)) for run in group.runs)
        for arm in group.arms if rounds else ():
            suffix = "" if arm == "tuned" else f"_{arm}"
            policies = ["base", *(f"round_{number}{suffix}" for number in range(1, rounds + 1))]
            made += [RoundStep(group, arm, number, policy) for number, policy in enumerate(policies)]
    return made


def most_samples(found: Sequence[RoundStep]) -> int:
    """The largest k of pass@k that all of their policies have."""
    series = (run.series(step.policy, "pass", "accuracy") for step in found for run in step.group.runs)
    return min(map(max, series), default=1)


@shows("figures", 40)
def rounds_figure(groups: Sequence[Group], axes: Wanted = NONE) -> Figure | None:
    """Four panels over the round with a line for each group; None where no run went in rounds.

    Over "kl": three panels over the KL from the base that each round reached.
    """
    found, x = steps(groups), choice("rounds", axes, ["round", "kl"])
    if not found:
        return None
    k = most_samples(found)
    panels = {
        "pass@1": ("pass", "accuracy", 1),
        f"pass@{k}": ("pass", "accuracy", k),
        KL: ("policy", "kl", 1),
        "entropy (nats per sequence)": ("policy", "entropy", 1),
    }
    if x == "kl":
        del panels[KL]
    rows = [
        {"settings": step.group.label, "arm": step.arm, "round": step.round, "measure": label}
        | (tables.spread("kl", step.mean("policy", "kl")) if x == "kl" else {})
        | dict(zip(("value", "low", "high"), vars(step.mean(*cell)).values(), strict=True))
        for same in arrange.alike(found, lambda step: (id(step.group), step.arm))
        for label, cell in panels.items()
        for step in same
    ]
    controlled = any(step.arm == "control" for step in found)
    names = {group.label: arrange.named(group) or "tuned" for group in groups}
    return plots.figure(
        "rounds",
        "Policies after each round of rejection sampling; round 0 is the base."
        + " Thin: the random control's own rounds." * controlled,
        rows,
        [step.group for step in found],
        lambda canvas, rows: _draw(canvas, rows, names, x),
        (style.FULL_WIDTH, (0.65 if x == "round" else 0.4) * style.FULL_WIDTH),
        series="settings",
        axes={"x": x},
    )


def _draw(canvas: Any, rows: plots.Rows, names: dict[str, str], x: str) -> None:
    settings, measures = plots.values_of(rows, "settings"), plots.values_of(rows, "measure")
    panels = plots.grid_of(canvas, len(measures), sharex=True)
    for axes, measure in zip(panels, measures, strict=True):
        for place, (name, look) in enumerate(style.sequence(settings).items()):
            points = [
                {"arm": row["arm"], "x": row[x] + (plots.nudge(place, len(settings), APART) if x == "round" else 0.0)}
                | {f"y{end}": row[key] for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))}
                for row in plots.where(rows, settings=name, measure=measure)
            ]
            plots.line(axes, plots.where(points, arm="tuned"), "x", "y", look, label=names[name], linewidth=1.2)
            if control := plots.bare(plots.where(points, arm="control"), "x", "y"):
                plots.line(axes, control, "x", "y", look, marker="", linewidth=0.6, zorder=1)
        axes.set_ylabel(measure)
        if x == "round":
            axes.set_xticks(range(1 + max(row["round"] for row in rows)))
    plots.name_axes(panels, "round" if x == "round" else KL)


@shows("tables", 40)
def rounds_table(groups: Sequence[Group]) -> Table | None:
    """A row for each round and arm, the base as round 0; None where no run went in rounds."""
    found = steps(groups)
    k, columns = most_samples(found), list(itertools.starmap(_counted, COUNTED.items()))
    return tables.table(
        "rounds",
        "Rounds of rejection sampling; round 0 is the base. {over}. KL is from the original base, in nats per "
        "sequence; entropy in nats per token; correct paths are distinct ones in "
        f"{k} samples per prompt. The number of completions that a round trained on, how many of them are right, how "
        "many differ in prompt or path, and the mean reward of its pool are means over seeds.",
        [step for step in found if step.round or step.arm == "tuned"],
        [
            *tables.settings_columns(groups),
            tables.Column("arm", "policy", lambda step: ARMS[step.arm if step.round else "base"]),
            tables.Column("round", "round", lambda step: step.round),
            tables.interval("greedy", "greedy", lambda step: step.mean("greedy", "accuracy")),
            tables.interval("pass", "pass@1", lambda step: step.mean("pass", "accuracy")),
            tables.interval("solved", f"pass@{k}", lambda step: step.mean("pass", "accuracy", k)),
            tables.interval("paths", "correct paths", lambda step: step.mean("distinct", "correct_paths", k)),
            tables.interval("kl", "KL", lambda step: step.mean("policy", "kl")),
            _counted("entropy_per_token", "entropy", "entropy"),
            *(column for column in columns if any(column.read(step) is not None for step in found)),
            tables.SEEDS,
        ],
    )


def _counted(key: str, heading: str, column: str = "") -> tables.Column:
    """The mean over seeds; of counts, rounded to a count."""

    def read(step: RoundStep) -> float | None:
        name = f"{step.policy}/{key}"
        mean = tables.seeds_mean(step.group, name)
        whole = all(isinstance(run.metrics.get(name), int) for run in step.group.runs)
        return round(mean) if mean is not None and whole else mean

    return tables.Column(column or key, heading, read)


@shows("methods_after", 40)
def methods(groups: Sequence[Group]) -> list[str]:
    """That the procedure was repeated, for the methods paragraph."""
    lines = []
    for settings in (group.runs[0].config["procedure"] for group in groups if "rounds/run" in group.runs[0].metrics):
        stopped = "" if settings.get("stop", "none") == "none" else " or until accuracy on validation prompts fell"
        lines.append(
            f"This was repeated for {settings['rounds']} rounds{stopped}, each drawing from the policy that the last "
            f"one fine-tuned and fine-tuning {STARTS[settings['start']]} on {TRAINED_ON[settings['train_on']]}."
        )
    return lines
