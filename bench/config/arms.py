"""Policies from elsewhere: the names and the places that `arms` gives.

python -m bench arms.mine=FOLDER                                   a policy that was trained anywhere
python -m bench 'arms.grpo=[FOLDER/step_50,FOLDER/step_100]'       checkpoints of one training, in order
"""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from bench.config.rules import Rule
from bench.errors import BenchError

NUMBERED = r"base|tuned|control|distillation|cost|saved|break_even|scorer|selection|pool|train|test|\w*(_vs_|_of_)[^/]*"
TAKEN = re.compile(  # what begins the name of another metric, or names another curve or policy
    rf"{NUMBERED}|adaptive|bound|code|generators|hybrid|rounds|sampler|task|validation"
    r"|(base|tuned|control|generator|round)_\w+"
)
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
ARMS = Rule(lambda value: isinstance(value, Mapping), "policies by name, e.g. arms.mine=FOLDER")


def checkpoints(arms: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Arm -> the names of its policies in the records -> their places, each a folder or an id of the Hugging Face Hub.

    The policy of an arm with one place has the arm's name. Several are checkpoints of one training: NAME_1, NAME_2, ...
    """
    return {
        str(arm): {str(arm): given}
        if isinstance(given, str)
        else {f"{arm}_{number}": place for number, place in enumerate(given, 1)}
        for arm, given in arms.items()
    }


def places(arms: Mapping[str, Any]) -> dict[str, str]:
    """The name of each policy in the records -> its place."""
    return {name: place for path in checkpoints(arms).values() for name, place in path.items()}


def several(arms: Mapping[str, Any]) -> bool:
    """Whether an arm has several checkpoints."""
    return any(len(path) > 1 for path in checkpoints(arms).values())


def updates(path: Mapping[str, str]) -> dict[str, int]:
    """The number of updates of each checkpoint, where the names of their folders end in rising numbers, as step_50 does.

    Else their numbers from 1 in the given order.
    """
    ends = [re.search(r"(\d+)$", PurePath(place).name) for place in path.values()]
    found = [int(end[1]) for end in ends if end is not None]
    rising = len(found) == len(path) and all(a < b for a, b in zip([0, *found], found, strict=False))
    return dict(zip(path, found if rising else range(1, len(path) + 1), strict=True))


def check(arms: Mapping[str, Any]) -> None:
    """Raise BenchError where a name or a place is not allowed, or two policies have one name."""
    for arm, given in arms.items():
        listed = [given] if isinstance(given, str) else given
        if not NAME.fullmatch(str(arm)):
            raise BenchError(f"arms.{arm} is not allowed: a name has letters, digits and _, and begins with a letter.")
        if isinstance(listed, str | Mapping) or not hasattr(listed, "__len__") or not len(listed):
            raise BenchError(f"arms.{arm}={given} is not allowed: it must be a folder or an id of the Hub, or a list.")
        if wrong := [place for place in listed if not isinstance(place, str) or not re.fullmatch(r"[^\0\n]+", place)]:
            raise BenchError(f"arms.{arm}={wrong[0]} is not allowed: it must be a folder or an id of the Hub, as text.")
        if len(set(listed)) < len(listed):
            raise BenchError(f"arms.{arm} is not allowed: it has one checkpoint twice.")
    names = [name for path in checkpoints(arms).values() for name in path]
    for name in names:
        if TAKEN.fullmatch(name):
            raise BenchError(f"arms.{name} is not allowed: the records use {name} already; take another name.")
        if names.count(name) > 1:
            raise BenchError(f"arms.{name} is not allowed: {name} is also a checkpoint of another arm.")
