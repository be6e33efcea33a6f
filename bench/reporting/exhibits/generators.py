"""Pools that several policies drew: what training on each mix gained, and whose samples were selected."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bench.records.read import Estimate
from bench.reporting import arrange, plots, style, tables
from bench.reporting.contrasts import Contrast, tuned_contrasts
from bench.reporting.exhibit import Figure, Table, shows
from bench.reporting.groups import Group
from bench.reporting.words import counted, split

MIX = "procedure.drawn_by"  # the setting that tells mixes apart
APART = 0.13  # of a row, between the generators' markers
COUNTED = {
    "parameters": "parameters",
    "samples": "samples",
    "pass@1": "pass@1, training",
    "correct_paths": "correct paths",
    "prompts_solved_only": "solved by no other",
    "selected_share": "share selected",
    "prompts_covered_only": "covered by no other",
    "left_out": "left out",
}


@dataclass(frozen=True)
class Mix:
    """A group of runs, and the generators that drew for them."""

    group: Group
    names: tuple[str, ...]

    @property
    def label(self) -> str:
        return " + ".join(self.names)

    @property
    def others(self) -> dict[str, str]:
        """The settings that set it apart beside who drew."""
        return {name: value for name, value in self.group.settings.items() if name != MIX}

    @property
    def is_students_own(self) -> bool:
        return [self.outcomes(name) for name in self.names] == ["base"]

    def outcomes(self, name: str) -> str:
        """The name that records give to the policy of a generator."""
        return str(self.group.runs[0].metrics[f"generators/{name}/outcomes"])

    def accuracy(self, name: str, method: str = "pass") -> Estimate:
        """Of one sample of the generator itself on the held-out prompts."""
        return self.group.mean(self.outcomes(name), method, "accuracy", 1)

    def kl_from(self, name: str) -> Estimate | None:
        """Of the tuned policy, in nats per sequence; None where the generator has other token ids."""
        metric = f"kl_from_{name}"
        if any(run.metrics.get(f"tuned/{metric}") is None for run in self.group.runs):
            return None
        return self.group.mean("tuned", "policy", metric, 1)

    def mean(self, metric: str) -> float:
        """Over the seeds, of a number in metrics.json; a count that all of them share stays a whole number."""
        values = [run.metrics[metric] for run in self.group.runs]
        return values[0] if len(set(values)) == 1 and isinstance(values[0], int) else float(np.mean(values))

    def total(self, metric: str) -> float:
        """Over the generators, of the mean of a number that each has."""
        return sum(self.mean(f"generators/{name}/{metric}") for name in self.names)


class Part(NamedTuple):
    """One generator's part in a mix."""

    group: Group
    mix: Mix
    name: str

    def mean(self, metric: str) -> float:
        return self.mix.mean(f"generators/{self.name}/{metric}")


def mixes(groups: Sequence[Group]) -> list[Mix]:
    """Those of the groups whose pools were drawn by named generators."""
    drawn = arrange.having(groups, "generators/names")
    return [Mix(group, tuple(str(group.runs[0].metrics["generators/names"]).split())) for group in drawn]


def parts(found: Sequence[Mix]) -> list[Part]:
    return [Part(mix.group, mix, name) for mix in found for name in mix.names]


def against_own(found: Sequence[Mix]) -> list[tuple[Mix, Contrast]]:
    """Each mix less the student's own samples, in the tuned policy's sampled accuracy; all else is equal, N too.

    Paired on prompts and on the seeds that both have; adjusted for the number of mixes (Holm 1979).
    """
    pairs = [
        (mix, own)
        for mix in found
        for own in found
        if own.is_students_own and not mix.is_students_own and mix.others == own.others
    ]
    named = {mix.group.label: (mix.group, own.group) for mix, own in pairs}
    compared = tuned_contrasts(named, "{} against the student's own")
    return [(mix, compared[mix.group.label]) for mix, _ in pairs if mix.group.label in compared]


@shows("figures", 60)
def generators_figure(groups: Sequence[Group]) -> Figure | None:
    """Three panels with a row for each mix; None where no pool was drawn by named generators."""
    found = sorted(mixes(groups), key=lambda mix: (list(mix.others.values()), len(mix.names)), reverse=True)
    rows = [_row(part) for part in parts(found)]
    high, starts = 0.13 + plots.row_height(plots.values_of(rows, "settings") or [""]), _starts(rows)
    return plots.figure(
        "generators",
        "Policies fine-tuned on what was selected from pools that different generators drew. Left: accuracy of one "
        "sample of the tuned policy, hollow: of each generator itself. Middle: whose completions were selected. Right: "
        "the tuned policy's KL from each generator, none where the generator has other token ids.",
        rows,
        [mix.group for mix in found],
        lambda canvas, rows: _draw(canvas, rows, starts),
        (style.FULL_WIDTH, 0.9 + high * len(found)),
        series="generator",
        room=plots.MOST - 1,  # beside the tuned policy
    )


def _starts(rows: plots.Rows) -> dict[tuple[str, str], float]:
    """(settings, generator) -> where its part begins among the completions that its mix selected."""
    names = plots.values_of(sorted(rows, key=lambda row: row["own"]), "generator")
    starts: dict[tuple[str, str], float] = {}
    for settings in plots.values_of(rows, "settings"):
        end = 0.0
        for row in sorted(plots.where(rows, settings=settings), key=lambda row: names.index(row["generator"])):
            starts[settings, row["generator"]] = end
            end += row["selected_share"]
    return starts


def _row(part: Part) -> dict[str, Any]:
    mix, rest = part.mix, arrange.named(part.group, list(part.mix.others))
    return {
        "settings": f"{mix.label}, {rest}" if rest else mix.label,
        "generator": part.name,
        **tables.spread("tuned", part.group.mean("tuned", "pass", "accuracy", 1)),
        **tables.spread("own", mix.accuracy(part.name)),
        "selected_share": part.mean("selected_share"),
        **tables.spread("kl", mix.kl_from(part.name)),
    }


def _draw(canvas: Any, rows: plots.Rows, starts: Mapping[tuple[str, str], float]) -> None:
    """starts: of the parts of all generators; pale is what those of other blocks drew."""
    settings = plots.values_of(rows, "settings")
    names = plots.values_of(sorted(rows, key=lambda row: row["own"]), "generator")
    looks = style.sequence(names)
    placed = [row | {"place": settings.index(row["settings"])} for row in rows]
    for row in placed:
        row["beside"] = row["place"] + plots.nudge(names.index(row["generator"]), len(names), APART)
    panels = accuracy, share, kl = plots.grid_of(canvas, 3, (3, 2, 3), sharey=True)
    first = [plots.where(placed, settings=setting)[0] for setting in settings]
    plots.line(accuracy, first, "tuned", "place", style.LOOKS["tuned"], linestyle="none", label="tuned")
    for name, look in looks.items():
        own = plots.where(placed, generator=name)
        plots.line(accuracy, own, "own", "beside", look, linestyle="none", label=name, **plots.HOLLOW)
        if known := [row for row in own if row["kl"] is not None]:
            plots.line(kl, known, "kl", "beside", look, linestyle="none")
    share.barh(range(len(settings)), 1, 0.6, color="#EEEEEE", linewidth=0, zorder=0)
    for row in placed:
        left, colour = starts[row["settings"], row["generator"]], looks[row["generator"]].colour
        share.barh(row["place"], row["selected_share"], 0.6, left=left, color=colour, linewidth=0)
    share.set_xlim(0, 1)
    accuracy.set_xlabel("held-out accuracy")
    share.set_xlabel("share selected")
    kl.set_xlabel("KL from it (nats per sequence)")
    plots.named_rows(canvas, panels, settings)


@shows("tables", 60)
def mixes_table(groups: Sequence[Group]) -> Table | None:
    """A row for each mix of generators; None where no pool was drawn by named ones."""
    found = mixes(groups)
    compared = {mix.group.label: contrast for mix, contrast in against_own(found)}
    return tables.table(
        "mixes",
        "Fine-tuned on what was selected from pools that different policies drew: samples per prompt, their "
        "tokens and the FLOPs of drawing them; training prompts that any of them solves; distinct correct paths "
        "per prompt; completions trained on. Difference: sampled accuracy less that of training on as many of the "
        "student's own samples, p-values adjusted for the number of mixes (Holm). "
        "{over}. KL is from the base, in nats per sequence.",
        found,
        [
            *tables.settings_columns(groups, [name for name in groups[0].settings if name != MIX]),
            tables.Column("mix", "drawn by", lambda mix: mix.label),
            tables.Column("samples", "samples", lambda mix: mix.total("samples")),
            tables.Column("tokens", None, lambda mix: mix.total("tokens")),
            tables.Column("flops", "FLOPs", lambda mix: mix.total("cost_flops")),
            tables.Column("solved", "solved", lambda mix: mix.mean("generators/prompts_solved")),
            tables.Column("paths", "correct paths", lambda mix: mix.mean("generators/correct_paths")),
            tables.Column("kept", "kept", lambda mix: mix.mean("selection/kept")),
            tables.GREEDY,
            tables.PASS,
            tables.KL,
            *tables.contrasted(
                lambda mix: compared.get(mix.group.label),
                difference=("difference", "tuned - own samples"),
                p_value=("p_value", None),
                verdict=("verdict", "vs own samples"),
            ),
            tables.SEEDS,
        ],
    )


@shows("tables", 61)
def generators_table(groups: Sequence[Group]) -> Table | None:
    """A row for each mix and generator; None where no pool was drawn by named ones."""

    def mean(key: str, heading: str) -> tables.Column:
        return tables.Column(key, heading, lambda part: part.mean(key))

    return tables.table(
        "generators",
        "What each generator is and gave: its own accuracy on held-out prompts, then on training prompts by its "
        "samples; the training prompts that only its samples solve; its share of the completions that were trained on, "
        "and the prompts whose completions were all its own; completions left out because the student's tokenizer does "
        "not write them; and the tuned policy's KL from it, in nats per sequence (none where the token ids differ). "
        "{over}; a value without an interval is a mean over seeds.",
        parts(mixes(groups)),
        [
            *tables.settings_columns(groups, [name for name in groups[0].settings if name != MIX]),
            tables.Column("mix", "drawn by", lambda part: part.mix.label),
            tables.Column("generator", "generator", lambda part: part.name),
            tables.interval("own", "its pass@1", lambda part: part.mix.accuracy(part.name)),
            tables.interval("own_greedy", "its greedy", lambda part: part.mix.accuracy(part.name, "greedy")),
            *itertools.starmap(mean, COUNTED.items()),
            tables.interval("kl", "KL from it", lambda part: part.mix.kl_from(part.name)),
            tables.SEEDS,
        ],
    )


@shows("sentences", 60)
def sentences(groups: Sequence[Group]) -> list[str]:
    """Whether other policies' samples are better to train on than as many of the student's own; each one's accuracy."""
    found = mixes(groups)
    if not found:
        return []
    lines = []
    for mix, compared in against_own(found):
        many = mix.label if len(mix.names) == 1 else f"the union of {', '.join(mix.names)}"
        settings = " ".join(f"{name}={value}" for name, value in mix.others.items())
        start = f"With {settings}, training" if settings else "Training"
        against = compared.against("training on as many of the student's own samples")
        over = f"{compared.prompts} {split([mix.group])} prompts, {counted(compared.seeds, 'seed')}"
        lines.append(f"{start} on {many} is {against} in sampled accuracy ({over}).")
    if len(found) == 1 and len(found[0].names) > 1:
        shares = [f"{part.mean('selected_share'):.0%} come from {part.name}" for part in parts(found)]
        lines.append(f"Of the selected completions, {', '.join(shares)}.")
    own: dict[str, str] = {}
    for part in parts(sorted(found, key=lambda mix: -len(mix.names))):
        own.setdefault(part.name, f"{part.name} {part.mix.accuracy(part.name)}")
    return [*lines, f"The generators' own sampled accuracy: {', '.join(own.values())}."]


@shows("methods", 60)
def methods(groups: Sequence[Group]) -> list[str]:
    """Who drew the completions, for the methods paragraph."""
    return [in_words(mix.group.runs[0].config["procedure"]) for mix in mixes(groups)]


def in_words(settings: dict[str, Any]) -> str:
    """settings: those of bench.generators."""
    names = [str(name) for name in settings["drawn_by"]]
    weights = [f"{settings['generators'][name]['weight']:g}" for name in names]
    shares = f" in shares of {' to '.join(weights)}" if len(names) > 1 else ""
    return f"They were drawn by {' and '.join(names)}{shares}, where the student is the policy that is fine-tuned."
