"""Scorers: functions (prompts, completions, *, settings) -> Rewards [M, N], one number per completion; NaN: unscored.

Adding a scorer takes one function, in any package, one file in conf/scoring/ and one test:

    @Scorer(highest=1.0)  # optional: what is known before it scores anything
    def has_marker(prompts, completions, *, marker: Annotated[str, text(".+", "a text")]):
        return Rewards(np.array([[float(marker in text) for text in row] for row in completions.text]))

    # conf/scoring/has_marker.yaml
    _target_: my_package.has_marker
    _partial_: true
    marker: "####"

`prepared` fills the parameters that no setting fills: `base` (the base policy), `task`, `generation` (of the run) and
`prepare`, which prepares another scorer. It also prepares the scorers inside a scorer's settings.

A scorer that learns first is a function without the parameter `completions`. It is called once, before anything is
scored, and returns the scorer (see trained_reward_model). Costly scores are best kept in the store: see units.scored.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from hydra.utils import get_object

from bench.artifacts import Rewards
from bench.config.rules import here
from bench.errors import BenchError

Scoring = Callable[..., Rewards]
Settings = Mapping[str, Any]
F = TypeVar("F", bound=Callable[..., Any])
ATTRIBUTE = "known_of_scorer"  # of a scorer's function


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Mark a function as a scorer, and state its properties: values, or functions of its settings."""

    highest: float | Callable[[Settings], float] = math.inf  # reward that it can give; infinite: not known
    verdicts: bool = False  # whether its rewards are 0 for wrong and 1 for right
    log_odds: bool = False  # whether only differences of its rewards have a meaning, as in a Bradley-Terry model
    compares: str | Callable[[Settings], str] = ""  # what in it compares the samples of a prompt, for messages
    check: Callable[[Settings], None] = lambda settings: None  # raises BenchError for what is missing, before any work

    def __call__(self, function: F) -> F:
        setattr(function, ATTRIBUTE, self)
        return here(self.check)(function)


def prepared(scoring: Callable[..., Any], **available: Any) -> Scoring:
    """The scorer ready to be called with (prompts, completions). A setting already given is left as it is."""
    function, settings = _parts(scoring)
    parameters = inspect.signature(function).parameters
    offered = {**available, "prepare": functools.partial(prepared, **available)}
    filled = {name: value for name, value in offered.items() if name in parameters and name not in settings}
    _stated(function).check(settings)
    if "completions" not in parameters:
        return function(**settings, **filled)
    settings = {name: _prepared_inside(value, available) for name, value in settings.items()}
    return functools.partial(function, **settings, **filled) if settings or filled else function


def _prepared_inside(value: Any, available: Settings) -> Any:
    """A setting with the scorers in it prepared: the setting itself, or those in a dictionary or list."""
    if isinstance(value, functools.partial):
        return prepared(value, **available)
    if isinstance(value, Mapping):
        return {name: _prepared_inside(item, available) for name, item in value.items()}
    return [_prepared_inside(item, available) for item in value] if isinstance(value, list) else value


def refuse_comparing(scoring: Callable[..., Any], needs: str) -> None:
    """Raise BenchError where a completion's reward depends on other completions: no sample is judged before all are.

    needs: what needs the rewards of single completions, e.g. "procedure=adaptive can't stop by".
    """
    if comparison := _comparison(scoring):
        raise BenchError(
            f"{needs} this scoring, in which {comparison} compares a completion with others: use one that judges each "
            "by itself, e.g. scoring=verifier."
        )


def refuse_too_low(scoring: Callable[..., Any], above: float, key: str) -> None:
    """Raise BenchError where no reward can be above `above`, which `key` requires of an accepted completion."""
    if (most := highest(scoring)) <= above:
        raise BenchError(
            f"{key} accepts rewards above {above:g}, and this scoring gives {most:g} at most, so that nothing would be "
            "accepted; use another, e.g. scoring=verifier"
            + ("." if key == "procedure=hybrid" else f", or lower {key}.")
        )


def highest(scoring: Callable[..., Any]) -> float:
    """The highest reward that a scorer can give; infinite where that is not known."""
    function, settings = _parts(scoring)
    stated = _stated(function).highest
    return stated(settings) if callable(stated) else stated


def gives_log_odds(scoring: Settings) -> bool:
    """Whether the configured scorer states that its rewards are log-odds."""
    return _stated(get_object(scoring["_target_"])).log_odds


def _comparison(node: Any) -> str:
    """What in a scorer, or in its settings at any depth, compares completions; empty where nothing does."""
    function, settings = _parts(node)
    compares = _stated(function).compares
    words = compares(settings) if callable(compares) else compares
    inside = list(settings.values()) if settings else node if isinstance(node, list) else []
    return words or next((found for part in inside if (found := _comparison(part))), "")


def _stated(function: Any) -> Scorer:
    return getattr(function, ATTRIBUTE, Scorer())


def _parts(node: Any) -> tuple[Any, dict[str, Any]]:
    """The function and settings of a configured part; of a mapping no function, and its items."""
    if isinstance(node, functools.partial):
        return node.func, dict(node.keywords)
    return (None, dict(node)) if isinstance(node, Mapping) else (node, {})
