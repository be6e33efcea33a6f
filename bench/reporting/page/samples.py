"""Every run's samples.parquet as the columns that the page's browser reads."""

import math
from collections.abc import Hashable, Sequence

from bench.records.read import Run
from bench.reporting.groups import distinctions

CODED = {  # a recorded column whose texts are listed once -> its column of positions, its list
    "completion": ("text", "texts"),
    "policy": ("policy", "policies"),
    "split": ("split", "splits"),
    "finish_reason": ("finish", "finishes"),
    "selected_for": ("chosen", "chosens"),
}
PROMPT = ("prompt_id", "prompt", "answer")
UNKNOWN = -1  # whether a completion is right, where that was not recorded


class _Codes(dict):
    """A number for every distinct value, in the order of arrival: a text that many runs share is there once."""

    def __missing__(self, value: Hashable) -> int:
        self[value] = len(self)
        return self[value]


def sample_columns(runs: Sequence[Run]) -> dict[str, list]:
    """All samples of all runs, one entry a completion in columns of numbers that point into lists of texts.

    run, prompt, text, policy, split, finish and chosen are positions in runs, prompts [id, prompt, answer], texts,
    policies, splits, finishes and chosens; length is in tokens, reward null where unscored, correct 1, 0 or -1 (not
    recorded), sample the column of the pool.
    """
    lists: dict[str, dict[Hashable, int]] = {"prompts": _Codes(), **{name: _Codes() for _, name in CODED.values()}}
    names = ("run", "prompt", "sample", "length", "reward", "correct", *(column for column, _ in CODED.values()))
    columns: dict[str, list] = {name: [] for name in names}
    for position, run in enumerate(runs):
        recorded = _recorded(run)
        columns["run"] += [position] * len(recorded["sample"])
        columns["prompt"] += map(lists["prompts"].__getitem__, zip(*(recorded[name] for name in PROMPT), strict=True))
        for name, (column, texts) in CODED.items():
            columns[column] += map(lists[texts].__getitem__, recorded[name])
        columns["sample"] += recorded["sample"]
        columns["length"] += recorded["length"]
        columns["reward"] += map(_number, recorded["reward"])
        columns["correct"] += [UNKNOWN if right is None else int(right) for right in recorded["correct"]]
    return {"runs": run_labels(runs), **{name: list(codes) for name, codes in lists.items()}, **columns}


def run_labels(runs: Sequence[Run]) -> list[str]:
    """What sets each run apart from the others, its seed and its id."""
    return [
        " ".join([*(f"{name}={value}" for name, value in apart.items()), f"seed={run.config['seed']}", run.folder.name])
        for run, apart in zip(runs, distinctions([run.config for run in runs]), strict=True)
    ]


def _recorded(run: Run) -> dict[str, list]:
    return {"correct": [None] * len(run.samples["sample"]), **run.samples}


def _number(reward: float | None) -> float | None:
    """Six significant digits: what one reads and sorts by, at a third of the bytes."""
    if reward is None or not math.isfinite(reward):
        return None
    return float(f"{reward:.6g}")
