"""The space of a search: Hydra's interval, range and choice, as distributions that Optuna proposes from.

'temperature=interval(0.4,1.6)'    any number between       'k=range(1,9)' or 'k=int(interval(1,8))'    integers
'lr=tag(log,interval(1e-5,1e-3))'  on a log scale           'selection=softmax,rso'                     names
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from hydra.core.override_parser.types import Override
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from bench.errors import BenchError, first_line

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
DIGITS = 4  # of proposed numbers: further digits change nothing measurable, and would make long names of cells


def distribution(override: Override) -> Distribution:
    """The distribution of one setting, as given on a command line or in `hydra.sweeper.params`."""
    try:
        return _distribution(override)
    except ValueError as error:  # e.g. an interval whose ends are in the wrong order
        raise BenchError(f"{override.input_line} can't be searched: {first_line(error)}") from error


def _distribution(override: Override) -> Distribution:
    if override.is_interval_sweep():
        interval: Any = override.value()
        log = "log" in interval.tags
        if isinstance(interval.start, int) and isinstance(interval.end, int):
            return IntDistribution(interval.start, interval.end, log=log)
        return FloatDistribution(interval.start, interval.end, log=log)
    if override.is_range_sweep():
        values: list[Any] = sorted(override.sweep_iterator())
        if not values:
            raise ValueError("it gives no value.")
        grid: Any = override.value()
        if all(isinstance(value, int) for value in values):
            return IntDistribution(values[0], values[-1], step=abs(int(grid.step)))
        return FloatDistribution(values[0], values[-1], step=abs(grid.step))
    return CategoricalDistribution([str(value) for value in override.sweep_string_iterator()])


def as_text(distribution: Distribution, value: Any) -> str:
    """Write a value as on a command line; floats with four digits. None: the default of a setting that may be null."""
    if value is None:
        return "null"
    if not isinstance(distribution, FloatDistribution):
        return str(value)
    return repr(min(max(float(f"{value:.{DIGITS}g}"), distribution.low), distribution.high))


def contains(distribution: Distribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return as_text(distribution, value) in distribution.choices
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not distribution.low <= value <= distribution.high:
        return False
    steps = (value - distribution.low) / distribution.step if distribution.step else 0.0
    return abs(steps - round(steps)) < 1e-9


def proposable(space: Mapping[str, Distribution], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as Optuna proposes them: of a choice its text, also where this spells a number."""
    choices = {key for key, distribution in space.items() if isinstance(distribution, CategoricalDistribution)}
    return {key: as_text(space[key], value) if key in choices else value for key, value in values.items()}


def extremes(distribution: Distribution) -> list[Any]:
    """Values to check: the ends of a range, or all choices. Where these are possible, every value is."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return [distribution.low, distribution.high]


def draw(distribution: Distribution, rng: np.random.Generator) -> Any:
    """Draw a value uniformly, for an estimate of what a search will cost."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[rng.integers(len(distribution.choices))]
    if distribution.step is None:
        return rng.uniform(distribution.low, distribution.high)
    steps = round((distribution.high - distribution.low) / distribution.step)
    return distribution.low + distribution.step * int(rng.integers(steps + 1))


def described(distribution: Distribution) -> str:
    """Describe it in words, e.g. "0.4 to 1.6", "1 to 64 (log)", "softmax, rso"."""
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(str, distribution.choices))
    step = f" by {distribution.step:g}" if distribution.step not in (None, 1) else ""
    return f"{distribution.low:g} to {distribution.high:g}{step}{' (log)' if distribution.log else ''}"
