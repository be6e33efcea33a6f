"""Read the folder of a run. Its files are data: nothing is instantiated, resolved or executed."""

import functools
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.config.arms import ArmPolicy, policies
from bench.config.keys import id_of_settings
from bench.config.rules import Rule, number, whole
from bench.errors import BenchError
from bench.evaluation.heldout import VALIDATION
from bench.evaluation.measures import Measure
from bench.procedures.artifact_graph import ARTIFACTS
from bench.records.environment import FILE as ENVIRONMENT
from bench.records.fingerprint import FILE as CODE
from bench.records.metrics import NUMBERS, TEXTS, compared, metric_name
from bench.store import reading
from bench.store.files import FAILURE
from bench.store.reading import CHECKSUMS, LINEAGE, Named, as_json, as_yaml, damage, intact, mapping, matches, table

CONFIG, METRICS = "config.yaml", "metrics.json"
CURVES, PER_PROMPT = "curves.parquet", "per_prompt.parquet"
SAMPLES, DIAGNOSTICS, COMPLETIONS = "samples.parquet", "diagnostics.parquet", "completions.parquet"
RECORDS = (CONFIG, METRICS, LINEAGE, ARTIFACTS, CURVES, PER_PROMPT, SAMPLES, DIAGNOSTICS)  # of every complete run
TIMES = "times.json"  # when the run started and how long it took

PARTS = ("task", "policy", "generation", "scoring", "selection", "training", "evaluation")
SETTINGS: dict[str, Rule] = dict.fromkeys(("seed", "num_completions"), whole(0))
SETTINGS |= dict.fromkeys(("temperature", "top_p"), number(0))
CURVE_COLUMNS = {**dict.fromkeys(("policy", "method", "metric"), "text"), "n": "whole"}
SAMPLE_COLUMNS = {
    **dict.fromkeys(("split", "policy", "prompt_id", "prompt", "answer"), "text"),
    **dict.fromkeys(("completion", "finish_reason", "selected_for"), "text"),
    "sample": "whole",
    "length": "number",  # null: imported, and not counted
    "reward": "number",
}
Curve = tuple[str, str, str, int]  # policy, method, metric, n


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return short(self.value) + (f" [{short(self.low)}, {short(self.high)}]" if self.low < self.high else "")


@dataclass(frozen=True)
class Run:
    """A finished run. A table is read on first use; BenchError where it is missing or damaged."""

    folder: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    curves: dict[Curve, Estimate]

    @property
    def selection(self) -> str:
        """The name of the selection function, or of the algorithm that learns from every sample."""
        algorithm = self.config.get("procedure", {}).get("algorithm")
        return algorithm or self.config["selection"]["_target_"].rsplit(".", 1)[-1]

    @property
    def trained(self) -> bool:
        return "training" in self.config  # an imported pool is a run without it

    @property
    def controlled(self) -> bool:
        """Whether the run trained a random control too."""
        return self.config.get("control") != "none"

    @property
    def elsewhere(self) -> dict[str, ArmPolicy]:
        """The policies from elsewhere, by their names in the records."""
        return policies(self.config.get("arms") or {})

    @functools.cached_property
    def code(self) -> dict[str, str]:
        """Module -> hash of its source, of the code that made the run. Older records have one hash for all modules."""
        if not (self.folder / CODE).exists():
            return {"bench": str(self.metrics.get("code"))}
        with intact(self.folder / CODE) as content:
            return mapping(as_json(content))

    def series(self, policy: str, method: str, metric: str) -> dict[int, Estimate]:
        """n -> estimate, in order of n."""
        points = {key[3]: estimate for key, estimate in self.curves.items() if key[:3] == (policy, method, metric)}
        return dict(sorted(points.items()))

    def per_prompt(self, policy: str, method: str, metric: str, n: int) -> np.ndarray:
        """[M]: the values behind one estimate, in the order of the test prompts."""
        return self._per_prompt[policy, method, metric, n]

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of one of the run's tables, e.g. `run.rows(DIAGNOSTICS)`."""
        with intact(self.folder / name) as content:
            return table(content).to_pylist()

    @functools.cached_property
    def prompt_ids(self) -> tuple[str, ...]:
        """The ids of the test prompts, in their order."""
        with intact(self.folder / PER_PROMPT) as content:
            ids = tuple(dict.fromkeys(table(content, columns=["prompt_id"])["prompt_id"].to_pylist()))
            expected = self.metrics.get("test/prompts", len(ids))
            if len(ids) != expected:
                raise ValueError(f"it has {len(ids)} prompts, where the run had {expected}")
        return ids

    @functools.cached_property
    def lineage(self) -> list[dict[str, Any]]:
        """Every ancestor artifact: stage, key, part, settings, counts, seconds."""
        return reading.read_lineage(self.folder)

    @functools.cached_property
    def samples(self) -> dict[str, list]:
        """The columns of samples.parquet."""
        with intact(self.folder / SAMPLES) as content:
            return table(content, SAMPLE_COLUMNS).to_pydict()

    @functools.cached_property
    def _per_prompt(self) -> dict[Curve, np.ndarray]:
        with intact(self.folder / PER_PROMPT) as content:
            rows = table(content, {"prompt_id": "text", **CURVE_COLUMNS, "value": "number"})
            texts = [rows.column(name).combine_chunks().dictionary_encode() for name in ("prompt_id", *CURVE_COLUMNS)]
            ids, *names = (column.indices.to_numpy() for column in texts)
            place = np.ravel_multi_index(names, [max(1, len(column.dictionary)) for column in texts[1:]])
            _, first, counts = np.unique(place, return_index=True, return_counts=True)
            order = np.argsort(place, kind="stable")
            prompts = len(self.prompt_ids)
            uneven = np.flatnonzero(counts != prompts)
            by_curve = ids[order] if uneven.size else ids[order].reshape(-1, prompts)
            wrong = uneven if uneven.size else np.flatnonzero((by_curve != np.arange(prompts)).any(axis=1))
            curves = [tuple(column[int(row)].as_py() for column in texts[1:]) for row in first]
            if wrong.size:
                raise ValueError(f"{' '.join(map(str, curves[wrong[0]]))} has not one row for each of its prompts")
            numbers = rows.column("value").to_numpy()[order].astype(float).reshape(-1, prompts)
            values = dict(zip(curves, numbers, strict=True))
            absent = [curve for curve in self.curves if curve not in values and not curve[1].startswith(VALIDATION)]
            if absent and rows.column("value").type != "float":  # float32: a committed report's (see records.packed)
                raise ValueError(f"{' '.join(map(str, absent[0]))} of {CURVES} is not in it")
        return values

    def verify(self) -> None:
        """BenchError where a record is damaged, or the numbers of metrics.json, curves and per_prompt disagree.

        Each mean is computed again from its value per prompt, and so is each difference of two means.
        """
        for record in ("lineage", "samples", "code"):
            getattr(self, record)
        for curve, estimate in self.curves.items():
            name = metric_name(Measure(*curve))
            for end, value in zip(("", "_low", "_high"), (estimate.value, estimate.low, estimate.high), strict=True):
                self._same(METRICS, name + end, self.metrics[name + end], value, CURVES)
            if curve in self._per_prompt:
                self._same(CURVES, name, estimate.value, _mean(self._per_prompt[curve]), PER_PROMPT)
        measures: dict[Measure, Any] = {Measure(*curve): () for curve in self._per_prompt}
        for name, (ours, theirs) in compared(measures, [*self.elsewhere]).items():
            if (key := f"{name}/difference") in self.metrics:
                mean = _mean(self._per_prompt[ours] - self._per_prompt[theirs])
                self._same(METRICS, key, self.metrics[key], mean, PER_PROMPT)

    def _same(self, file: str, name: str, value: float | str | None, other: float, source: str) -> None:
        number = math.nan if value is None or isinstance(value, str) else value
        undefined = not isinstance(value, str) and math.isnan(number) and not math.isfinite(other)
        if not undefined and not math.isclose(number, other, rel_tol=1e-6, abs_tol=1e-6):  # or rounded to float32
            raise reading.unreadable(self.folder / file, f"has {name} = {value}, where {source} gives {other:.6g}")


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def read_run(folder: str | Path) -> Run:
    """The run in `folder`; BenchError where the run is not finished, or a file is not as the run left it."""
    folder = Path(folder)
    if not is_finished(folder):
        raise BenchError(f"{folder} holds no finished run (no {METRICS}); see {FAILURE} there, or run it again.")
    if (reason := changed(folder)) is not None:
        raise BenchError(f"{reason}; run the experiment again to rewrite it.")
    config, metrics = read_config(folder), read_metrics(folder)
    with intact(folder / CURVES) as content:
        rows = table(content, {**CURVE_COLUMNS, **dict.fromkeys(("value", "low", "high"), "number")}).to_pylist()
        curves = {
            (row["policy"], row["method"], row["metric"], row["n"]): Estimate(
                *(math.nan if row[end] is None else float(row[end]) for end in ("value", "low", "high"))
            )
            for row in rows
        }
        if len(curves) < len(rows):
            raise ValueError("it has two rows of one curve and n")
    return Run(folder, config, metrics, curves)


def is_finished(folder: Path) -> bool:
    """Whether `folder` holds metrics.json, the record that a run writes last."""
    return os.path.isfile(folder / METRICS)


def missing_records(folder: Path) -> list[str]:
    """The names of the records that `folder` lacks: none where a run is complete."""
    return [name for name in RECORDS if not os.path.isfile(folder / name)]


def record_files(folder: Path) -> list[str]:
    """The names of the records that are in `folder`: what checksums.json has the checksums of, figures aside."""
    named = [name for name in (CONFIG, METRICS, LINEAGE, ARTIFACTS, CODE, ENVIRONMENT) if os.path.isfile(folder / name)]
    return [*named, *sorted(path.name for path in folder.glob("[!.]*.parquet"))]


def changed(folder: Path) -> str | None:
    """Name the records that changed since the run; None where none did, or the run is older than checksums.json."""
    if without_checksums(folder) and (folder / COMPLETIONS).exists():  # runs that leave the one leave the other
        return f"{folder / CHECKSUMS} is missing"
    return damage(folder, record_files(folder))


def without_checksums(folder: Path) -> bool:
    """Whether the run is from before checksums.json, so that a change of its records may go unseen."""
    return not os.path.lexists(folder / CHECKSUMS)


def read_config(folder: Path) -> dict[str, Any]:
    """The run's settings. BenchError where config.yaml is damaged, or differs from the run id that names the folder.

    A folder with another name, such as a copy, is not compared.
    """
    with intact(folder / CONFIG) as content:
        config = mapping(as_yaml(content))
        for name in PARTS:
            if name in config and not matches(config[name], {"_target_": str}):
                raise ValueError(f"{name} should be a part, with its _target_")
        for name, rule in SETTINGS.items():
            if name in config and not rule.allows(config[name]):
                raise ValueError(f"{name} should be {rule.description}")
    name = folder.absolute().name
    if re.fullmatch(r"[0-9a-f]{10}", name) and (own := id_of_settings(config)) != name:
        raise BenchError(
            f"{folder / CONFIG} was changed since the run: its settings give the id {own}, not that of the folder; "
            "run the experiment again to rewrite it."
        )
    return Named(config, folder / CONFIG)


def read_metrics(folder: Path) -> dict[str, Any]:
    """The run's metrics by name: numbers, texts, and None for an undefined number. BenchError where damaged."""
    with intact(folder / METRICS) as content:
        metrics = mapping(as_json(content))
        for name, value in metrics.items():
            text = isinstance(value, str)
            # a number in quotes; the hash of the code may look like one
            quoted = text and name != "code" and as_number(value) is not None
            misplaced = text and not TEXTS.fullmatch(name) and NUMBERS.fullmatch(name)
            finite = not isinstance(value, float) or math.isfinite(value)
            if quoted or misplaced or not finite or isinstance(value, list | dict):
                raise ValueError(f"{name} should be a number, not {json.dumps(value)[:40]}")
    return Named(metrics, folder / METRICS)


def failure(folder: Path) -> str | None:
    """Why the last attempt at the run failed, in one line; None where it did not fail."""
    if not (folder / FAILURE).is_file():
        return None
    lines = reading.read_bytes(folder / FAILURE).decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no reason was written"


def seconds(folder: Path) -> float:
    """The run's wall-clock time in seconds; NaN where it was not recorded or can't be read."""
    try:
        taken = float(reading.read_json(folder / TIMES)["seconds"])
    except (OSError, ValueError, KeyError, TypeError):  # it only serves to predict the time of other runs
        return math.nan
    return taken if taken >= 0 else math.nan  # a clock that was set back


def as_number(text: str) -> float | None:
    """The number that `text` spells; None where it spells none."""
    try:
        return float(text)
    except ValueError:
        return None


def short(number: float) -> str:
    """Three decimals below 1, two above."""
    return f"{round(number, 3) + 0.0:.3f}" if abs(number) < 1 else f"{number:.2f}"  # no -0.000
