"""Group runs that differ only in their seed, and say what sets such groups apart."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.config.keys import PLACES, task_name
from bench.errors import BenchError
from bench.estimators.bootstrap import share_ends
from bench.estimators.kl import best_of_n_kl_bias
from bench.estimators.training_seeds import seed_interval
from bench.evaluation.measures import SHARES
from bench.records.frames import by_last_names, dotted
from bench.records.read import Estimate, Run, as_number
from bench.training.recipe import SPEED_ONLY

NOT_COMPARED = (*PLACES, "name", "threads")  # settings at the top, with all below them
NO_EFFECT = {"generation.batch_tokens", *(f"training.{name}" for name in (*SPEED_ONLY, "keep_every"))}  # on numbers
PROMPT_FRAME = ("instruction", "system")  # settings of a task: the text around every prompt

Settings = Mapping[str, Any]  # dotted name -> value


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed, in order of the seed."""

    settings: dict[str, str]  # what sets this group apart from the others: column -> value as text
    runs: tuple[Run, ...]
    named_by: str | None = None  # the setting that alone names it in figures, where one was chosen

    @property
    def label(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.settings.items())

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.config["seed"] for run in self.runs)

    @property
    def trained(self) -> bool:
        return all(run.trained for run in self.runs)

    @property
    def controlled(self) -> bool:
        return all(run.controlled for run in self.runs)

    @property
    def arms(self) -> tuple[str, ...]:
        """The fine-tuned policies."""
        return ("tuned", "control") if self.controlled else ("tuned",)

    @property
    def pool_size(self) -> int:
        """Samples per held-out prompt; beyond n of a quarter of them, curves over n extrapolate."""
        return min(run.metrics["best_of_n/pool_size"] for run in self.runs)

    def key_of(self, points: Iterable[tuple[str, str, str, int]]) -> tuple[object, ...]:
        """Equal for groups of the same seeds with the same values per prompt at these points."""
        values = [np.ascontiguousarray(self.per_prompt(*point), dtype=float) for point in points]
        return self.seeds, *(array.tobytes() for array in values)

    def series(self, policy: str, method: str, metric: str) -> dict[int, Estimate]:
        """n -> `mean`."""
        return {n: self.mean(policy, method, metric, n) for n in self.runs[0].series(policy, method, metric)}

    def mean(self, policy: str, method: str, metric: str, n: int) -> Estimate:
        """The mean over seeds and prompts, with an interval for new seeds on new prompts.

        A single run has its own interval, for new prompts alone. A KL and its interval end at 0; that of Best-of-n
        extends down by `best_of_n_kl_bias`, which the spread between prompts does not show.
        """
        point = policy, method, metric, n
        alone = len(self.runs) == 1
        found = self.runs[0].curves[point] if alone else estimate(self.per_prompt(*point), shares=metric in SHARES)
        if not metric.startswith("kl"):
            return found
        bias = 0.0
        if (method.partition("@")[0], metric) == ("best_of_n", "kl"):
            sizes = [n, self.pool_size] if policy == "base" else self.runs[0].series(policy, method, metric)
            bias = best_of_n_kl_bias(n, max(sizes))
        return Estimate(*(max(number, 0.0) for number in (found.value, found.low - bias, found.high)))

    def per_prompt(self, policy: str, method: str, metric: str, n: int) -> np.ndarray:
        """[S, M]: seeds by test prompts."""
        return np.stack([run.per_prompt(policy, method, metric, n) for run in self.runs])


def estimate(values: np.ndarray, *, shares: bool = False) -> Estimate:
    """The mean of values [S, M], S > 1, and its interval for new seeds on new prompts. shares: see `share_ends`."""
    if not np.isfinite(values).all(axis=0).sum() > 1:
        return Estimate(float("nan"), float("nan"), float("nan"))
    interval = seed_interval(values)
    low, high = interval.low, interval.high
    if shares:
        numbers = np.array([low, high, np.nanmin(values), np.nanmax(values), interval.prompts, 0.95])
        low, high = map(float, share_ends(*numbers))
    return Estimate(interval.mean, low, high)


def is_learned(run: Run) -> bool:
    """Whether the run's scorer is not gold itself."""
    return run.metrics.get("scorer/equals_gold", 1) != 1


def recorded(run: Run, name: str) -> Estimate:
    """A number of metrics.json with its interval, NAME_low and NAME_high; NaN where undefined or not recorded."""
    numbers = [run.metrics.get(f"{name}{end}") for end in ("", "_low", "_high")]
    return Estimate(*(float("nan") if number is None else float(number) for number in numbers))


def grouped(runs: Sequence[Run]) -> list[Group]:
    """One group per configuration, seeds aside, in the order of their first runs.

    BenchError where runs come from different code or test prompts, or a group has a seed twice.
    """
    _refuse_mixtures(runs)
    settings = [_flat(run.config) for run in runs]
    names = dict.fromkeys(name for own in settings for name in own)
    seeds = {name for name in names if re.search(r"(^|[._])seed$", name) and not _is_task_seed(name)}
    seeds = {name for name in seeds if all(own[name] == own["seed"] for own in settings if name in own)}
    alike: dict[str, list[Run]] = {}
    for run, own in zip(runs, settings, strict=True):
        compared = {name: value for name, value in own.items() if _is_compared(name) and name not in seeds}
        alike.setdefault(str(sorted(compared.items())), []).append(run)
    apart = distinctions([members[0].config for members in alike.values()])
    by_seed = [tuple(sorted(members, key=lambda run: run.config["seed"])) for members in alike.values()]
    groups = [Group(own, members) for own, members in zip(apart, by_seed, strict=True)]
    for group in groups:
        if len(set(group.seeds)) < len(group.seeds):
            raise BenchError(
                f"{group.runs[0].folder} and another run have the same settings and seed; give each run once."
            )
    return groups


def in_order(runs: Sequence[Run]) -> list[Run]:
    """Sort runs by what sets them apart, numbers by size, then by seed: the same order whatever their source."""
    apart = distinctions([run.config for run in runs])
    keyed = [
        ([order_of(value) for value in settings.values()], run.config["seed"], run.folder.name, run)
        for settings, run in zip(apart, runs, strict=True)
    ]
    return [run for *_, run in sorted(keyed, key=lambda entry: entry[:3])]


def order_of(value: str) -> tuple[bool, float, str]:
    """A sort key: numbers by size, before words by letters."""
    number = as_number(value)
    return number is None, number or 0.0, value


def mixed_code(runs: Sequence[Run]) -> tuple[Run, Run] | None:
    """Two runs that used different sources of one module; None where there are none.

    Runs of different parts use different modules, and are compared by those that they share. Without a shared module,
    one of them is an older record.
    """
    users: dict[str, Run] = {}  # module -> the first run that used it
    for run in runs:
        if not run.code.keys() & runs[0].code.keys():
            return runs[0], run
        for module, source in run.code.items():
            if users.setdefault(module, run).code[module] != source:
                return users[module], run
    return None


def _refuse_mixtures(runs: Sequence[Run]) -> None:
    other_prompts = next(((runs[0], run) for run in runs[1:] if _other_prompts(runs[0], run)), None)
    tasks = {task_name(run.config["task"]): run.folder.parent for run in runs if "task" in run.config}
    if other_prompts and len(tasks) > 1:
        name, folder = next(iter(tasks.items()))
        raise BenchError(
            f"These runs are of several tasks ({', '.join(tasks)}), and a report compares runs of one; choose it with "
            f"task=, e.g. python -m bench.report {folder}/* task={name}"
        )
    for what, pair in (("different code", mixed_code(runs)), ("different test prompts", other_prompts)):
        if pair is not None:
            raise BenchError(
                f"{pair[0].folder} and {pair[1].folder} come from {what} and can't be compared; run the same command "
                "again for the older one (what the store holds is not made anew), or report them apart."
            )


def _other_prompts(first: Run, second: Run) -> bool:
    """Whether prompts differ in their ids or, as under another seed of the task, in their recorded content.

    The text around every prompt is a setting that one may compare, so content may differ by that alone.
    """
    if first.prompt_ids != second.prompt_ids:
        return True
    hashes = {run.metrics.get("test/prompts_key") for run in (first, second)} - {None}
    tasks = [_flat(run.config.get("task", {})) for run in (first, second)]
    frames = [{name: task.pop(name, None) for name in PROMPT_FRAME} for task in tasks]
    return len(hashes) > 1 and not (tasks[0] == tasks[1] and frames[0] != frames[1])


def distinctions(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What sets each configuration apart from the others: column -> value as text, the same columns in all.

    A setting that only repeats another one is left out, see `_differing`. Where a part differs in its function, the
    column is the part. Its value is the function's name with those settings in which configurations of this same
    function differ.
    """
    flat = by_last_names([_flat(config) for config in configs])
    mixed = any("procedure.algorithm" not in own for own in flat)
    for own in (own for own in flat if "procedure.algorithm" in own):  # it uses no selection: its name stands there
        own |= {name: own["procedure.algorithm"] if mixed else "" for name in own if name.startswith("selection.")}
    differing = _differing(flat)
    parts = [name.removesuffix("._target_") for name in differing if name.endswith("._target_")]
    parts = [part for part in parts if not part.startswith(tuple(f"{other}." for other in parts))]  # the outermost
    columns = dict.fromkeys(
        next((part for part in parts if name.startswith(f"{part}.")), name) for name in differing if name != "seed"
    )
    return [
        {
            column: _part(column, own, flat) if column in parts else _name(own[column]) if column in own else ""
            for column in columns
        }
        for own in flat
    ]


def _part(part: str, settings: Settings, others: Sequence[Settings]) -> str:
    """The name of a part's function, with the settings in which it differs from others of the same function."""
    target = f"{part}._target_"
    function = settings.get(target)
    alike = [other for other in others if other.get(target) == function]
    differing = [name for name in _differing(alike) if name.startswith(f"{part}.")]
    inner = tuple(name.removesuffix("_target_") for name in differing if name.endswith("._target_"))
    details = [
        f"{name.removeprefix(f'{part}.').removesuffix('._target_')}={_name(settings[name])}"
        for name in differing
        if name in settings and (name.endswith("._target_") or not name.startswith(inner))
    ]
    return " ".join([procedure_name(function) if part == "procedure" else _name(function), *details])


def procedure_name(target: str | None) -> str:
    """The name of our procedure in conf/procedure: its module's, or "single" for bench.experiment.run and None."""
    if target and not target.startswith("bench."):
        return target
    module = target.split(".")[-2] if target else "experiment"
    return "single" if module == "experiment" else module


def _name(value: Any) -> str:
    """The last part of a function's dotted path; any other value as one would type it."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    return value.rsplit(".", 1)[-1] if isinstance(value, str) and value.startswith("bench.") else str(value)


def _differing(settings: Sequence[Settings]) -> list[str]:
    """The names of settings that differ, without those that repeat another one in every configuration.

    A setting may repeat one at the top with the same last name (policy.seed repeats seed), or one of another part under
    the same path (scoring.task.seed repeats task.seed).
    """
    names = dict.fromkeys(name for own in settings for name in own if _is_compared(name))
    different = [name for name in names if len({str(own.get(name)) for own in settings}) > 1]

    def repeats(name: str) -> bool:
        top = re.sub(r"^\w+_seed$", "seed", name.rsplit(".", 1)[-1])
        if top != name and not _is_task_seed(name) and all(own.get(name) == own.get(top) for own in settings):
            return True
        outer = [other for other in different if "." in other and name.endswith(f".{other}")]
        return any(all(own[name] == own.get(other) for own in settings if name in own) for other in outer)

    return [name for name in different if not repeats(name)]


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in dotted(settings).items() if name not in NO_EFFECT}


def _is_compared(name: str) -> bool:
    return name.split(".")[0] not in NOT_COMPARED


def _is_task_seed(name: str) -> bool:
    """Whether a seed draws other prompts, on which nothing is paired."""
    return name == "task.seed" or name.endswith(".task.seed")
