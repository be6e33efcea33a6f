"""Hybrids of demonstrations and samples compared: curves over the share of easy prompts, gates at equal samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.records.read import Run, short
from bench.reporting.contrasts import Contrast, contrast, judged
from bench.reporting.groups import Group
from bench.reporting.tables.shared import over_what

WRITTEN = ("procedure.foreign", "procedure.noise")  # what demonstrations depend on
OF_GATE = ("easy_by", "inverted", "easy_share")
N = "num_completions"
ACCURACY = ("tuned", "pass", "accuracy", 1)


@dataclass(frozen=True)
class Point:
    """A group of runs with one gate at one share of easy prompts."""

    group: Group
    gate: str  # random, final_nll, final_nll inverted, ...; "no samples" and "all samples" where every gate agrees
    share: float  # of easy prompts
    others: str  # the procedure's other settings, equal for points of one curve
    others_but_n: str  # likewise, without num_completions
    rest: str  # what of them sets it apart from most, e.g. "hard=drop"

    @property
    def samples(self) -> float:
        """A training prompt, paid for; the mean over seeds."""
        return float(np.mean([run.metrics["hybrid/samples_per_prompt"] for run in self.group.runs]))

    @property
    def name(self) -> str:
        return f"{self.gate} {self.rest}".strip()

    @property
    def label(self) -> str:
        return self.name if self.is_end else f"{self.name} at {self.share:g}"

    @property
    def is_end(self) -> bool:
        return self.share in (0, 1)

    @property
    def is_sampled(self) -> bool:
        return _procedure(self.group)["hard"] == "sample"


def points(groups: Sequence[Group]) -> list[Point]:
    """Those of the groups that are hybrids, by gate and share."""
    hybrids = [group for group in groups if all("hybrid/samples_total" in run.metrics for run in group.runs)]
    others = [_others(group) for group in hybrids]
    common = max(others, key=others.count, default={})
    found = []
    for group, own in zip(hybrids, others, strict=True):
        procedure = _procedure(group)
        share = float(procedure["easy_share"])
        gate = f"{procedure['easy_by']}{' inverted' if procedure['inverted'] else ''}"
        gate = {0.0: "full RFT", 1.0: "full SFT"}.get(share, gate)
        apart = [f"{name.removeprefix('procedure.')}={value}" for name, value in own.items() if common[name] != value]
        but_n = str({name: value for name, value in own.items() if name != N})
        found.append(Point(group, gate, share, str(own), but_n, "" if share == 1 else " ".join(apart)))
    return sorted(found, key=lambda one: (one.rest, one.gate, one.share))


def curves(found: Sequence[Point]) -> dict[str, list[Point]]:
    """name -> its points in order of samples. A gate's curve goes on to the ends, where it decides nothing."""
    gates: dict[str, list[Point]] = {}
    for one in found:
        if not one.is_end:
            gates.setdefault(one.name, []).append(one)
    made = {}
    for name, own in gates.items():
        ends = _ends(found, own[0]) if own[0].is_sampled else []
        made[name] = sorted([*own, *ends], key=lambda one: one.samples)
    several = {one.others_but_n for one in found if one.share == 0 and len(_full_rft(found, one)) > 1}
    for one in found:
        if one.others_but_n in several and one.share == 0:
            rest = " ".join(part for part in one.rest.split() if not part.startswith(f"{N}="))
            made[f"full RFT, N by N {rest}".strip()] = _full_rft(found, one)
    used = {id(one) for own in made.values() for one in own}
    return made | {one.name: [one] for one in found if id(one) not in used}


def against_random(found: Sequence[Point]) -> dict[str, Contrast]:
    """Each gate less the random one at as many samples, in sampled accuracy, by its label; adjusted for their number.

    Where no random gate has cost as many, its accuracy is interpolated, prompt by prompt under each seed, between the
    next cheaper and the next dearer; a gate beyond all random ones is left out. So is one whose hard prompts were
    dropped: it has no samples to compare at.
    """
    made = {}
    for one in found:
        if one.is_end or one.gate == "random" or not one.is_sampled:
            continue
        random = [other for other in found if other.gate == "random" and other.others == one.others]
        compared = _at_equal_samples(one, [*random, *_ends(found, one)]) if random else None
        if compared is not None:
            made[one.label] = contrast(*compared, f"{one.label} against random")
    return judged(made)


def against_rft(found: Sequence[Point]) -> dict[str, Contrast]:
    """Each gate less full RFT at as many samples, likewise; only where full RFT was run with several N."""
    made = {}
    for one in found:
        rft = _full_rft(found, one)
        if one.is_end or not one.is_sampled or len(rft) < 2:
            continue
        compared = _at_equal_samples(one, rft)
        if compared is not None:
            made[one.label] = contrast(*compared, f"{one.label} against full RFT")
    return judged(made)


def sentences(groups: Sequence[Group]) -> list[str]:
    """Whether each gate beats the random one at equal samples, and what the ends have; nothing without hybrids."""
    found = points(groups)
    lines = []
    for rival, compared in (("the random gate", against_random(found)), ("full RFT", against_rft(found))):
        for label, one in compared.items():
            says = {"better": "beats", "worse": "is worse than", "not resolved": "is not shown to beat"}[one.verdict]
            power = f"; {one.power}" if one.verdict == "not resolved" else ""
            sign = "+" if one.difference.value > 0 else ""
            p_value = f"= {short(one.p_value)}" if one.p_value >= 0.0005 else "< .001"
            lines.append(
                f"The gate {label} {says} {rival} at as many samples ({sign}{one.difference} in sampled accuracy, "
                f"Holm-adjusted p {p_value}{power})."
            )
    ends = [one for one in found if one.is_end]
    if lines and ends:
        told = (f"{one.label} {one.group.mean(*ACCURACY)} at {short(one.samples)}" for one in ends)
        lines.append(f"For comparison, sampled accuracy and samples a training prompt: {'; '.join(told)}.")
    if lines:
        lines[-1] = f"{lines[-1][:-1]} ({over_what(groups)})."
    return lines


def _at_equal_samples(one: Point, random: Sequence[Point]) -> tuple[np.ndarray, np.ndarray] | None:
    """[S, M] sampled accuracy of a gate, and of the random gates at its own number of samples, under common seeds."""
    by_seed = [dict(zip(point.group.seeds, point.group.runs, strict=True)) for point in random]
    seeds = [seed for seed in one.group.seeds if all(seed in runs for runs in by_seed)]
    ours, theirs = [], []
    for seed, run in zip(one.group.seeds, one.group.runs, strict=True):
        if seed not in seeds:
            continue
        costs = np.array([_samples(runs[seed]) for runs in by_seed])
        order = np.argsort(costs, kind="stable")
        values = np.stack([by_seed[place][seed].per_prompt(*ACCURACY) for place in order])
        interpolated = interpolate(_samples(run), costs[order], values)
        if interpolated is None:
            return None
        ours.append(run.per_prompt(*ACCURACY))
        theirs.append(interpolated)
    return (np.stack(ours), np.stack(theirs)) if ours else None


def interpolate(x: float, xs: np.ndarray, values: np.ndarray) -> np.ndarray | None:
    """[M] at x, linear between the rows of values [K, M] at ascending xs [K]; None outside of them."""
    if x < xs[0] or x > xs[-1]:
        return None
    if (xs == x).any():
        return values[xs == x].mean(axis=0)
    after = int(np.searchsorted(xs, x))
    part = (x - xs[after - 1]) / (xs[after] - xs[after - 1])
    return (1 - part) * values[after - 1] + part * values[after]


def _full_rft(found: Sequence[Point], one: Point) -> list[Point]:
    """Full RFT that differs from `one` in its share and perhaps in N, in order of samples."""
    alike = [other for other in found if other.share == 0 and other.others_but_n == one.others_but_n]
    return sorted(alike, key=lambda other: other.samples)


def _ends(found: Sequence[Point], one: Point) -> list[Point]:
    """Full SFT, whatever is said of samples that it does not draw, and the full RFT that differs in its share alone."""
    rft = [other for other in found if other.share == 0 and other.others == one.others]
    sft = [other for other in found if other.share == 1 and _same_demonstrations(other, one)]
    return [*sft[:1], *rft[:1]]


def _same_demonstrations(one: Point, other: Point) -> bool:
    """Equal in everything but what concerns samples and the probe."""
    ours, theirs = _others(one.group), _others(other.group)
    kept = [name for name in ours if not name.startswith("procedure.") or name in WRITTEN]
    kept = [name for name in kept if name not in ("num_completions", "selection", "prompt_filter")]
    return all(ours[name] == theirs.get(name) for name in kept)


def _others(group: Group) -> dict[str, str]:
    """Settings beside the gate's own: the procedure's, and what else sets groups apart."""
    procedure = {f"procedure.{name}": str(value) for name, value in sorted(_procedure(group).items())}
    own = {name: value for name, value in procedure.items() if name.removeprefix("procedure.") not in OF_GATE}
    return own | {name: value for name, value in group.settings.items() if not name.startswith("procedure")}


def _procedure(group: Group) -> dict[str, Any]:
    return group.runs[0].config["procedure"]


def _samples(run: Run) -> float:
    return float(run.metrics["hybrid/samples_per_prompt"])
