"""Rules for the values of settings, in the signatures of functions: `k: Annotated[int, whole(1)]`.

bench.config.checks reads the rules of every `_target_` in a configuration, and refuses other values before any work.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, replace
from typing import Annotated, Any, TypeVar, get_args, get_origin

from bench.errors import BenchError

T = TypeVar("T", bound=Callable[..., Any])
OR_NULL = ", or null"
COLDEST = 1e-4  # a sampling temperature below it lets logits / temperature leave the range of float32


@dataclass(frozen=True)
class Rule:
    """The allowed values of a setting, as a test and in words, e.g. "a whole number of at least 1"."""

    allows: Callable[[Any], bool]
    description: str
    # value -> (key, value, rule) of its parts
    inside: Callable[[Any], "Iterable[tuple[str, Any, Rule]]"] = lambda value: ()
    beyond: Callable[[Any], str] = lambda value: ""  # the limit of sensible sizes that a value exceeds, in words

    def words(self, value: Any) -> str:
        """The allowed values, in words; with the limit of sensible sizes where `value` is beyond it."""
        kind, null, _ = self.description.partition(OR_NULL)
        return f"{kind}{self.beyond(value)}{null}"


def whole(minimum: int, most: int = 1_000_000) -> Rule:
    """A whole number. most: no sensible value is above it."""
    return Rule(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= most,
        f"a whole number of at least {minimum}",
        beyond=_beyond(0, most),
    )


def number(
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    least: float = 1e-15,
    most: float = 1e9,
) -> Rule:
    """A finite number from low to high; open_low and open_high exclude that end.

    least, most: no sensible value other than 0 is nearer to 0, or farther from it.
    """

    def allows(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not (least <= abs(value) <= most or value == 0):  # NaN is neither
            return False
        return (value > low if open_low else value >= low) and (value < high if open_high else value <= high)

    ends = [f"{'above' if open_low else 'of at least'} {low:g}"] if low > -math.inf else []
    ends += [f"{'below' if open_high else 'at most'} {high:g}"] if high < math.inf else []
    return Rule(allows, " ".join(["a number", " and ".join(ends)]).strip(), beyond=_beyond(least, most))


def _beyond(least: float, most: float) -> Callable[[Any], str]:
    def words(value: Any) -> str:
        size = abs(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0
        if size > most:
            return f" and at most {most:,}" if value > 0 else f" and at least {-most:,}"
        return f", and not between 0 and {least:g}" if 0 < size < least else ""

    return words


def one_of(*choices: str) -> Rule:
    words = f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    return Rule(lambda value: isinstance(value, str) and value in choices, words)


def list_of(rule: Rule, description: str | None = None, *, empty: bool = True, distinct: bool = False) -> Rule:
    """A list of values that the rule allows. empty: whether it may be empty; distinct: whether they must differ."""

    def allows(value: Any) -> bool:
        if not isinstance(value, Sequence) or isinstance(value, str) or not (value or empty):
            return False
        return all(map(rule.allows, value)) and not (distinct and len(set(value)) < len(value))

    def beyond(value: Any) -> str:
        entries = value if isinstance(value, Sequence) and not isinstance(value, str) else []
        return next((words for entry in entries if (words := rule.beyond(entry))), "")

    return Rule(allows, description or f"a list of which each entry is {rule.description}", beyond=beyond)


def some_of(*choices: str) -> Rule:
    """A list of one or more of the choices, each once."""
    return list_of(one_of(*choices), f"a list of some of {', '.join(choices)}, each once", empty=False, distinct=True)


def text(pattern: str, description: str) -> Rule:
    return Rule(lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None, description)


def regex(description: str, suits: Callable[[re.Pattern[str]], bool]) -> Rule:
    """A regular expression that suits."""

    def allows(value: Any) -> bool:
        try:
            return isinstance(value, str) and suits(re.compile(value))
        except re.error:
            return False

    return Rule(allows, description)


def or_null(rule: Rule) -> Rule:
    return replace(
        rule, allows=lambda value: value is None or rule.allows(value), description=rule.description + OR_NULL
    )


TRUE_OR_FALSE = Rule(lambda value: isinstance(value, bool), "true or false")
ABOVE_ZERO = number(0, open_low=True)
PROBABILITY_MASS = number(0, 1, open_low=True)
FOLDER = text(r"[^\0\n]+", "the path of a folder, as text")
PLAIN_NAME = text(
    r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}",
    "a plain name of at most 128 letters, digits, '.', '_' and '-', not starting with '.', and not a mere number",
)
PROJECT = text(r"[^/\\#?%:\0\n]{1,128}", "a name of 1 to 128 characters without / \\ # ? % :")  # W&B's limits
DTYPE = one_of("auto", "float32", "bfloat16", "float16")

SEED = whole(0, 2**63 - 1)
TEMPERATURE = number(0, least=COLDEST, most=100)
SAMPLES = whole(1, 100_000)  # completions of one prompt

Seed = Annotated[int, SEED]
Temperature = Annotated[float, TEMPERATURE]
TopP = Annotated[float, PROBABILITY_MASS]
TopK = Annotated[int, whole(0)]
Count = Annotated[int, whole(1)]
Tokens = Annotated[int, whole(1, 1_000_000_000)]
Samples = Annotated[int, SAMPLES]
PER_PROMPT = "completions per prompt"
CountPerPrompt = Annotated[int, SAMPLES, PER_PROMPT]  # at most num_completions
PromptCount = Annotated[int, whole(1, 100_000_000)]
Workers = Annotated[int, whole(1, 1_024)]  # processes, CPUs or GPUs
Requests = Annotated[int, whole(1, 10_000)]  # at once
Retries = Annotated[int, whole(0, 1_000)]
Seconds = Annotated[float, number(0, open_low=True, most=1e6)]
EPOCHS = number(0, open_low=True, most=1_000)
Epochs = Annotated[float, EPOCHS]
LearningRate = Annotated[float, number(0, open_low=True, most=10)]
WeightDecay = Annotated[float, number(0, most=100)]


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


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The default of each parameter of a function or class; inspect.Parameter.empty where it has none."""
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def counts_per_prompt(function: Callable[..., Any]) -> list[str]:
    """The parameters of a function that count completions per prompt."""
    parameters = inspect.signature(function).parameters.items()
    return [name for name, parameter in parameters if PER_PROMPT in get_args(parameter.annotation)]


def checked(check: Callable[[Mapping[str, Any]], None]) -> Callable[[T], T]:
    """Attach `check` to a function; bench.config.checks calls it for every configured function, before any work.

    check(config) raises BenchError where settings do not fit together. config: the whole resolved configuration.
    """
    return _attaching("check_settings", check)


def here(check: Callable[[Mapping[str, Any]], object]) -> Callable[[T], T]:
    """Attach `check` to a function; it is called with the function's own settings before a run, and for no plan.

    check(settings) raises BenchError where this machine lacks what they name: a folder, a model, a package.
    """
    return _attaching("check_here", check)


def _attaching(name: str, check: Callable[[Mapping[str, Any]], object]) -> Callable[[T], T]:
    def decorate(function: T) -> T:
        setattr(function, name, check)
        return function

    return decorate


def refuse_colder(config: Mapping[str, Any], least: float, engine: str, most: float = math.inf) -> None:
    """BenchError where a temperature at which this engine draws is not 0 and not from `least` to `most`."""
    adapt = config["procedure"].get("adapt") or {}
    drawn_at = [("temperature", config["temperature"]), ("evaluation.temperature", config["evaluation"]["temperature"])]
    drawn_at += [("evaluation.temperatures", each) for each in config["evaluation"].get("temperatures") or ()]
    for key, value in [*drawn_at, *(("procedure.adapt.temperatures", each) for each in adapt.get("temperatures", ()))]:
        if value != 0 and not least <= value <= most:
            raise BenchError(
                f"{key}={value} is not allowed with generation={engine}: it must be 0 or at least {least}"
                f"{f', and at most {most}' if most < math.inf else ''}."
            )


def require(config: Mapping[str, Any], setting: str, rule: Rule) -> None:
    """BenchError where this procedure does not allow the run's value of a setting."""
    if not rule.allows(config[setting]):
        procedure = config["procedure"]["_target_"].split(".")[-2]  # its module is its choice in conf/procedure
        raise BenchError(
            f"{setting}={config[setting]} is not allowed with procedure={procedure}: it must be {rule.description}."
        )
