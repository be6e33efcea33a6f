"""Tables over n: Best-of-n with its measured KL beside the bound, and what the policies solve in k samples."""

from collections.abc import Sequence

import numpy as np

from bench.records.read import Estimate
from bench.reporting.contrasts import contrast
from bench.reporting.exhibit import Table
from bench.reporting.groups import Group
from bench.reporting.tables.shared import ARMS, all_runs, distinct, over_what, settings_cells, settings_columns, spread


def best_of_n(groups: Sequence[Group]) -> Table:
    """Of each distinct pool, every n once: configurations that differ only in what they train on share one."""
    longest = sorted(groups, key=lambda group: -len(group.series("base", "best_of_n", "accuracy")))
    pools, names = distinct(longest, _pool)
    order = {id(group): i for i, group in enumerate(groups)}
    rows = []
    for group in sorted(pools, key=lambda group: order[id(group)]):
        curves = {
            metric: group.series("base", "best_of_n", metric)
            for metric in ("accuracy", "proxy", "kl", "kl_sensitivity", "kl_bound", "win_rate")
        }
        for n in curves["accuracy"]:
            kl, bound = (group.per_prompt("base", "best_of_n", metric, n) for metric in ("kl", "kl_bound"))
            rows.append(
                {
                    **settings_cells(group, names),
                    "n": n,
                    **{
                        key: value
                        for metric, curve in curves.items()
                        for key, value in spread(metric, curve.get(n)).items()
                    },
                    **_exact_bound(curves["kl_bound"][n]),
                    **spread("overstated", contrast(bound, kl, f"bound {n}").difference if n > 1 else None),
                    "seeds": len(group.runs),
                    "prompts": group.runs[0].metrics["test/prompts"],
                }
            )
    return Table(
        name="best_of_n",
        caption=(
            f"Best-of-n of the base, with the run's own sampler. {over_what(groups)}. KL is from the raw base, in nats "
            "a sequence: measured; with unsolved prompts at the largest pass rate that fits them; and by the bound "
            "log n - (n - 1)/n, which overstates it by what the last column says."
        ),
        rows=rows,
        runs=all_runs(groups),
        columns={
            **settings_columns(groups, names),
            "n": "n",
            "accuracy": "accuracy",
            "win_rate": "win rate",
            "kl": "KL (nats)",
            "kl_sensitivity": "KL at most",
            "kl_bound": "log n bound",
            "overstated": "bound - measured",
        },
    )


def coverage(groups: Sequence[Group]) -> Table:
    """pass@k of every policy at the powers of two, and its majority vote at the largest k."""
    sizes = sorted({k for group in groups for k in group.series("base", "pass", "accuracy")})
    bases, names = distinct(groups, lambda group: _values(group, "base"))
    shown = [("base", group, names) for group in bases]
    shown += [
        (arm, group, list(group.settings))
        for group in groups
        for arm in ("tuned", "control")
        if arm == "tuned" or group.controlled
    ]
    rows = []
    for arm, group, settings in shown:
        solved, voted = (group.series(arm, method, "accuracy") for method in ("pass", "majority"))
        largest = max(voted, default=None)
        known = settings_cells(group, settings)
        rows.append(
            {
                **{f"config.{name}": known.get(f"config.{name}", "") for name in group.settings},
                "arm": ARMS[arm],
                **{key: value for k in sizes for key, value in spread(f"pass@{k}", solved.get(k)).items()},
                **spread("majority", voted[largest] if largest else None),
                "votes": largest,
                "seeds": len(group.runs),
                "prompts": group.runs[0].metrics["test/prompts"],
            }
        )
    votes = sorted({row["votes"] for row in rows if row["votes"]})
    return Table(
        name="coverage",
        caption=(
            f"Share of prompts that k samples solve (pass@k), and accuracy of their majority vote. {over_what(groups)}."
        ),
        rows=rows,
        runs=all_runs(groups),
        columns={
            **settings_columns(groups),
            "arm": "policy",
            **{f"pass@{k}": f"pass@{k}" for k in sizes},
            "majority": f"majority of {votes[0]}" if len(votes) == 1 else "majority",
        },
    )


def _pool(group: Group) -> tuple[object, ...]:
    """Equal where one Best-of-n curve is the other's beginning: n = 1, 2 and 4 hold the whole pool's scores."""
    points = [(metric, n) for metric in ("accuracy", "kl") for n in (1, 2, 4)]
    held = group.series("base", "best_of_n", "accuracy")
    return group.seeds, *(_bytes(group.per_prompt("base", "best_of_n", metric, n)) for metric, n in points if n in held)


def _values(group: Group, arm: str) -> tuple[object, ...]:
    return group.seeds, *(
        _bytes(group.per_prompt(arm, "pass", "accuracy", n)) for n in group.series(arm, "pass", "accuracy")
    )


def _bytes(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values, dtype=float).tobytes()


def _exact_bound(bound: Estimate) -> dict[str, float | None]:
    """Without an interval where all prompts have the same: the sampler is the raw base's own."""
    exact = bound.high - bound.low < 1e-9
    return spread("kl_bound", bound) | ({"kl_bound_low": None, "kl_bound_high": None} if exact else {})
