"""The columns of samples that the page's browser reads, from the samples of all runs."""

import math
from collections.abc import Hashable, Sequence

from bench.records.read import Run
from bench.reporting.groups import distinctions

CODED = {  # a recorded column of texts -> the column of their positions, the list with every text once
    "completion": ("text", "texts"),
    "policy": ("policy", "policies"),
    "split": ("split", "splits"),
    "finish_reason": ("finish", "finishes"),
    "selected_for": ("chosen", "chosens"),
}
PROMPT = ("prompt_id", "prompt", "answer")
UNKNOWN = -1  # correctness, where it was not recorded


class _Codes(dict):
    """A number for every distinct value, in the order of arrival: a text that many runs share is stored once."""

    def __missing__(self, value: Hashable) -> int:
        self[value] = len(self)
        return self[value]


def sample_columns(runs: Sequence[Run]) -> dict[str, list]:
    """All samples of all runs as columns with one entry per completion, and the lists that they point into.

    run, prompt, text, policy, split, finish, chosen: positions in runs, prompts [id, prompt, answer], texts, policies,
    splits, finishes, chosens. length: tokens. reward: null where unscored. correct: 1, 0, or -1 where not recorded.
    sample: the column of the pool.
    """
    lists: dict[str, dict[Hashable, int]] = {"prompts": _Codes(), **{name: _Codes() for _, name in CODED.values()}}
    names = ("run", "prompt", "sample", "length", "reward", "correct", *(column for column, _ in CODED.values()))
    columns: dict[str, list] = {name: [] for name in names}
    for position, run in enumerate(runs):
        samples = run.samples
        count = len(samples["sample"])
        columns["run"] += [position] * count
        columns["prompt"] += map(lists["prompts"].__getitem__, zip(*(samples[name] for name in PROMPT), strict=True))
        for name, (column, texts) in CODED.items():
            columns[column] += map(lists[texts].__getitem__, samples[name])
        columns["sample"] += samples["sample"]
        columns["length"] += samples["length"]
        columns["reward"] += map(_rounded, samples["reward"])
        correct = samples.get("correct", [None] * count)
        columns["correct"] += [UNKNOWN if verdict is None else int(verdict) for verdict in correct]
    return {"runs": _labels(runs), **{name: list(codes) for name, codes in lists.items()}, **columns}


def _labels(runs: Sequence[Run]) -> list[str]:
    """What sets each run apart from the others, its seed and its id."""
    return [
        " ".join([*(f"{name}={value}" for name, value in apart.items()), f"seed={run.config['seed']}", run.folder.name])
        for run, apart in zip(runs, distinctions([run.config for run in runs]), strict=True)
    ]


def _rounded(reward: float | None) -> float | None:
    """Six significant digits: enough to read and to sort by, at a third of the bytes."""
    return None if reward is None or not math.isfinite(reward) else float(f"{reward:.6g}")
