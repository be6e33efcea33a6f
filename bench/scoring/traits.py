"""What is known of a scorer before it scores anything: whether it compares samples, and how high its rewards can be."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from bench.errors import BenchError
from bench.scoring.combined import combined
from bench.scoring.judge import judge
from bench.scoring.length import length
from bench.scoring.process_reward import process_reward
from bench.scoring.self_consistency import self_consistency
from bench.scoring.trained_process_reward import trained_process_reward
from bench.scoring.unit_tests import unit_tests
from bench.scoring.verifier import verify


def refuse_comparing(scoring: Callable[..., Any], asks: str) -> None:
    """BenchError where a completion's reward depends on other completions: then no sample can be judged before all are.

    asks: what needs rewards of single completions, e.g. "procedure=adaptive can't stop by".
    """
    if found := _comparing(scoring):
        raise BenchError(
            f"{asks} this scoring, in which {found} compares a completion with others: use one that judges each by "
            "itself, e.g. scoring=verifier."
        )


def refuse_too_low(scoring: Callable[..., Any], above: float, key: str) -> None:
    """BenchError where no reward can be above `above`, which is what `key` asks of an accepted completion."""
    if highest(scoring) <= above:
        raise BenchError(
            f"{key} accepts rewards above {above:g}, and this scoring gives {highest(scoring):g} at most, so that "
            "nothing would be accepted; use another, e.g. scoring=verifier"
            + ("." if key == "procedure=hybrid" else f", or lower {key}.")
        )


def highest(scoring: Callable[..., Any]) -> float:
    """The highest reward that it can give; infinite where that is not known."""
    function, settings = _parts(scoring)
    if function in (verify, unit_tests, self_consistency, process_reward, trained_process_reward):
        return 1.0
    if function is length and settings.get("prefer") == "shortest":
        return 0.0
    if function is judge and "scale" in settings:
        return float(max(settings["scale"]))
    return float("inf")


def _comparing(node: Any) -> str | None:
    """What in a scorer's settings, at any depth, compares completions."""
    function, settings = _parts(node)
    if function is self_consistency:
        return "self_consistency"
    if function is combined and settings.get("normalise") != "none":
        return f"normalise={settings.get('normalise')}"
    inside = list(settings.values()) if settings else node if isinstance(node, list) else []
    return next((found for one in inside if (found := _comparing(one))), None)


def _parts(node: Any) -> tuple[Any, Mapping[str, Any]]:
    """The function and settings of a configured part; of a mapping no function, and what is in it."""
    if isinstance(node, functools.partial):
        return node.func, node.keywords
    return (None, node) if isinstance(node, Mapping) else (node, {})
