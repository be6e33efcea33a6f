"""What runs, sweeps and reports print: tables as aligned Markdown that fits a terminal, and the end of a sweep."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bench.records.read import Run, read_run
from bench.reporting.contrasts import contrast, recorded_primary
from bench.reporting.exhibits.comparison import policies
from bench.reporting.exhibits.imported import imported_table
from bench.reporting.groups import Group, distinctions, estimate, grouped, in_order
from bench.reporting.ranking import Ranked, rank
from bench.reporting.tables import markdown
from bench.sweeps.cells import Cell, state
from bench.sweeps.plan import described, outside_stages, savings, tally

KEPT = ("arm", "greedy", "sampled", "kl", "kl_unsolved", "kl_bound", "verdict")
ACCURACIES = {
    "tuned pass@1": ("tuned", "pass"),
    "control pass@1": ("control", "pass"),
    "tuned greedy": ("tuned", "greedy"),
    "control greedy": ("control", "greedy"),
}


def main_table(run: Run) -> str:
    """Base, fine-tuned policy, random control and Best-of-n at each n: accuracy and KL, with 95 % intervals.

    Best-of-1 is a row of its own where the run's sampler is not the raw base, which the policies are sampled like.
    """
    if not run.trained:
        return runs_table([run])
    table = policies(Group({}, (run,)))
    return markdown(replace(table, columns={key: table.columns[key] for key in KEPT}).texts)


def headline(run: Run) -> str:
    """One line: the tuned policy's accuracy and KL, and the effect of the selection."""
    difference, verdict = _selection_effect(run)
    against = f", {difference} over its random control ({verdict})" if difference else ""
    return (
        f"tuned pass@1 {run.series('tuned', 'pass', 'accuracy')[1]}{against}; "
        f"KL {Group({}, (run,)).mean('tuned', 'policy', 'kl', 1).value:.2f} nats"
    )


def runs_table(runs: Sequence[Run]) -> str:
    """One row per run, by what sets them apart: both arms' accuracy and the paired selection effect.

    Runs that differ in nothing but the seed, and have a control, get a last row: their mean, with an interval for new
    seeds on new prompts.
    """
    if untrained := [group for group in grouped(runs) if not group.trained]:
        pools = imported_table(untrained)
        return markdown(pools.texts) if pools else ""
    runs = in_order(runs)
    apart = distinctions([run.config for run in runs])
    seeded = len({run.config["seed"] for run in runs}) > 1
    others = list(dict.fromkeys(name for run in runs for name in run.elsewhere))
    accuracies_of = ACCURACIES | {f"{name} pass@1": (name, "pass") for name in others}
    rows = [("run", *apart[0], *(["seed"] if seeded else []), *accuracies_of, "tuned - control", "tuned vs control")]
    for settings, run in zip(apart, runs, strict=True):
        accuracies = [str(run.series(arm, method, "accuracy").get(1, "")) for arm, method in accuracies_of.values()]
        seed = [str(run.config["seed"])] if seeded else []
        rows.append((run.folder.name, *settings.values(), *seed, *accuracies, *_selection_effect(run)))
    if seeded and not apart[0] and all(run.controlled for run in runs):
        scores = [np.stack([run.per_prompt(*cell, "accuracy", 1) for run in runs]) for cell in accuracies_of.values()]
        effect = contrast(scores[0], scores[1], "mean")  # of [S, M]
        means = [str(estimate(values, shares=True)) for values in scores]
        rows.append(("mean", f"all {len(runs)}", *means, str(effect.difference), effect.verdict))
    return markdown(rows)


def ranking_table(ranked: Sequence[Ranked]) -> str:
    """One row per method, best first, against its control and against the first."""
    compared = ("tuned - control", "tuned vs control", "first - this row", "first vs this row", "KL (nats)")
    rows: list[tuple[str, ...]] = [("method", "seeds", "tuned pass@1", "control pass@1", *compared)]
    rows += [
        (
            method.name,
            str(method.seeds),
            str(method.tuned),
            str(method.control or ""),
            str(method.effect.difference if method.effect else ""),
            method.effect_verdict,
            str(method.ahead.difference if method.ahead else ""),
            method.ahead_verdict,
            f"{method.kl.value:.2f}",
        )
        for method in ranked
    ]
    return markdown(rows)


def conclusion(cells: Sequence[Cell]) -> str:
    """The table of finished cells, what failed and why, and what sharing saved."""
    states = {cell.label: state(cell) for cell in cells}
    done = [cell for cell in cells if states[cell.label].kind == "done"]
    lines = ["", tally([found.kind for found in states.values()])]
    lines += [f"  {label}: {described(found)}" for label, found in states.items() if found.kind != "done"]
    if done:
        runs = {cell.label: read_run(cell.folder) for cell in done}
        by_method = _by_method(runs)
        table = ranking_table(rank(by_method)) if by_method else runs_table(list(runs.values()))
        lines += ["", table, "", *savings(done), outside_stages(done)]
    return "\n".join(lines)


def _by_method(runs: dict[str, Run]) -> dict[str, Group]:
    """Runs by what sets them apart beside the seed; empty unless several methods have the same several seeds."""
    methods: dict[str, list[Run]] = {}
    for label, run in sorted(runs.items(), key=lambda entry: entry[1].config["seed"]):
        name = " ".join(part for part in label.split() if not part.startswith("seed="))
        methods.setdefault(name, []).append(run)
    groups = {name: Group({}, tuple(found)) for name, found in methods.items()}
    seeds = {group.seeds for group in groups.values()}
    comparable = len(groups) > 1 and len(seeds) == 1 and len(next(iter(seeds))) > 1
    return groups if comparable else {}


def _selection_effect(run: Run) -> tuple[str, str]:
    """Tuned less control with its interval, and the verdict on it."""
    if not run.controlled:
        return "", "no control"
    difference, verdict = recorded_primary(run)
    return str(difference), verdict
