"""Policies that were trained elsewhere (`arms`), judged beside those of any procedure (see bench.config.arms).

The base's system prompt, thinking mode and trust in code hold for them too, so that all are asked alike.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from bench.artifacts import Policy
from bench.config import arms
from bench.evaluation.heldout import AlongTraining, Outcomes
from bench.policies import from_elsewhere
from bench.procedures.findings import Elsewhere, Results
from bench.procedures.parts import Parts
from bench.progress import say

ALIKE = ("system", "thinking", "trust_remote_code")


def run(procedure: Callable[[Parts], Results], parts: Parts) -> Results:
    """A procedure's results and the outcomes of policies from elsewhere. BenchError, first, for an unfit adapter."""
    if not parts.arms:
        return procedure(parts)
    policies = made(parts)
    results = procedure(parts)
    outcomes, along = judge(parts, policies)
    before = results.along_training
    if along is not None and before is not None:
        along = replace(along, outcomes=before.outcomes | along.outcomes)
    return replace(
        results,
        outcomes=results.outcomes | outcomes,
        along_training=before if along is None else along,
        elsewhere=policies,
    )


def configured(parts: Parts) -> dict[str, Callable[..., Policy]]:
    """The policies by name, as parts that are not yet made: each needs the `base`."""
    asked = getattr(parts.policy, "keywords", {})
    alike = {name: asked[name] for name in ALIKE if name in asked}
    return {
        name: partial(from_elsewhere, place=place, setting=f"arms.{arm}", **alike)
        for name, (arm, place, _) in arms.policies(parts.arms).items()
    }


def made(parts: Parts) -> dict[str, Elsewhere]:
    """The policies by name; those without a KL are said."""
    base, policies = parts.base, {}
    for name, policy in configured(parts).items():
        found = parts.named(name, partial(policy, base=base))
        policies[name] = Elsewhere(found, parts.incomparable(found))
        if policies[name].differs is not None:
            say(f"{name}: its {policies[name].differs} differs from the base's, so it is judged without a KL")
    return policies


def judge(parts: Parts, policies: Mapping[str, Elsewhere]) -> tuple[dict[str, Outcomes], AlongTraining | None]:
    """Their outcomes on the held-out prompts, and those of checkpoints of one training on validation prompts."""
    outcomes = {name: parts.judge(arm.policy) for name, arm in policies.items()}
    paths: dict[str, dict[int, Policy]] = {}
    for name, (arm, _, updates) in arms.policies(parts.arms).items():
        if updates is not None:
            paths.setdefault(arm, {})[updates] = policies[name].policy
    return outcomes, parts.judge_paths(paths)
