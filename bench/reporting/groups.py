"""Runs that differ in nothing but the seed, taken together, and what sets such groups apart."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.errors import BenchError
from bench.estimators.bootstrap import share_ends
from bench.estimators.uncertainty import seed_interval
from bench.evaluation.cells import SHARES
from bench.records.read import Estimate, Run
from bench.training.recipe import SPEED_ONLY

PLACES = ("store", "outputs", "name", "tracking", "threads")
ALIKE = {f"training.{name}" for name in (*SPEED_ONLY, "keep_every")}  # settings that leave what is reported as it is
ADDED = ("instruction", "system")  # settings of a task whose words stand around every prompt


@dataclass(frozen=True)
class Group:
    """Runs alike but for the seed, in order of it."""

    settings: dict[str, str]  # what sets this group apart from the others compared: column -> value, as one reads it
    runs: tuple[Run, ...]

    @property
    def label(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.settings.items())

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.config["seed"] for run in self.runs)

    @property
    def controlled(self) -> bool:
        return all(run.controlled for run in self.runs)

    def series(self, policy: str, method: str, metric: str) -> dict[int, Estimate]:
        """n -> mean over seeds and prompts, with an interval for new seeds on new prompts.

        Of one seed: the run's own, for new prompts alone.
        """
        if len(self.runs) == 1:
            return self.runs[0].series(policy, method, metric)
        return {n: self.mean(policy, method, metric, n) for n in self.runs[0].series(policy, method, metric)}

    def mean(self, policy: str, method: str, metric: str, n: int) -> Estimate:
        if len(self.runs) == 1:
            return self.runs[0].series(policy, method, metric)[n]
        return estimate(self.per_prompt(policy, method, metric, n), shares=metric in SHARES)

    def per_prompt(self, policy: str, method: str, metric: str, n: int) -> np.ndarray:
        """[S, M]: seeds by test prompts."""
        return np.stack([run.per_prompt(policy, method, metric, n) for run in self.runs])


def estimate(values: np.ndarray, *, shares: bool = False) -> Estimate:
    """values: [S, M] with S > 1; the mean, for new seeds on new prompts. shares: they lie in [0, 1] (`share_ends`)."""
    if not np.isfinite(values).all(axis=0).sum() > 1:
        return Estimate(float("nan"), float("nan"), float("nan"))
    found = seed_interval(values)
    low, high = found.low, found.high
    if shares:
        numbers = np.array([low, high, np.nanmin(values), np.nanmax(values), found.prompts])
        below, above = share_ends(numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], 0.95)
        low, high = float(below), float(above)
    return Estimate(found.mean, low, high)


def grouped(runs: Sequence[Run]) -> list[Group]:
    """One group for every distinct configuration but for the seed, in the order in which they come.

    BenchError where runs of different code or test prompts would stand side by side, or a group has a seed twice.
    """
    _refuse_mixtures(runs)
    unseeded: dict[str, list[Run]] = {}
    settings = [_flat(run.config) for run in runs]
    keys = dict.fromkeys(key for one in settings for key in one)
    repeated = {key for key in keys if all(_repeats_seed(key, one) for one in settings if key in one)}
    for run, one in zip(runs, settings, strict=True):
        alike = {key: value for key, value in one.items() if key.split(".")[0] not in PLACES and key not in repeated}
        unseeded.setdefault(str(sorted(alike.items())), []).append(run)
    groups = []
    for apart, found in zip(distinctions([one[0].config for one in unseeded.values()]), unseeded.values(), strict=True):
        ordered = tuple(sorted(found, key=lambda run: run.config["seed"]))
        seeds = [run.config["seed"] for run in ordered]
        if len(set(seeds)) < len(seeds):
            raise BenchError(
                f"{ordered[0].folder} and another run have the same settings and seed; give each run once."
            )
        groups.append(Group(apart, ordered))
    return groups


def in_order(runs: Sequence[Run]) -> list[Run]:
    """By what sets them apart, numbers by size, then by seed: the same order wherever they were read from."""
    apart = [tuple(map(_by_size, settings.values())) for settings in distinctions([run.config for run in runs])]
    found = sorted(zip(apart, runs, strict=True), key=lambda one: (one[0], one[1].config["seed"], one[1].folder.name))
    return [run for _, run in found]


def _by_size(value: str) -> tuple[bool, float, str]:
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value


def _refuse_mixtures(runs: Sequence[Run]) -> None:
    first = runs[0]
    for what, differ in (("different code", _other_code), ("different test prompts", _other_prompts)):
        for run in runs[1:]:
            if differ(first, run):
                raise BenchError(
                    f"{first.folder} and {run.folder} come from {what} and can't be compared; run the same command "
                    "again for the older one (what the store holds is not made anew), or report them apart."
                )


def _other_code(one: Run, other: Run) -> bool:
    return bool(one.metrics.get("code") != other.metrics.get("code"))


def _other_prompts(one: Run, other: Run) -> bool:
    """By their ids and, where both records have it, by their content: a task's seed draws others under the same ids.

    Content may differ by what a task adds to every prompt, since that is a setting which one may compare.
    """
    if one.prompt_ids != other.prompt_ids:
        return True
    keys = {run.metrics.get("test/prompts_key") for run in (one, other)} - {None}
    tasks = [_flat(run.config.get("task", {})) for run in (one, other)]
    added = [{name: task.pop(name, None) for name in ADDED} for task in tasks]
    return len(keys) > 1 and not (tasks[0] == tasks[1] and added[0] != added[1])


def distinctions(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """For each configuration, what sets it apart from the others, without what only repeats a setting at the top.

    Where a part differs in its function, the function's name stands for it, with those of its settings in which
    configurations of that same function differ.
    """
    flat = [_flat(config) for config in configs]
    differing = _differing(flat)
    parts = [key.removesuffix("._target_") for key in differing if key.endswith("._target_")]
    parts = [part for part in parts if not part.startswith(tuple(f"{other}." for other in parts))]  # the outermost
    columns = dict.fromkeys(_column(key, parts) for key in differing if key != "seed")
    return [{column: _shown(column, setting, flat, column in parts) for column in columns} for setting in flat]


def _column(key: str, parts: Sequence[str]) -> str:
    """The part that a setting belongs to, where parts differ in their function; else the setting itself."""
    return next((part for part in parts if key.startswith(f"{part}.")), key)


def _shown(column: str, setting: dict[str, Any], others: Sequence[dict[str, Any]], is_part: bool) -> str:
    if not is_part:
        return _name(setting[column]) if column in setting else ""
    target = f"{column}._target_"
    alike = [other for other in others if other.get(target) == setting.get(target)]
    own = [key for key in _differing(alike) if key.startswith(f"{column}.")]
    inner = tuple(key.removesuffix("_target_") for key in own if key.endswith("._target_"))
    own = [key for key in own if key.endswith("._target_") or not key.startswith(inner)]
    detail = [
        f"{key.removeprefix(f'{column}.').removesuffix('._target_')}={_name(setting[key])}"
        for key in own
        if key in setting
    ]
    function = setting.get(target)
    return " ".join([procedure_name(function) if column == "procedure" else _name(function), *detail])


def procedure_name(target: str | None) -> str:
    """As conf/procedure calls it, which is its module's name, but for bench.experiment.run: "single".

    None: records of before there were procedures, which are single too.
    """
    module = target.split(".")[-2] if target else "experiment"
    return "single" if module == "experiment" else module


def _name(value: Any) -> str:
    """The last part of a function's dotted path; anything else as one would type it."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    return value.rsplit(".", 1)[-1] if isinstance(value, str) and value.startswith("bench.") else str(value)


def _differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Keys of settings that are not alike in all, without those that only repeat one that stands farther out.

    That is one at the top under the same last name, e.g. policy.seed of seed, or one of another part under the same
    path, e.g. scoring.task.seed of task.seed.
    """
    keys = dict.fromkeys(key for setting in settings for key in setting if key.split(".")[0] not in PLACES)
    different = [key for key in keys if len({str(setting.get(key)) for setting in settings}) > 1]

    def repeats(key: str) -> bool:
        top = re.sub(r"^\w+_seed$", "seed", key.rsplit(".", 1)[-1])
        if top != key and not _is_task_seed(key) and all(one.get(key) == one.get(top) for one in settings):
            return True
        outer = [other for other in different if "." in other and key.endswith(f".{other}")]
        return any(all(one[key] == one.get(other) for one in settings if key in one) for other in outer)

    return [key for key in different if not repeats(key)]


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in node.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return {name: value for name, value in flat.items() if name not in ALIKE}


def _repeats_seed(key: str, settings: Mapping[str, Any]) -> bool:
    """Whether a setting is the run's seed, or a part's that may be taken from it (another part's may equal it once).

    A task's seed is none: it draws other prompts, on which nothing is paired.
    """
    is_seed = re.search(r"(^|[._])seed$", key) is not None and not _is_task_seed(key)
    return is_seed and settings.get(key) == settings["seed"]


def _is_task_seed(key: str) -> bool:
    return key == "task.seed" or key.endswith(".task.seed")
