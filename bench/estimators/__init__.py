"""Estimators of every number the suite reports: NumPy functions on arrays of M prompts and N completions per prompt.

    from bench import estimators
    accuracy = estimators.best_of_n(rewards, [1, 2, 4, 8], gold=correct).mean(axis=0)

Every public function of the modules here is a name of this package, or what a module's `__all__` lists; the docstring
of each has an example that can be checked by hand. A module by subject:

- `curves`, `voting`: Best-of-n, pass@k, pass^k, majority votes, each for every n up to N from one pool; `soft`: soft
  Best-of-n; `sequential`: pass@k of pools whose sampling stopped early
- `kl`, `policy_divergence`: the KL of Best-of-n from its sampler or from the base, and of a policy from its base
- `uncertainty`: intervals, paired comparisons with a verdict, tests, training seeds, power
- `crossing`: two curves over k on the same prompts, and where either leads; `audit`: a verifier's errors, from labels
- `reward_curve`: the reward over √KL, and whether its fall is resolved
- `compute`: FLOPs, and the number of queries after which fine-tuning pays

An int n gives [M]; a sequence of K numbers gives [M, K]. NaN marks a sample that could not be scored: it counts as
never drawn, and a row with fewer than n scored samples gives NaN for that n. All logarithms are natural.
"""

import functools
import importlib
import inspect
import pkgutil
from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in _public():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _public()[name]


def __dir__() -> list[str]:
    return sorted(_public())


@functools.cache
def _public() -> dict[str, Any]:
    """Name -> function or class, of the modules here but `arrays` and `distributions`, on which the others rest."""
    names = [found.name for found in pkgutil.iter_modules(__path__) if found.name not in ("arrays", "distributions")]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return {name: getattr(module, name) for module in modules for name in _names(module)}


def _names(module: Any) -> list[str]:
    """The module's `__all__`, or its own public functions; result classes come with the functions that return them."""
    own = {
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    return sorted(getattr(module, "__all__", own))
