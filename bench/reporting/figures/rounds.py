"""The figure of runs in rounds: accuracy, diversity, KL and entropy after each round."""

from collections.abc import Sequence
from typing import Any

from bench.records.read import Estimate
from bench.reporting.exhibit import Figure
from bench.reporting.groups import Group
from bench.reporting.style import FULL_WIDTH, sequence
from bench.reporting.tables.rounds import Trajectory, most_samples, trajectories
from bench.reporting.tables.shared import over_what

APART = 0.05  # rounds between the lines of two groups, so that their bars can be told apart


def rounds_figure(groups: Sequence[Group]) -> Figure | None:
    """Four panels over the round, a line a group; None where no run went in rounds."""
    found = trajectories(groups)
    if not found:
        return None
    k = most_samples(found)
    panels = {
        "pass@1": ("pass", "accuracy", 1),
        f"pass@{k}": ("pass", "accuracy", k),
        "KL from the base (nats a sequence)": ("policy", "kl", 1),
        "entropy (nats a sequence)": ("policy", "entropy", 1),
    }
    curves = {(i, label): one.values(*cell) for i, one in enumerate(found) for label, cell in panels.items()}
    rows = [
        {
            "settings": one.group.label,
            "arm": one.arm,
            "round": number,
            "measure": label,
            "value": point.value,
            "low": point.low,
            "high": point.high,
        }
        for i, one in enumerate(found)
        for label in panels
        for number, point in enumerate(curves[i, label])
    ]
    control = " Thin: the random control's own rounds." if any(one.arm == "control" for one in found) else ""
    return Figure(
        name="rounds",
        caption=(
            f"Policies after each round of rejection sampling; round 0 is the base.{control} "
            f"{over_what([one.group for one in found])}."
        ),
        rows=rows,
        runs=[run for one in found if one.arm == "tuned" for run in one.group.runs],
        draw=lambda drawn: _draw(drawn, found, list(panels), curves),
        width=FULL_WIDTH,
        height=0.65 * FULL_WIDTH,
    )


def _draw(
    drawn: Any, found: Sequence[Trajectory], labels: Sequence[str], curves: dict[tuple[int, str], list[Estimate]]
) -> None:
    order = [one.group for one in found if one.arm == "tuned"]
    looks = sequence(len(order))
    for axes, label in zip(drawn.subplots(2, 2, sharex=True).flat, labels, strict=True):
        for i, one in enumerate(found):
            place = next(j for j, group in enumerate(order) if group is one.group)
            look, points = looks[place], curves[i, label]
            across = [number + APART * (place - (len(order) - 1) / 2) for number in range(len(points))]
            values = [point.value for point in points]
            if one.arm == "control":
                axes.plot(across, values, color=look.colour, linestyle=look.line, linewidth=0.6, zorder=1)
                continue
            axes.errorbar(
                across,
                values,
                yerr=[
                    [max(0.0, point.value - point.low) for point in points],
                    [max(0.0, point.high - point.value) for point in points],
                ],
                color=look.colour,
                marker=look.marker,
                linestyle=look.line,
                markersize=3.5,
                elinewidth=0.7,
                label=_label(one.group),
            )
        axes.set_ylabel(label)
        axes.set_xticks(range(max(len(one.policies) for one in found)))
    for axes in drawn.axes[2:]:
        axes.set_xlabel("round")
    drawn.legend(*drawn.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, handlelength=2.5)


def _label(group: Group) -> str:
    """What sets the group apart, without the part that a setting belongs to."""
    return " ".join(f"{name.rsplit('.', 1)[-1]}={value}" for name, value in group.settings.items()) or "tuned"
