"""Policies from elsewhere: the names and the places that `arms` gives.

python -m bench arms.mine=FOLDER                                   a policy that was trained anywhere
python -m bench 'arms.grpo=[FOLDER/step_50,FOLDER/step_100]'       checkpoints of one training, in order
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from bench.config.rules import Rule
from bench.errors import BenchError

NUMBERED = r"base|tuned|control|distillation|cost|saved|break_even|scorer|selection|pool|train|test|\w*(_vs_|_of_)[^/]*"
TAKEN = re.compile(  # what begins the name of another metric, or names another curve or policy
    rf"{NUMBERED}|adaptive|bound|code|generators|hybrid|online|rounds|sampler|solutions|task|validation"
    r"|(base|tuned|control|generator|round)_\w+"
)
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
ARMS = Rule(lambda value: isinstance(value, Mapping), "policies by name, e.g. arms.mine=FOLDER")


class ArmPolicy(NamedTuple):
    """A policy from elsewhere."""

    arm: str  # NAME of arms.NAME
    place: str  # a folder, or ID or ID@REVISION of the Hugging Face Hub
    updates: int | None  # of its training, or its number among the checkpoints; None: the arm has no other


def policies(arms: Mapping[str, Any]) -> dict[str, ArmPolicy]:
    """The policies by their names in the records: NAME, or NAME_1, NAME_2, ... for checkpoints of one training."""
    made = {}
    for arm, given in arms.items():
        if isinstance(given, str):
            made[str(arm)] = ArmPolicy(str(arm), given, None)
        else:
            for number, (place, updates) in enumerate(zip(given, _updates(given), strict=True), 1):
                made[f"{arm}_{number}"] = ArmPolicy(str(arm), place, updates)
    return made


def several(arms: Mapping[str, Any]) -> bool:
    """Whether an arm has a list of checkpoints."""
    return any(policy.updates is not None for policy in policies(arms).values())


def _updates(path: Sequence[str]) -> Sequence[int]:
    """The number at the end of each folder's name, as in step_50, where these rise; else 1, 2, ..."""
    ends = [re.search(r"(\d{1,12})$", PurePath(place).name) for place in path]
    found = [int(end[1]) for end in ends if end is not None]
    rising = len(found) == len(path) and all(a < b for a, b in zip([0, *found], found, strict=False))
    return found if rising else range(1, len(path) + 1)


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
    numbered = policies({arm: given for arm, given in arms.items() if not isinstance(given, str)})
    for arm in map(str, arms):
        if TAKEN.fullmatch(arm):
            raise BenchError(f"arms.{arm} is not allowed: the records use {arm} already; take another name.")
        if arm in numbered:
            raise BenchError(f"arms.{arm} is not allowed: a checkpoint of arms.{numbered[arm].arm} has this name.")
