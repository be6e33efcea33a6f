"""The table of hybrids of demonstrations and samples: what each gate gained, and at how many samples."""

from collections.abc import Sequence

import numpy as np

from bench.reporting.exhibit import Table
from bench.reporting.groups import Group
from bench.reporting.hybrids import Point, against_random, against_rft, points
from bench.reporting.tables.shared import over_what, spread

COUNTED = {
    "samples_per_prompt": "samples a prompt",
    "generated_tokens": "generated tokens",
    "data_flops": "FLOPs for the data",
    "demonstrations_used": "demonstrations",
    "prompts_from_samples": "from samples",
}


def hybrid_table(groups: Sequence[Group]) -> Table | None:
    """A row a gate and share; None where no run is a hybrid."""
    found = points(groups)
    if not found:
        return None
    compared, beside_rft = against_random(found), against_rft(found)
    k = min(max(run.series("tuned", "pass", "accuracy")) for one in found for run in one.group.runs)
    rows = []
    for one in found:
        beside, rft = compared.get(one.label), beside_rft.get(one.label)
        rows.append(
            {
                "gate": one.name,
                "easy_share": one.share,
                **{name: _mean(one, name) for name in COUNTED},
                **spread("pass", one.group.mean("tuned", "pass", "accuracy", 1)),
                **spread("greedy", one.group.mean("tuned", "greedy", "accuracy", 1)),
                **spread("solved", one.group.mean("tuned", "pass", "accuracy", k)),
                **spread("kl", one.group.mean("tuned", "policy", "kl", 1)),
                **spread("gain", beside.difference if beside else None),
                "p_gain": beside.p_value if beside else None,
                "verdict": beside.verdict if beside else None,
                **spread("gain_rft", rft.difference if rft else None),
                "p_gain_rft": rft.p_value if rft else None,
                "verdict_rft": rft.verdict if rft else None,
                "seeds": len(one.group.runs),
            }
        )
    return Table(
        name="hybrid",
        caption=(
            f"Hybrids of demonstrations and samples. {over_what([one.group for one in found])}. Samples, tokens and "
            "FLOPs are what the training set took, means over seeds; FLOPs include the probe. The gain is in pass@1 "
            "over the random gate, and over full RFT, at as many samples (interpolated where none has cost just as "
            "many), its p-value adjusted for the number of gates. KL is from the base, in nats a sequence."
        ),
        rows=rows,
        runs=[run for one in found for run in one.group.runs],
        columns={
            "gate": "gate",
            "easy_share": "easy share",
            **COUNTED,
            "pass": "pass@1",
            "greedy": "greedy",
            "solved": f"pass@{k}",
            "kl": "KL",
            "gain": "gain over random",
            "p_gain": "p",
            "verdict": "is",
            "gain_rft": "gain over full RFT",
            "p_gain_rft": "p",
            "verdict_rft": "is",
        },
    )


def _mean(one: Point, name: str) -> float:
    return float(np.mean([run.metrics[f"hybrid/{name}"] for run in one.group.runs]))
