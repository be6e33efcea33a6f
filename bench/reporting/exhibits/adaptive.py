"""Adaptive sampling of training prompts: what each plan drew, covered and gained, against N samples of every prompt."""

import re
from collections.abc import Sequence
from typing import Any

from bench.reporting import arrange, plots, style, tables
from bench.reporting.contrasts import tuned_contrasts
from bench.reporting.exhibit import Figure, Table, shows
from bench.reporting.groups import Group

TOTAL = "adaptive/samples_total"
COUNTED = {
    "samples_total": "samples",
    "samples_a_prompt": "per prompt",
    "samples_saved": "saved",
    "coverage": "coverage",
    "accepted": "accepted",
}


@shows("tables", 65)
def adaptive_table(groups: Sequence[Group]) -> Table | None:
    """A row for each configuration of bench.adaptive; None where every run had another procedure."""
    groups = arrange.having(groups, TOTAL)
    return tables.table(
        "adaptive",
        "Samples drawn of training prompts, samples saved against N of each, the share of prompts with an accepted "
        "sample (coverage), the rate of acceptance (an estimate that the stopping does not bias), and the policy "
        "fine-tuned on accepted completions. {over}; counts are means over seeds.",
        arrange.in_order(groups),
        [
            *tables.settings_columns(groups),
            *tables.counted("adaptive/", COUNTED),
            tables.Column("pass", "rate of acceptance", lambda group: tables.seeds_mean(group, "adaptive/pass@1")),
            tables.measured("tuned", "tuned pass@1", "tuned", "pass", "accuracy"),
            tables.KL,
            tables.Column("seeds", "seeds", lambda group: len(group.runs)),
        ],
        tables.all_runs(groups),
    )


@shows("figures", 65)
def samples_budget(groups: Sequence[Group]) -> Figure | None:
    """Accuracy and KL against the samples drawn in all, a line for each plan of bench.adaptive over N."""
    groups = arrange.having(groups, TOTAL)
    if not groups:
        return None
    base = groups[0].mean("base", "pass", "accuracy", 1).value
    rows = [
        {
            "label": name or "all",
            "samples": tables.seeds_mean(group, TOTAL),
            **tables.spread("accuracy", group.mean("tuned", "pass", "accuracy", 1)),
            **tables.spread("kl", group.series("tuned", "policy", "kl").get(1)),
        }
        for name, panel in arrange.in_panels(groups, ("num_completions",))
        for group in panel
    ]
    return plots.figure(
        "samples_budget",
        "Accuracy on held-out prompts, and KL from the raw base, of the policy that was fine-tuned on accepted "
        "completions, against the samples that were drawn of all training prompts together (mean over seeds). "
        f"The base: {base:.2f}, dotted where it is near.",
        sorted(rows, key=lambda row: (row["label"], row["samples"])),
        groups,
        lambda canvas, rows: _draw(canvas, rows, base),
        (style.FULL_WIDTH, style.COLUMN_WIDTH * 0.85),
        series="label",
    )


def _draw(canvas: Any, rows: plots.Rows, base: float) -> None:
    from matplotlib.ticker import LogLocator

    looks = style.sequence(plots.values_of(rows, "label"))
    panels = plots.grid_of(canvas, 2)
    titles = {"accuracy": "accuracy on held-out prompts", "kl": "KL from the base (nats per sequence)"}
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        known = [row for row in rows if row[key] is not None]
        for place, (label, look) in enumerate(looks.items()):
            points = plots.where(known, label=label)
            plots.line(axes, points, "samples", key, look, label=label, **plots.nested(place, len(looks)))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter("")
        axes.set(xlabel="samples of training prompts in all", ylabel=title)
    if base > min(row["accuracy"] for row in rows) - 0.1:  # farther away it would stretch the axis
        plots.guide(panels[0], y=base)


@shows("sentences", 65)
def sentences(groups: Sequence[Group]) -> list[str]:
    """Each plan against N samples of every prompt at the same N: samples, coverage, and accuracy.

    Paired by seed and prompt; the verdicts are adjusted for their number (Holm 1979).
    """
    groups, pairs = arrange.having(groups, TOTAL), {}
    for group in groups:
        uniform = [other for other in groups if _uniform(other) and _beside_the_plan(other) == _beside_the_plan(group)]
        if not _uniform(group) and len(uniform) == 1:
            pairs[arrange.named(group)] = group, uniform[0]
    lines = []
    for name, compared in tuned_contrasts(pairs, "adaptive {}").items():
        group, against = pairs[name]
        (ours, theirs), (covered, covered_by_them) = (
            [tables.seeds_mean(side, metric) for side in (group, against)] for metric in (TOTAL, "adaptive/coverage")
        )
        lines.append(
            f"Sampling with {name} draws {ours:,.0f} samples and covers {covered:.0%} of the prompts; "
            f"{group.runs[0].config['num_completions']} of every prompt are {theirs:,.0f} samples and cover "
            f"{covered_by_them:.0%}. In sampled accuracy, the policy fine-tuned on the former is "
            f"{compared.against('the one fine-tuned on the latter')}."
        )
    return lines


def _uniform(group: Group) -> bool:
    procedure = group.runs[0].config["procedure"]
    return procedure["stop"] == "none" and procedure["allocate"] == "uniform"


def _beside_the_plan(group: Group) -> dict[str, str]:
    """All settings but how training prompts are sampled, up to N."""
    return {name: value for name, value in group.settings.items() if not re.match(r"procedure(\.|$)", name)}


@shows("methods", 65)
def methods(groups: Sequence[Group]) -> list[str]:
    """How many samples each prompt got, for the methods paragraph."""
    lines = []
    for settings in (group.runs[0].config["procedure"] for group in arrange.having(groups, TOTAL)):
        how = "the most of every prompt"
        if settings["allocate"] == "hard":
            how = f"the mean, with at most {settings['most']} where none had been accepted after {settings['look']}"
        enough = f"; a prompt was done with {settings['enough']} of a reward above {settings['accept_above']:g}"
        lines.append(f"That many are {how}{enough * (settings['stop'] == 'accepted')}.")
    return lines
