"""Which groups of runs drew and scored alike, in which order groups are shown, and what they are called there."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from bench.records.read import Run
from bench.reporting.groups import Group

SAMPLER = ("task", "policy", "generation", "scoring", "temperature", "top_p", "split")  # what shapes the held-out pool
SHORT = {"temperature": "T", "num_completions": "N", "top_p": "top-p"}


def scorers(groups: Sequence[Group]) -> list[Run]:
    """A run for each scorer and seed, whatever was trained on what it chose."""
    return [run for _, group in samplers(groups) for run in group.runs]


def samplers(groups: Sequence[Group]) -> list[tuple[str, Group]]:
    """(name, group) of each distinct way of drawing and scoring the base's held-out pool, in order of its settings.

    Groups that differ in what they train on share a pool: the one with most seeds, then with most n, stands for them.
    """
    names = sampler_settings(groups)
    chosen = [max(way, key=lambda one: (len(one.runs), max(_sizes(one), default=0))) for way in _ways(groups)]
    return [(named(group, names), group) for group in in_order(chosen, names)]


def sampler_settings(groups: Sequence[Group]) -> list[str]:
    """The settings in which samplers differ: constant among the groups of each; none where there is one sampler."""
    ways = _ways(groups)
    return [
        name
        for name in groups[0].settings
        if len(ways) > 1 and all(len({group.settings[name] for group in way}) == 1 for way in ways)
    ]


def _ways(groups: Sequence[Group]) -> list[list[Group]]:
    alike: dict[Hashable, list[Group]] = {}
    for group in groups:
        alike.setdefault(_sampler(group), []).append(group)
    return list(alike.values())


def _sampler(group: Group) -> Hashable:
    config = group.runs[0].config
    return str([(name, _without_seed(config.get(name), config["seed"])) for name in SAMPLER])


def _without_seed(part: Any, seed: int) -> Any:
    if not isinstance(part, Mapping):
        return part
    return {key: _without_seed(value, seed) for key, value in part.items() if not (key == "seed" and value == seed)}


def _sizes(group: Group) -> list[int]:
    return list(group.series("base", "best_of_n", "accuracy"))


def in_order(groups: Sequence[Group], names: Sequence[str] | None = None) -> list[Group]:
    """By their settings, or those in `names`: numbers by size, words by letters."""
    return sorted(groups, key=lambda one: [order_of(one.settings[name]) for name in names or one.settings])


def order_of(value: str) -> tuple[float, str]:
    """Sorts numbers by size, before words by letters."""
    try:
        return float(value), ""
    except ValueError:
        return float("inf"), value


def named(group: Group, names: Sequence[str] | None = None) -> str:
    """What sets a group apart, as a figure has room for: "T=0.7 N=16", "all_correct"."""
    shown = []
    for name in group.settings if names is None else names:
        last = name.rsplit(".", 1)[-1]
        value = group.settings[name]
        shown.append(
            value if last in ("selection", "scoring", "policy", "task") else f"{SHORT.get(last, last)}={value}"
        )
    return " ".join(shown)
