"""The table of runs in rounds: what each round gained, and what it cost in diversity and KL."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.records.read import Estimate
from bench.reporting.exhibit import Table
from bench.reporting.groups import Group
from bench.reporting.tables.shared import ARMS, over_what, settings_cells, settings_columns, spread

COUNTED = {
    "kept": "trained on",
    "kept_correct": "of it right",
    "distinct_paths": "distinct paths",
    "pool_reward": "mean reward",
    "validation_pass@1": "pass@1 on validation",
}


@dataclass(frozen=True)
class Trajectory:
    """One arm of a group over its rounds, the base as round 0; rounds that only some of its seeds ran are left out."""

    group: Group
    arm: str
    policies: tuple[str, ...]  # base, round_1, ...: as the records call them

    def values(self, method: str, metric: str, n: int) -> list[Estimate]:
        return [self.group.mean(policy, method, metric, n) for policy in self.policies]


def trajectories(groups: Sequence[Group]) -> list[Trajectory]:
    """Those of every group that has rounds: tuned and, where there is one, control."""
    found = []
    for group in groups:
        rounds = min(int(run.metrics.get("rounds/run", 0)) for run in group.runs)
        for arm in ("tuned", "control") if group.controlled else ("tuned",):
            suffix = "" if arm == "tuned" else f"_{arm}"
            if rounds:
                names = (f"round_{number}{suffix}" for number in range(1, rounds + 1))
                found.append(Trajectory(group, arm, ("base", *names)))
    return found


def rounds_table(groups: Sequence[Group]) -> Table | None:
    """A row a round and arm, the base as round 0; None where no run went in rounds."""
    found = trajectories(groups)
    if not found:
        return None
    largest = most_samples(found)
    rows = []
    for one in found:
        for number, policy in enumerate(one.policies):
            if number == 0 and one.arm != "tuned":
                continue
            rows.append(
                {
                    **settings_cells(one.group),
                    "arm": ARMS[one.arm] if number else ARMS["base"],
                    "round": number,
                    **spread("greedy", one.group.mean(policy, "greedy", "accuracy", 1)),
                    **spread("pass", one.group.mean(policy, "pass", "accuracy", 1)),
                    **spread("solved", one.group.mean(policy, "pass", "accuracy", largest)),
                    **spread("paths", one.group.mean(policy, "distinct", "correct_paths", largest)),
                    **spread("kl", one.group.mean(policy, "policy", "kl", 1)),
                    "entropy": _mean(one.group, f"{policy}/entropy_per_token"),
                    **{name: _mean(one.group, f"{policy}/{name}") for name in COUNTED},
                    "seeds": len(one.group.runs),
                }
            )
    counted = {name: title for name, title in COUNTED.items() if any(row[name] is not None for row in rows)}
    return Table(
        name="rounds",
        caption=(
            f"Rounds of rejection sampling; round 0 is the base. {over_what([one.group for one in found])}. KL is from "
            f"the original base, in nats a sequence; entropy in nats a token; correct paths are distinct ones in "
            f"{largest} samples a prompt. What a round trained on, how many of it are right and how many differ "
            "in prompt or path, and its pool's mean reward are means over seeds."
        ),
        rows=[{name: value for name, value in row.items() if name not in COUNTED or name in counted} for row in rows],
        runs=[run for one in found if one.arm == "tuned" for run in one.group.runs],
        columns={
            **settings_columns(groups),
            "arm": "policy",
            "round": "round",
            "greedy": "greedy",
            "pass": "pass@1",
            "solved": f"pass@{largest}",
            "paths": "correct paths",
            "kl": "KL",
            "entropy": "entropy",
            **counted,
        },
    )


def most_samples(found: Sequence[Trajectory]) -> int:
    """The largest k of pass@k that all of their policies have."""
    return min(
        max(run.series(policy, "pass", "accuracy"))
        for one in found
        for run in one.group.runs
        for policy in one.policies
    )


def _mean(group: Group, name: str) -> float | None:
    """Over the group's seeds, of a metric that all of them recorded."""
    values = [run.metrics.get(name) for run in group.runs]
    known = [float(value) for value in values if value is not None]
    if len(known) < len(values):
        return None
    mean = sum(known) / len(known)
    return round(mean) if all(isinstance(value, int) for value in values) else mean  # of counts, a count
