"""What readers call things: parts of a configuration, arms of a run, and what intervals hold for."""

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bench import policies
from bench.config.arms import ArmPolicy
from bench.config.rules import defaults
from bench.records.read import Estimate, Run
from bench.reporting.groups import Group, is_learned

ARMS = {"base": "base", "tuned": "tuned", "control": "random control"}
TASKS = {
    "Gsm8k": "GSM8K",
    "Math500": "MATH-500",
    "HumanEval": "HumanEval",
    "IfEval": "IFEval",
    "Mbpp": "MBPP",
    "UltraFeedback": "UltraFeedback",
    "ReasoningGym": "Reasoning Gym",
    "Jsonl": "prompts of a local file",
}
LINE = 132  # characters of a README's line
ITEM = re.compile(r" {0,3}((-|\d+\.) )?")  # what begins an item of a list
SCORERS = {"verify": "the task's verifier", "judge": "a language model as judge"}


def policy_words(settings: dict[str, Any]) -> str:
    """The hub's id, the folder's name without its place on this machine, or how a tiny policy was made."""
    if settings.get("path"):
        return str(settings["path"]).rstrip("/").rsplit("/", 1)[-1]
    if settings.get("id"):
        return str(settings["id"])
    if function_name(settings) != "tiny":
        return function_name(settings)
    known = defaults(policies.tiny) | settings
    return (
        f"a Llama of {known['layers']} layers and hidden size {known['hidden_size']}, pretrained from scratch on "
        f"{known['demonstrations']:,} of the task's noisy demonstrations ({known['steps']:,} steps of "
        f"{known['batch_size']} sequences, learning rate {known['learning_rate']:g})"
    )


def place_words(place: str) -> str:
    """A policy from elsewhere: the hub's id, or the folder's name without its place on this machine."""
    return place.rstrip("/").rpartition("/")[2] if place.startswith((".", "/", "~")) or place.count("/") > 1 else place


def checkpoint_words(policies: Mapping[str, ArmPolicy], name: str) -> str:
    """One of several checkpoints: its folder's name, or its name in the records where two folders have one name."""
    path = [policy for policy in policies.values() if policy.arm == policies[name].arm]
    words = {policy.place.rstrip("/").rpartition("/")[2] for policy in path}
    if policies[name].updates is None:
        return ""
    return policies[name].place.rstrip("/").rpartition("/")[2] if len(words) == len(path) else name


def task_words(settings: dict[str, Any]) -> str:
    """The published name, or the class's in lower case, e.g. "word problems"."""
    name = function_name(settings)
    return TASKS.get(name) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()


def scorer_words(settings: dict[str, Any]) -> str:
    return SCORERS.get(function_name(settings)) or function_name(settings).replace("_", " ")


def function_name(settings: dict[str, Any]) -> str:
    """The last part of a configuration's `_target_`."""
    return str(settings["_target_"]).rsplit(".", 1)[-1]


def split(groups: Sequence[Group]) -> str:
    """The prompts that the policies were judged on: validation or test."""
    return groups[0].runs[0].config.get("split", "test")


def over_what(groups: Sequence[Group]) -> str:
    """What the intervals hold for, e.g. "300 test prompts, 3 seeds; 95 % intervals for new prompts and seeds"."""
    prompts = groups[0].runs[0].metrics["test/prompts"]
    counts = sorted({len(group.runs) for group in groups})
    seeds = f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else counted(counts[0], "seed")
    return f"{prompts} {split(groups)} prompts, {seeds}; 95 % intervals {for_what_new(groups)}"


def for_what_new(groups: Sequence[Group]) -> str:
    """What is new where an interval holds: prompts, and seeds where there are several."""
    counts = {len(group.runs) for group in groups}
    if max(counts) == 1:
        return "for new prompts"
    return "for new prompts and seeds" if min(counts) > 1 else "for new prompts (and seeds, where there are several)"


def counted(count: int, noun: str) -> str:
    """ "1 seed", "2 seeds"."""
    return f"{count} {noun}{'s' if count > 1 else ''}"


def setting_words(value: Any) -> str:
    """A setting's value: a function by its last name, a number without trailing zeros."""
    if isinstance(value, dict) and "_target_" in value:
        return function_name(value)
    if isinstance(value, str) and value.startswith("bench."):
        return value.rsplit(".", 1)[-1]
    return "unset" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def listed(words: Sequence[str], last: str = "or") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def ended(found: Estimate, form: Callable[[float], str], no_low: str, no_high: str) -> str:
    """A number with its interval, and words for an end that there is not."""
    ends = ((found.low, no_low), (found.high, no_high))
    low, high = (form(end) if math.isfinite(end) else word for end, word in ends)
    return f"{form(found.value)} [{low}, {high}]"


def sampler_words(settings: Mapping[str, Any]) -> str:
    """How an import says that its completions were sampled; "" where it does not say."""
    names = {"temperature": "temperature", "top_p": "top-p"}
    stated = [f"{words} {settings[name]:g}" for name, words in names.items() if name in settings]
    return f"at {' and '.join(stated)}" if stated else ""


def best_of_n_name(runs: Iterable[Run]) -> str:
    """Best-of-n and who chooses; only Best-of-n where gold does in some runs and a learned reward in others."""
    choosers = {"learned reward" if is_learned(run) else "oracle" for run in runs}
    return f"Best-of-n ({choosers.pop()})" if len(choosers) == 1 else "Best-of-n"


def wrapped(text: str) -> str:
    """Markdown with every paragraph and list item filled anew; tables, code, headings and figures as they are."""
    blocks: list[list[str]] = []
    fenced = prose = False
    for line in text.split("\n"):
        fenced ^= line.startswith("```")
        continues = prose and not ITEM.match(line)[0].strip()  # type: ignore[index]
        prose = bool(line.strip()) and not fenced and not re.match(r"[|#!`]|    ", line)
        if prose and continues:
            blocks[-1].append(line.strip())
        else:
            blocks.append([line])
            blocks[-1] += [""] * prose  # two lines or more: prose
    return "\n".join(block[0] if len(block) == 1 else _filled(" ".join(filter(None, block))) for block in blocks)


def _filled(text: str) -> str:
    text = re.sub(r"(?<=\S)  +", " ", text)
    whole = re.sub(r"(?<=\d), (?=[-\d.,]+\])", ",\0", text)  # an interval stays on its line
    indent = " " * len(ITEM.match(text)[0])  # type: ignore[index]
    filled = textwrap.fill(whole, LINE, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return filled.replace("\0", " ")
