"""Hybrids of demonstrations and samples: curves over the share of easy prompts, and gates at equal samples."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bench.records.read import short
from bench.reporting import arrange, plots, style, tables
from bench.reporting.contrasts import SAMPLED, Contrast, Measure, Sides, in_both_ways, shared_seeds
from bench.reporting.exhibit import Figure, Table, shows
from bench.reporting.groups import Group
from bench.reporting.labels import Label
from bench.reporting.words import listed, over_what, setting_words

WRITTEN = {"procedure.foreign": "foreign", "procedure.noise": "noise"}  # what demonstrations depend on
OF_GATE = ("easy_by", "inverted", "easy_share")
N = "num_completions"
SAMPLES = "hybrid/samples_per_prompt"
OF_SAMPLES = (N, "selection", "prompt_filter")
PANELS = {"sampled accuracy": ("pass", "accuracy", 1), "KL from the base (nats)": ("policy", "kl", 1)}
COUNTED = {
    "samples_per_prompt": "samples per prompt",
    "generated_tokens": "generated tokens",
    "data_flops": "FLOPs for the data",
    "demonstrations_used": "demonstrations",
    "prompts_from_samples": "from samples",
}


class Point(NamedTuple):
    """A group of runs with one gate at one share of easy prompts."""

    group: Group
    others: dict[str, str]  # settings beside the gate's own, equal for points of one curve
    rest: str  # those of them that set it apart from most points, e.g. "hard=drop"
    share: float  # of easy prompts
    gate: str  # random, final_nll, final_nll inverted, ...; "full SFT" and "full RFT" where every gate agrees
    samples: float  # paid for per training prompt; the mean over seeds

    @property
    def name(self) -> str:
        return f"{self.gate} {self.rest}".strip()

    @property
    def label(self) -> str:
        return self.name if self.is_end else f"{self.name} at {self.share:g}"

    @property
    def is_end(self) -> bool:
        return self.share in (0, 1)


def points(groups: Sequence[Group]) -> list[Point]:
    """Those of the groups that are hybrids, by gate and share."""
    hybrids, found = arrange.having(groups, SAMPLES), []
    others = [_others(group) for group in hybrids]
    common = max(others, key=others.count, default={})
    for group, settings in zip(hybrids, others, strict=True):
        procedure = group.runs[0].config["procedure"]
        share = float(procedure["easy_share"])
        own = _of_demonstrations(settings) if share == 1 else settings
        apart = [f"{n.removeprefix('procedure.')}={value}" for n, value in own.items() if common.get(n) != value]
        gate = f"{procedure['easy_by']}{' inverted' if procedure['inverted'] else ''}"
        gate = {0.0: "full RFT", 1.0: "full SFT"}.get(share, gate)
        samples = float(np.mean([run.metrics[SAMPLES] for run in group.runs]))
        found.append(Point(group, settings, " ".join(apart), share, gate, samples))
    return sorted(found, key=lambda point: (point.rest, point.gate, point.share))


def curves(found: Sequence[Point]) -> dict[str, list[Point]]:
    """name -> its points in order of samples. A gate's curve goes on to the ends, where it decides nothing."""
    made = {}
    for own in arrange.alike((point for point in found if not point.is_end), lambda point: point.name):
        ends = _ends(found, own[0]) if own[0].others["procedure.hard"] == "sample" else []
        made[own[0].name] = sorted([*own, *ends], key=lambda point: point.samples)
    for point in found:
        if point.share == 0 and len(_full_rft(found, point)) > 1:
            rest = " ".join(word for word in point.rest.split() if not word.startswith(f"{N}="))
            made[f"full RFT, N by N {rest}".strip()] = _full_rft(found, point)
    used = {id(point) for own in made.values() for point in own}
    return made | {point.name: [point] for point in found if id(point) not in used}


def against(rival: str, found: Sequence[Point]) -> dict[str, Contrast]:
    """Each gate less a rival at equal samples, in sampled accuracy, by its label; adjusted for their number.

    rival: "random", the random gate; or "full RFT", where that was run with several N.
    Where no rival cost as many samples, its accuracy is interpolated, prompt by prompt under each seed, between the
    next cheaper and the next dearer. Left out: a gate beyond all rivals, and one without samples (hard=drop).
    """

    def rivals(point: Point) -> list[Point]:
        if rival == "full RFT":
            return rft if len(rft := _full_rft(found, point)) > 1 else []
        random = [other for other in found if other.gate == "random" and other.others == point.others]
        return [*random, *_ends(found, point)] if random and point.gate != "random" else []

    sampling = (p for p in found if p.others["procedure.hard"] == "sample" and not p.is_end)
    compared = [(point, others) for point in sampling if (others := rivals(point))]

    def sides_of(measure: Measure) -> dict[str, Sides]:
        sides = {point.label: _at_equal_samples(point, others, measure) for point, others in compared}
        return {label: both for label, both in sides.items() if both is not None}

    return in_both_ways(sides_of, f"{{}} against {rival}")


def _at_equal_samples(point: Point, rivals: Sequence[Point], measure: Measure) -> Sides | None:
    """[S, M] accuracy of a gate, and of its rivals at the gate's own number of samples, under common seeds."""
    ours, theirs = [], []
    shared, _ = shared_seeds({place: other.group for place, other in enumerate([point, *rivals])})
    for run, *others in zip(*(group.runs for group in shared.values()), strict=True):  # in order of the shared seeds
        others.sort(key=lambda other: other.metrics[SAMPLES])
        costs = np.array([other.metrics[SAMPLES] for other in others], float)
        values = np.stack([other.per_prompt("tuned", *measure) for other in others])
        interpolated = arrange.interpolate(run.metrics[SAMPLES], costs, values)
        if interpolated is None:
            return None
        ours.append(run.per_prompt("tuned", *measure))
        theirs.append(interpolated)
    return (np.stack(ours), np.stack(theirs)) if ours else None


def _full_rft(found: Sequence[Point], point: Point) -> list[Point]:
    """Full RFT that differs from `point` in its share and perhaps in N, in order of samples."""
    same = [other for other in found if other.share == 0 and other.others | {N: ""} == point.others | {N: ""}]
    return sorted(same, key=lambda other: other.samples)


def _ends(found: Sequence[Point], point: Point) -> list[Point]:
    """Full SFT, whatever its settings for samples, which it does not draw; and full RFT that differs in share alone."""
    rft = [other for other in found if other.share == 0 and other.others == point.others]
    own = _of_demonstrations(point.others)
    sft = [other for other in found if other.share == 1 and _of_demonstrations(other.others) == own]
    return [*sft[:1], *rft[:1]]


def _of_demonstrations(settings: dict[str, str]) -> dict[str, str]:
    """The settings beside those of samples and of the probe."""
    return {n: v for n, v in settings.items() if n in WRITTEN or not n.startswith(("procedure.", *OF_SAMPLES))}


def _others(group: Group) -> dict[str, str]:
    """Settings beside the gate's own: the procedure's, and what else sets groups apart."""
    procedure = sorted(group.runs[0].config["procedure"].items())
    own = {f"procedure.{name}": str(value) for name, value in procedure if name not in OF_GATE}
    return own | {name: value for name, value in group.settings.items() if not name.startswith("procedure")}


@shows("figures", 50)
def hybrid_figure(groups: Sequence[Group]) -> Figure | None:
    """Two panels over the samples per training prompt for each kind of demonstrations, a curve for each gate."""
    found = points(groups)
    apart = [name for name in WRITTEN if len({point.others.get(name) for point in found}) > 1]
    names = dict.fromkeys(_gate(name, own) for name, own in curves(found).items())  # one look in all blocks
    looks = style.sequence([n for n in names if n != "random"]) | {"random": style.Look(style.QUIET, "o", "--")}
    in_blocks: dict[str, Any] = {"series": "demonstrations", "room": 1} if apart else {"series": "gate"}
    return plots.figure(
        "hybrid",
        "Policies fine-tuned on demonstrations of the easy prompts and accepted samples of the others, by the gate "
        "that decides which are easy, against the samples paid for; black: the ends of every gate; hollow: a gate with "
        "the setting beside it.",
        [
            {
                "demonstrations": " ".join(f"{WRITTEN[name]}={point.others[name]}" for name in apart),
                "gate": _gate(name, own),
                "curve": _bare(name),
                "rest": _bare(own[0].rest),
                "point": _bare(point.label),
                "easy_share": point.share,
                "samples": point.samples,
                "measure": measure,
                **tables.spread("value", point.group.mean("tuned", *cell)),
            }
            for name, own in curves(found).items()
            for point in own
            for measure, cell in PANELS.items()
        ],
        [point.group for point in found],
        lambda canvas, rows: _draw(canvas, rows, looks),
        (style.FULL_WIDTH, 0.45 * style.FULL_WIDTH),
        **in_blocks,
    )


def _gate(name: str, curve: Sequence[Point]) -> str:
    """The gate of a curve; the curve's own name where it has none, as full RFT at several N."""
    return next((point.gate for point in curve if not point.is_end), _bare(name))


def _bare(name: str) -> str:
    """Without the kind of demonstrations."""
    return " ".join(word for word in name.split(" ") if word.split("=")[0] not in WRITTEN.values())


def _draw(canvas: Any, rows: plots.Rows, looks: Mapping[str, style.Look]) -> plots.Labels:
    names, labels, black = plots.values_of(rows, "gate"), [], style.COLOURS["base"]
    for axes, measure in zip(plots.grid_of(canvas, 2), PANELS, strict=True):
        here = plots.where(rows, measure=measure)
        gates = {row["gate"] for row in here if row["easy_share"] not in (0, 1)}
        ends = {row["point"]: row for row in here if row["easy_share"] in (0, 1) and row["gate"] in gates}
        alone: dict[str, plots.Row] = {}  # curves of other settings that do not come from an end
        for name in plots.values_of(here, "curve"):
            own = plots.where(here, curve=name)
            look, bars = looks[own[0]["gate"]], plots.nested(names.index(own[0]["gate"]), len(names))
            plots.line(axes, plots.bare(own, "samples", "value"), "samples", "value", look, marker="")
            points = [row for row in own if row["point"] not in ends]
            if points == own and own[0]["rest"]:
                alone.setdefault(own[0]["rest"], own[0])
                bars["markerfacecolor"] = "white"
            plots.line(axes, points, "samples", "value", look, linestyle="none", **bars)
        for name in names:
            plots.line(axes, [], "samples", "value", looks[name], label=name)
        plots.line(axes, list(ends.values()), "samples", "value", style.Look(black, "s", "none"), zorder=4)
        named = {name.replace("RFT ", "RFT\n"): row for name, row in ends.items()} | alone
        labels.append((axes, [Label(row["samples"], row["value"], text, black) for text, row in named.items()]))
        if kind := here[0]["demonstrations"]:  # of which one may ruin the policy: its KL is many times as high
            axes.set_title(f"demonstrations: {kind}", loc="left")
            if measure.startswith("KL"):
                axes.set_yscale("log", subs=[2, 5])
                axes.yaxis.set_major_formatter(plots.short)
                axes.yaxis.set_minor_formatter(plots.short)
        axes.set(xlabel="samples per training prompt", ylabel=measure)
    return labels


@shows("tables", 50)
def hybrid_table(groups: Sequence[Group]) -> Table | None:
    """A row for each gate and share; None where no run is a hybrid."""
    found = points(groups)
    k = min((max(point.group.runs[0].series("tuned", "pass", "accuracy")) for point in found), default=1)

    def over(rival: str, end: str) -> list[tables.Column]:
        of = against(rival, found).get
        shown = {"difference": (f"gain{end}", f"gain over {rival}"), "p_value": (f"p_gain{end}", "p")}
        return tables.contrasted(lambda point: of(point.label), **shown, verdict=(f"verdict{end}", f"vs {rival}"))

    return tables.table(
        "hybrid",
        "Hybrids of demonstrations and samples. {over}. Samples, tokens and FLOPs are those of making the training "
        "set, means over seeds; FLOPs include the probe. The gain is in pass@1 over the random gate and over full RFT, "
        "at equal samples (interpolated where none cost exactly as many), p-values adjusted for the number of gates. "
        "KL is from the base, in nats per sequence.",
        found,
        [
            tables.Column("gate", "gate", lambda point: point.name),
            tables.Column("easy_share", "easy share", lambda point: point.share),
            *tables.counted("hybrid/", COUNTED),
            *(tables.PASS, tables.GREEDY),
            tables.measured("solved", f"pass@{k}", "tuned", "pass", "accuracy", k),
            tables.KL,
            *over("random", ""),
            *over("full RFT", "_rft"),
            tables.SEEDS,
        ],
    )


@shows("sentences", 50)
def sentences(groups: Sequence[Group]) -> list[str]:
    """Whether each gate beats the random one and full RFT at equal samples, and the accuracy of the ends."""
    found = points(groups)
    lines = [
        f"At equal samples, the gate {label} is {compared.against(whom)} in sampled accuracy"
        for rival, whom in {"random": "the random gate", "full RFT": "full RFT"}.items()
        for label, compared in against(rival, found).items()
    ]
    ends = [f"{p.label} {p.group.mean('tuned', *SAMPLED)} at {short(p.samples)}" for p in found if p.is_end]
    if lines and ends:
        lines.append(f"For comparison, sampled accuracy and samples per training prompt: {'; '.join(ends)}")
    return [f"{line}{'' if place else f' ({over_what(groups)})'}." for place, line in enumerate(lines, 1 - len(lines))]


@shows("methods", 50)
def methods(groups: Sequence[Group]) -> list[str]:
    """Which prompts kept a demonstration, for the methods paragraph."""
    if not (hybrids := [group.runs[0].config["procedure"] for group in arrange.having(groups, SAMPLES)]):
        return []
    share, gate, source, epochs = (
        listed([setting_words(value) for value in dict.fromkeys(procedure[name] for procedure in hybrids)])
        for name in ("easy_share", "easy_by", "sample_from", "probe_epochs")
    )
    return [
        f"Of these prompts a share of {share}, chosen by {gate}, kept a demonstration and was not sampled; the others, "
        f"sampled from the {source}, gave accepted samples alone. The probe is the base after {epochs} epochs."
    ]
