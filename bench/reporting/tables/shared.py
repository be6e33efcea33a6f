"""What the tables' builders share: cells of a row, the words of a caption, and which groups differ in a curve."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from bench.records.read import Estimate, Run
from bench.reporting.groups import Group

ARMS = {"base": "base", "tuned": "tuned", "control": "control: random twin"}


def spread(key: str, found: Estimate | None) -> dict[str, float | None]:
    """A value and its interval as the cells of a row."""
    ends = (None, None, None) if found is None else (found.value, found.low, found.high)
    return dict(
        zip((key, f"{key}_low", f"{key}_high"), (None if end is None else float(end) for end in ends), strict=True)
    )


def settings_cells(group: Group, names: Sequence[str] | None = None) -> dict[str, Any]:
    """What sets a group apart, as cells (of `names` alone where they are given)."""
    return {f"config.{name}": group.settings[name] for name in (group.settings if names is None else names)}


def settings_columns(groups: Sequence[Group], names: Sequence[str] | None = None) -> dict[str, str]:
    return {f"config.{name}": name for name in (groups[0].settings if names is None else names)}


def all_runs(groups: Sequence[Group]) -> list[Run]:
    return [run for group in groups for run in group.runs]


def split(groups: Sequence[Group]) -> str:
    """Of which prompts the policies were judged on: validation or test."""
    return groups[0].runs[0].config.get("split", "test")


def over_what(groups: Sequence[Group]) -> str:
    """What the intervals hold for, e.g. "300 test prompts, 3 seeds; 95 % intervals for new prompts and seeds"."""
    prompts = groups[0].runs[0].metrics["test/prompts"]
    counts = sorted({len(group.runs) for group in groups})
    seeds = (
        f"{counts[0]} seed{'s' if counts[0] > 1 else ''}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    )
    new = (
        "new prompts"
        if counts == [1]
        else "new prompts and seeds"
        if counts[0] > 1
        else "new prompts (and seeds, where there are several)"
    )
    return f"{prompts} {split(groups)} prompts, {seeds}; 95 % intervals for {new}"


def distinct(groups: Sequence[Group], key: Callable[[Group], Hashable]) -> tuple[list[Group], list[str]]:
    """The first group of each that are alike in `key`, and the settings that are constant among those alike."""
    alike: dict[Hashable, list[Group]] = {}
    for group in groups:
        alike.setdefault(key(group), []).append(group)
    firsts = [found[0] for found in alike.values()]
    names = [
        name
        for name in groups[0].settings
        if all(len({group.settings[name] for group in found}) == 1 for found in alike.values())
    ]
    if len(firsts) == 1:
        names = []
    return firsts, names
