"""Groups that share a sampler, groups that share a panel, and the order and the names in which they are shown."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from bench.records.frames import dotted
from bench.reporting.groups import Group, order_of

SAMPLER = ("task", "policy", "generation", "scoring", "temperature", "top_p", "split")  # what shapes the held-out pool
SHORT = {"temperature": "T", "num_completions": "N", "top_p": "top-p"}
T = TypeVar("T")


def alike(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """The items in lists of equal key, in the order in which keys first appear."""
    lists: dict[Hashable, list[T]] = {}
    for item in items:
        lists.setdefault(key(item), []).append(item)
    return list(lists.values())


def having(groups: Sequence[Group], metric: str) -> list[Group]:
    """The groups of which every run recorded the metric."""
    return [group for group in groups if all(metric in run.metrics for run in group.runs)]


def samplers(groups: Sequence[Group]) -> list[tuple[str, Group]]:
    """(name, group) for each distinct way of drawing and scoring the base's held-out pool, in order of its settings.

    Of groups that differ only in what they train on, the one with most seeds, then with most n, stands for all.
    """
    names = sampler_settings(groups)
    chosen = [
        max(same, key=lambda group: (len(group.runs), max(group.series("base", "best_of_n", "accuracy"), default=0)))
        for same in alike(groups, _sampler)
    ]
    return [(named(group, names), group) for group in in_order(chosen, names)]


def sampler_settings(groups: Sequence[Group]) -> list[str]:
    """The settings in which samplers differ; none where there is one sampler."""
    return distinct(groups, _sampler)[1]


def distinct(groups: Sequence[Group], key: Callable[[Group], Hashable]) -> tuple[list[Group], list[str]]:
    """The first group of each key, and the settings that are constant among groups of equal key; none for one key."""
    parts = alike(groups, key)
    names = [
        name
        for name in groups[0].settings
        if len(parts) > 1 and all(len({group.settings[name] for group in part}) == 1 for part in parts)
    ]
    return [part[0] for part in parts], names


def in_panels(groups: Sequence[Group], names: Sequence[str]) -> list[tuple[str, list[Group]]]:
    """(title, groups that differ in nothing but the settings in `names`), in order of the other settings."""
    others = [name for group in groups[:1] for name in group.settings if name not in names]
    panels = alike(in_order(groups), lambda group: tuple(group.settings[name] for name in others))
    return [(named(panel[0], others), panel) for panel in panels]


def in_order(groups: Sequence[Group], names: Sequence[str] | None = None) -> list[Group]:
    """Sort by their settings, or by those in `names`: numbers by size, words by letters."""
    return sorted(groups, key=lambda group: [order_of(group.settings[name]) for name in names or group.settings])


def named(group: Group, names: Sequence[str] | None = None) -> str:
    """The settings that set a group apart, in a form short enough for a figure: "T=0.7 N=16", "all_correct"."""
    shown = []
    chosen = list(group.settings if names is None else names)
    for name in [group.named_by] if group.named_by in chosen else chosen:
        last, value = name.rsplit(".", 1)[-1], group.settings[name]
        is_part = last in ("selection", "scoring", "policy", "task")
        shown.append(value if is_part else f"{SHORT.get(last, last)}={value}")
    return " ".join(shown)


def _sampler(group: Group) -> str:
    config = group.runs[0].config
    settings = dotted({name: config.get(name) for name in SAMPLER})
    return str([item for item in settings.items() if not (item[0].endswith(".seed") and item[1] == config["seed"])])


def but_temperature(group: Group, names: Sequence[str]) -> str:
    """Equal for samplers that differ in nothing else; every other sampler's own."""
    rest = [group.settings[name] for name in names if name != "temperature"]
    return str(rest if "temperature" in names else [*rest, group.label])


def panel_setting(groups: Sequence[Group], names: Sequence[str]) -> list[str]:
    """The setting of `names` with fewest values; none where there is only one setting."""
    if len(names) < 2:
        return []
    return [min(reversed(names), key=lambda name: len({group.settings[name] for group in groups}))]


def interpolate(x: float, xs: np.ndarray, values: np.ndarray) -> np.ndarray | None:
    """[M] at x, linear between the rows of values [K, M] at ascending xs [K]; None outside of them."""
    if x < xs[0] or x > xs[-1]:
        return None
    if (xs == x).any():
        return values[xs == x].mean(axis=0)
    after = int(np.searchsorted(xs, x))
    part = (x - xs[after - 1]) / (xs[after] - xs[after - 1])
    return (1 - part) * values[after - 1] + part * values[after]
