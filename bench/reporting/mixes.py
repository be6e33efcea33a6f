"""Runs whose pools several policies drew: who drew, what that was worth against the student's own samples, in words."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.records.read import Estimate
from bench.reporting.contrasts import Contrast, contrast, judged
from bench.reporting.groups import Group
from bench.reporting.tables.shared import split

APART = "procedure.drawn_by"  # the setting that tells mixes apart


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
        """What sets it apart beside who drew."""
        return {name: value for name, value in self.group.settings.items() if name != APART}

    @property
    def is_students_own(self) -> bool:
        return [self.outcomes(name) for name in self.names] == ["base"]

    def outcomes(self, name: str) -> str:
        """What records call the policy of a generator."""
        return str(self.group.runs[0].metrics[f"generators/{name}/outcomes"])

    def accuracy(self, name: str) -> Estimate:
        """Of one sample of the generator itself on the held-out prompts."""
        return self.group.mean(self.outcomes(name), "pass", "accuracy", 1)

    def kl_from(self, name: str) -> Estimate | None:
        """Of the tuned policy, nats a sequence; None where the generator has other token ids."""
        metric = f"kl_from_{name}"
        if any(run.metrics.get(f"tuned/{metric}") is None for run in self.group.runs):
            return None
        return self.group.mean("tuned", "policy", metric, 1)

    def mean(self, metric: str) -> float:
        """Over the seeds, of a number in metrics.json; a count that all of them share stays a whole number."""
        values = [run.metrics[metric] for run in self.group.runs]
        return values[0] if len(set(values)) == 1 and isinstance(values[0], int) else float(np.mean(values))


def mixes(groups: Sequence[Group]) -> list[Mix]:
    """Of the groups whose pools were drawn by named generators."""
    found = [group for group in groups if all("generators/names" in run.metrics for run in group.runs)]
    return [Mix(group, tuple(str(group.runs[0].metrics["generators/names"]).split())) for group in found]


def against_own(found: Sequence[Mix]) -> list[tuple[Mix, Contrast]]:
    """Each mix less the student's own samples, in the tuned policy's sampled accuracy; all else alike, N too.

    Paired on prompts and on the seeds that both have; adjusted for the number of mixes (Holm 1979).
    """
    pairs = [
        (mix, own)
        for mix in found
        for own in found
        if own.is_students_own and not mix.is_students_own and mix.others == own.others
    ]
    compared = {str(place): _contrast(mix.group, own.group) for place, (mix, own) in enumerate(pairs)}
    known = judged({place: one for place, one in compared.items() if one is not None})
    return [(mix, known[str(place)]) for place, (mix, _) in enumerate(pairs) if str(place) in known]


def _contrast(ours: Group, theirs: Group) -> Contrast | None:
    seeds = sorted(set(ours.seeds) & set(theirs.seeds))
    if not seeds:
        return None
    pair = [
        np.stack(
            [run.per_prompt("tuned", "pass", "accuracy", 1) for run in group.runs if run.config["seed"] in seeds]
        )  # [S, M]
        for group in (ours, theirs)
    ]
    return contrast(pair[0], pair[1], f"{ours.label} against the student's own")


def of_mixes(groups: Sequence[Group]) -> list[str]:
    """Whether other policies' samples are better to train on than as many of the student's own; who is how good."""
    found = mixes(groups)
    if not found:
        return []
    lines = [_against(mix, one) for mix, one in against_own(found)]
    if len(found) == 1 and len(found[0].names) > 1:
        shares = [f"{found[0].mean(f'generators/{name}/selected_share'):.0%} from {name}" for name in found[0].names]
        lines.append(f"Of what was selected, {', '.join(shares)}.")
    return [*lines, _alone(found)]


def _against(mix: Mix, one: Contrast) -> str:
    many = mix.label if len(mix.names) == 1 else f"the union of {', '.join(mix.names)}"
    words = {"better": "beats", "worse": "is worse than", "not resolved": "does not beat"}[one.verdict]
    signed = f"{'+' if one.difference.value > 0 else ''}{one.difference}"
    if one.verdict == "not resolved":
        signed += f", not resolved{one.adjustment}; {one.power}"
    where = " ".join(f"{name}={value}" for name, value in mix.others.items())
    of = f"{one.prompts} {split([mix.group])} prompts, {one.seeds} seed{'s' if one.seeds > 1 else ''}"
    return (
        f"{f'With {where}, training' if where else 'Training'} on {many} {words} training on as many of the student's "
        f"own samples in sampled accuracy: {signed} ({of})."
    )


def _alone(found: Sequence[Mix]) -> str:
    """Every generator's own accuracy, once."""
    own: dict[str, str] = {}
    for mix in sorted(found, key=lambda one: -len(one.names)):
        for name in mix.names:
            own.setdefault(name, f"{name} {mix.accuracy(name)}")
    return f"The generators' own sampled accuracy: {', '.join(own.values())}."
