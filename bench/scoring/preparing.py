"""Scorers that learn first: what a scorer asks for by name is handed over once, before anything is scored.

A scorer is a function (prompts, completions, *, settings) -> Rewards. A function without these two artifacts makes a
scorer instead, from what it asks for by name: `base`, `task`, `generation` (see bench.experiment), and `prepare`, which
prepares another scorer for it. Scorers inside a scorer's settings are prepared as well; a maker prepares its own.

A scorer whose settings are a `model` and its `revision`, a folder or a model of the hub, has it found here: one that is
missing is told before a pool is drawn, not after.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from bench.artifacts import Rewards
from bench.scoring.reward_model import find

Scoring = Callable[..., Rewards]


def prepared(scoring: Callable[..., Any], **available: Any) -> Scoring:
    """`scoring` ready to be called with (prompts, completions). A setting already given is left as it is."""
    function, settings = (
        (scoring.func, dict(scoring.keywords)) if isinstance(scoring, functools.partial) else (scoring, {})
    )
    parameters = inspect.signature(function).parameters
    offered = {**available, "prepare": functools.partial(prepared, **available)}
    asked = {name: value for name, value in offered.items() if name in parameters and name not in settings}
    if "completions" not in parameters:
        return function(**settings, **asked)
    if settings.get("model") is not None and {"model", "revision"} <= parameters.keys():
        named = {name: settings[name] for name in ("model", "revision", "trust_remote_code") if name in settings}
        find(**named)
    settings = {name: _inside(value, available) for name, value in settings.items()}
    return functools.partial(function, **settings, **asked) if settings or asked else function


def _inside(value: Any, available: Mapping[str, Any]) -> Any:
    """The setting with the scorers in it prepared: itself one, or in a dictionary or list."""
    if isinstance(value, functools.partial):
        return prepared(value, **available)
    if isinstance(value, Mapping):
        return {name: _inside(item, available) for name, item in value.items()}
    return [_inside(item, available) for item in value] if isinstance(value, list) else value
