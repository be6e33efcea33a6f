"""What each way of sampling training prompts drew, covered and came to; and the sentences that compare them."""

import re
from collections.abc import Sequence

from bench.reporting.contrasts import contrast, judged
from bench.reporting.exhibit import Table
from bench.reporting.groups import Group
from bench.reporting.ranking import shared_seeds
from bench.reporting.tables.shared import all_runs, over_what, settings_cells, settings_columns, spread
from bench.reporting.ways import in_order, named

TOTAL = "adaptive/samples_total"
COUNTED = {
    "samples_total": "samples",
    "samples_a_prompt": "a prompt",
    "samples_saved": "saved",
    "coverage": "coverage",
    "accepted": "accepted",
}


def adaptive_table(groups: Sequence[Group]) -> Table | None:
    """A row a configuration of bench.adaptive; None where every run had another procedure."""
    groups = those_adaptive(groups)
    if not groups:
        return None
    rows = [
        {
            **settings_cells(group),
            **{name: _mean(group, f"adaptive/{name}") for name in COUNTED},
            "pass": _mean(group, "adaptive/pass@1"),
            **spread("tuned", group.mean("tuned", "pass", "accuracy", 1)),
            **spread("kl", group.mean("tuned", "policy", "kl", 1)),
            "seeds": len(group.runs),
        }
        for group in in_order(groups)
    ]
    return Table(
        name="adaptive",
        caption=(
            "Samples drawn of training prompts, fewer than N of each (saved), the share of prompts with an accepted "
            "one (coverage), the rate of acceptance estimated without bias by the stopping, and the policy fine-tuned "
            f"on accepted completions. {over_what(groups)}; counts are means over seeds."
        ),
        rows=rows,
        runs=all_runs(groups),
        columns={
            **settings_columns(groups),
            **COUNTED,
            "pass": "rate of acceptance",
            "tuned": "tuned pass@1",
            "kl": "KL",
            "seeds": "seeds",
        },
    )


def of_adaptive(groups: Sequence[Group]) -> list[str]:
    """Each way of sampling against N samples of every prompt at the same N: samples, coverage, and accuracy.

    Paired by seed and prompt; the verdicts are adjusted for their number (Holm 1979).
    """
    groups = those_adaptive(groups)
    pairs = {}
    for group in groups:
        if not _uniform(group):
            alike = [one for one in groups if _uniform(one) and _beside_the_plan(one) == _beside_the_plan(group)]
            if len(alike) == 1 and all(shared_seeds({"ours": group.runs, "theirs": alike[0].runs})[0].values()):
                pairs[named(group)] = (group, alike[0])
    found = {}
    for name, both in pairs.items():
        runs, _ = shared_seeds({str(i): one.runs for i, one in enumerate(both)})
        ours, theirs = (Group({}, tuple(runs[str(i)])).per_prompt("tuned", "pass", "accuracy", 1) for i in range(2))
        found[name] = contrast(ours, theirs, f"adaptive {name}")
    lines = []
    for name, one in judged(found).items():
        group, uniform = pairs[name]
        samples, others = (_mean(each, TOTAL) for each in (group, uniform))
        covered, of_theirs = (_mean(each, "adaptive/coverage") for each in (group, uniform))
        verdict = (
            f"not resolved{one.adjustment} from ({one.difference}; {one.power})"
            if one.verdict == "not resolved"
            else f"{one.verdict} than ({one.difference})"
        )
        lines.append(
            f"Sampling with {name} draws {samples:,.0f} samples where {group.runs[0].config['num_completions']} of "
            f"every prompt are {others:,.0f}, and covers {covered:.0%} of the prompts where those cover "
            f"{of_theirs:.0%}; the fine-tuned policy is {verdict} theirs in sampled accuracy."
        )
    return lines


def those_adaptive(groups: Sequence[Group]) -> list[Group]:
    """The groups whose training prompts were sampled by bench.adaptive."""
    return [group for group in groups if all(TOTAL in run.metrics for run in group.runs)]


def _uniform(group: Group) -> bool:
    procedure = group.runs[0].config["procedure"]
    return procedure["stop"] == "none" and procedure["allocate"] == "uniform"


def _beside_the_plan(group: Group) -> str:
    """All settings but how training prompts are sampled, up to N."""
    apart = {name: value for name, value in group.settings.items() if not re.match(r"procedure(\.|$)", name)}
    return str(sorted(apart.items()))


def _mean(group: Group, name: str) -> float:
    return sum(float(run.metrics[name]) for run in group.runs) / len(group.runs)
