"""Rules for the values of settings, in the signatures of functions: `k: Annotated[int, whole(1)]`.

bench.config.checks reads the rules of every `_target_` in a configuration, and refuses other values before any work.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin

from bench.errors import BenchError

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class Rule:
    """Which values are allowed, as a test and in words, e.g. "a whole number of at least 1"."""

    allows: Callable[[Any], bool]
    description: str
    inside: Callable[[Any], "Iterator[tuple[str, Any, Rule]]"] = lambda value: iter(
        ()
    )  # value -> (key, value, rule) of its parts


def whole(minimum: int) -> Rule:
    return Rule(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= minimum,
        f"a whole number of at least {minimum}",
    )


def number(low: float = -math.inf, high: float = math.inf, *, open_low: bool = False, open_high: bool = False) -> Rule:
    """A finite number from low to high; open_low and open_high exclude that end."""

    def allows(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        return (value > low if open_low else value >= low) and (value < high if open_high else value <= high)

    ends = [f"{'above' if open_low else 'of at least'} {low:g}"] if low > -math.inf else []
    ends += [f"{'below' if open_high else 'at most'} {high:g}"] if high < math.inf else []
    return Rule(allows, " ".join(["a number", " and ".join(ends)]).strip())


def one_of(*choices: str) -> Rule:
    words = f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    return Rule(lambda value: isinstance(value, str) and value in choices, words)


def list_of(rule: Rule, description: str | None = None, *, empty: bool = True, distinct: bool = False) -> Rule:
    """A list of values that the rule allows. empty: whether it may be empty; distinct: whether they must differ."""

    def allows(value: Any) -> bool:
        if not isinstance(value, Sequence) or isinstance(value, str) or not (value or empty):
            return False
        return all(map(rule.allows, value)) and not (distinct and len(set(value)) < len(value))

    return Rule(allows, description or f"a list of which each entry is {rule.description}")


def some_of(*choices: str) -> Rule:
    """A list of one or more of the choices, each once."""
    return list_of(one_of(*choices), f"a list of some of {', '.join(choices)}, each once", empty=False, distinct=True)


def text(pattern: str, description: str) -> Rule:
    return Rule(lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None, description)


def or_null(rule: Rule) -> Rule:
    return Rule(lambda value: value is None or rule.allows(value), f"{rule.description}, or null")


TRUE_OR_FALSE = Rule(lambda value: isinstance(value, bool), "true or false")
ABOVE_ZERO = number(0, open_low=True)
PROBABILITY_MASS = number(0, 1, open_low=True)
FOLDER = text(r"[^\0\n]+", "the path of a folder, as text")
PLAIN_NAME = text(
    r"[A-Za-z0-9_-][A-Za-z0-9._-]*",
    "a plain name of letters, digits, '.', '_' and '-', not starting with '.', and not a mere number",
)
PROJECT = text(r"[^/\\#?%:\0\n]{1,128}", "a name of 1 to 128 characters without / \\ # ? % :")  # W&B's limits
DTYPE = one_of("auto", "float32", "bfloat16", "float16")

Seed = Annotated[int, whole(0)]
Temperature = Annotated[float, number(0)]
TopP = Annotated[float, PROBABILITY_MASS]
TopK = Annotated[int, whole(0)]
Count = Annotated[int, whole(1)]
PER_PROMPT = "completions per prompt"
CountPerPrompt = Annotated[int, whole(1), PER_PROMPT]  # at most num_completions


def rules(function: Callable[..., Any]) -> dict[str, Rule]:
    """The rules in the signature of a function or class, by parameter."""
    known = {}
    for name, parameter in inspect.signature(function).parameters.items():
        annotation = parameter.annotation.type if isinstance(parameter.annotation, InitVar) else parameter.annotation
        if get_origin(annotation) is Annotated:
            for note in get_args(annotation)[1:]:
                if isinstance(note, Rule):
                    known[name] = note
    return known


def counts_per_prompt(function: Callable[..., Any]) -> list[str]:
    """The parameters of a function that count completions per prompt."""
    parameters = inspect.signature(function).parameters.items()
    return [name for name, parameter in parameters if PER_PROMPT in get_args(parameter.annotation)]


def checked(check: Callable[[Mapping[str, Any]], None]) -> Callable[[T], T]:
    """Attach `check` to a function; bench.config.checks calls it for every configured function, before any work.

    check(config) raises BenchError where settings do not fit together. config: the whole resolved configuration.
    """

    def decorate(function: T) -> T:
        function.check_settings = check  # type: ignore[attr-defined]
        return function

    return decorate


def require(config: Mapping[str, Any], setting: str, rule: Rule) -> None:
    """BenchError where this procedure does not allow the run's value of a setting."""
    if not rule.allows(config[setting]):
        procedure = config["procedure"]["_target_"].split(".")[-2]  # its module is its choice in conf/procedure
        raise BenchError(
            f"{setting}={config[setting]} is not allowed with procedure={procedure}: it must be {rule.description}."
        )
