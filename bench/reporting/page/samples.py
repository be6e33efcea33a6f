"""The columns of samples that the page's browser reads, from the samples of all runs."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from jinja2.utils import htmlsafe_json_dumps

from bench.records.read import Run
from bench.reporting.groups import distinctions
from bench.reporting.words import ARMS

CODED = {  # a recorded column of texts -> the column of their positions, the list with every text once
    "completion": ("text", "texts"),
    "policy": ("policy", "policies"),
    "split": ("split", "splits"),
    "finish_reason": ("finish", "finishes"),
    "selected_for": ("chosen", "chosens"),
}
PROMPT = ("prompt_id", "prompt", "answer")
UNKNOWN = -1  # correctness, where it was not recorded
NAMING = ("policy", "selected_for")  # columns that name policies
COMPARED = (("base", "tuned"), ("control", "tuned"))  # policies whose verdicts on one held-out prompt are compared
ROOM = 3_500_000  # bytes of texts on the page: with its figures it then stays below 5 MB
LONGEST = (16_384, 8_192, 4_096, 2_048, 1_024, 512)  # characters of a text, from the longest to the shortest limit


class _Codes(dict):
    """A number for every distinct value, in the order of arrival: a text that many runs share is stored once."""

    def __missing__(self, value: Hashable) -> int:
        self[value] = len(self)
        return self[value]


def sample_columns(runs: Sequence[Run]) -> dict[str, Any]:
    """All samples of all runs as columns with one entry per completion, and the lists that they point into.

    run, prompt, text, policy, split, finish, chosen: positions in runs, prompts [id, prompt, answer], texts, policies,
    splits, finishes, chosens. length: tokens. reward: null where unscored. correct: 1, 0, or -1 where not recorded.
    sample: the column of the pool. flip: a position in flips, which has the changes of verdict between policies on
    this prompt. longest: characters beyond which a text is cut, or None.
    """
    coded = ("prompts", "flips", *(name for _, name in CODED.values()))
    lists: dict[str, dict[Any, int]] = {name: _Codes() for name in coded}
    names = ("run", "prompt", "sample", "length", "reward", "correct", "flip", *(name for name, _ in CODED.values()))
    columns: dict[str, list] = {name: [] for name in names}
    for position, run in enumerate(runs):
        samples = run.samples
        count = len(samples["sample"])
        columns["run"] += [position] * count
        columns["prompt"] += map(lists["prompts"].__getitem__, zip(*(samples[name] for name in PROMPT), strict=True))
        for name, (column, texts) in CODED.items():
            words = map(_arms, samples[name]) if name in NAMING else samples[name]
            columns[column] += map(lists[texts].__getitem__, words)
        columns["sample"] += samples["sample"]
        columns["length"] += samples["length"]
        columns["reward"] += map(_rounded, samples["reward"])
        correct = samples.get("correct", [None] * count)
        columns["correct"] += [UNKNOWN if verdict is None else int(verdict) for verdict in correct]
        flips = _flips(samples | {"correct": correct}, [*COMPARED, *(("base", name) for name in run.elsewhere)])
        columns["flip"] += [
            lists["flips"][() if split == "train" else tuple(flips.get(prompt, ()))]
            for split, prompt in zip(samples["split"], samples["prompt_id"], strict=True)
        ]
    known = {name: list(codes) for name, codes in lists.items()}
    longest = _longest([*known["texts"], *(text for prompt in known["prompts"] for text in prompt)])
    known["texts"] = [_cut(text, longest) for text in known["texts"]]
    known["prompts"] = [tuple(_cut(text, longest) for text in prompt) for prompt in known["prompts"]]
    return {**_named(runs), "longest": longest, **known, **columns}


def _named(runs: Sequence[Run]) -> dict[str, list]:
    """What sets each run apart, its seed and its id; and what sets apart each of several groups, and its runs."""
    names, groups = [], dict[str, list[int]]()
    for position, (apart, run) in enumerate(zip(distinctions([run.config for run in runs]), runs, strict=True)):
        words = [f"{name}={value}" for name, value in apart.items()]
        names.append(" ".join([*words, f"seed={run.config['seed']}", run.folder.name]))
        groups.setdefault(" ".join(words), []).append(position)
    several = [(name, members) for name, members in groups.items() if 1 < len(members) < len(runs)]
    return {"runs": names, "groups": several}


def _flips(samples: Mapping[str, list], pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Held-out prompt -> where one policy's greedy completion is correct and another's is wrong, in words."""
    verdicts = {
        (prompt, policy): verdict
        for split, prompt, policy, verdict in zip(
            *(samples[name] for name in ("split", "prompt_id", "policy", "correct")), strict=True
        )
        if split != "train" and verdict is not None
    }
    flips: dict[str, list[str]] = {}
    for prompt in dict.fromkeys(prompt for prompt, _ in verdicts):
        for pair in pairs:
            before, after = (verdicts.get((prompt, policy)) for policy in pair)
            if None not in (before, after) and before != after:
                words = ("wrong", "correct") if after else ("correct", "wrong")
                named = [f"{_arms(policy)} {word}" for policy, word in zip(pair, words, strict=True)]
                flips.setdefault(prompt, []).append(", ".join(named))
    return flips


def _arms(recorded: str) -> str:
    """The policies that a record names, as readers know them: "tuned and random control"."""
    return " and ".join(ARMS.get(policy, policy) for policy in recorded.split(" and "))


def _longest(texts: Sequence[str]) -> int | None:
    """The limit on the length of a text with which all of them fit on the page; None where they fit as they are."""
    for longest in (None, *LONGEST):
        if sum(len(htmlsafe_json_dumps(_cut(text, longest), ensure_ascii=False).encode()) for text in texts) <= ROOM:
            return longest
    return LONGEST[-1]


def _cut(text: str, longest: int | None) -> str:
    """The text without its middle where it is too long: its beginning and its end are what one reads."""
    if longest is None or len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n[{len(text) - 2 * half:,} characters are left out here]\n{text[-half:]}"


def _rounded(reward: float | None) -> float | None:
    """Six significant digits: enough to read and to sort by, at a third of the bytes."""
    return None if reward is None or not math.isfinite(reward) else float(f"{reward:.6g}")
