"""What an imported pool gives at every n: pass@n, votes, and Best-of-n by each reward that came along."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bench.records.read import Estimate
from bench.reporting import tables
from bench.reporting.exhibit import Table, shows
from bench.reporting.groups import Group
from bench.reporting.words import function_name

NAMES = {"pass": "pass@n", "pass_hat": "pass^n", "majority": "majority", "judged_pass": "pass@n, judged again"}


@shows("tables", 6)
def imported_table(groups: Sequence[Group]) -> Table | None:
    """One row per pool and n; None without an imported pool."""
    pools = [group for group in groups if not group.trained]
    columns = [tables.Column("pool", "pool", lambda row: row[0].runs[0].folder.name)] * (len(pools) > 1)
    columns.append(tables.Column("n", "n", lambda row: row[1]))
    columns += [
        tables.interval("_".join(curve), heading, lambda row, curve=curve: row[0].series(*curve).get(row[1]))  # type: ignore[misc]
        for curve, heading in dict.fromkeys(curve for pool in pools for curve in _curves(pool))
    ]
    rows = [(pool, n) for pool in pools for n in _sizes(pool)]
    caption = (
        "Accuracy at every n of the completions that were imported: one of n is right (pass@n), all of n are (pass^n), "
        "the most frequent answer (majority), the answer with the largest sum of rewards (weighted majority; of "
        "exp(reward), where some rewards are negative), and the completion with the highest reward (Best-of-n). KL "
        "is of Best-of-n from the sampler that drew the pool, in nats per sequence: measured, ties included; the "
        "bound is log n - (n - 1)/n. 95 % intervals for new prompts."
    )
    return tables.table("imported", caption, rows, columns, tables.all_runs(pools))


@shows("sentences", 1)
def imported_sentences(groups: Sequence[Group]) -> list[str]:
    return [sentence for group in groups if not group.trained for sentence in _of_pool(group)]


def accuracies(groups: Sequence[Group]) -> Iterator[tuple[dict[str, str], Mapping[int, Estimate]]]:
    """The curves of accuracy over n of every imported pool, each with the labels of its rows in a figure."""
    pools = [group for group in groups if not group.trained]
    for pool in pools:
        of_pool = f"{pool.runs[0].folder.name}: " if len(pools) > 1 else ""
        for curve, heading in _curves(pool):
            if curve[2] == "accuracy":
                yield {"of": "imported", "name": of_pool + heading}, pool.series(*curve)


def _of_pool(group: Group) -> Iterator[str]:
    run, n = group.runs[0], max(_sizes(group))
    parts, kept, prompts = [], 0, run.metrics["test/prompts"]
    for (policy, method, metric), name in _curves(group):
        at = group.series(policy, method, metric)
        if metric == "accuracy" and n in at:
            parts.append(f"{name.replace('@n', f'@{n}').replace('-of-n', f'-of-{n}')} {at[n]}")
            kept = max(kept, int(np.isfinite(run.per_prompt(policy, method, metric, n)).sum()))
    if parts:
        of = f"{kept} of {prompts}" if kept < prompts else prompts
        yield f"The imported pool {run.folder.name} ({of} prompts): {', '.join(parts)}."
    if (agreement := run.metrics.get("import/judged_agreement")) is not None:
        yield f"Its labels and the task's verifier agree on {agreement:.1%} of its completions."


def _sizes(group: Group) -> list[int]:
    return sorted({curve[3] for curve in group.runs[0].curves})


def _curves(group: Group) -> Iterator[tuple[tuple[str, str, str], str]]:
    """(policy, method, metric) of the columns, with their headings."""
    first = function_name(group.runs[0].config["scoring"])
    for policy, method, metric in dict.fromkeys(curve[:3] for curve in group.runs[0].curves):
        kind, _, reward = method.partition("@")
        name = reward or first
        headings = NAMES | {"weighted_majority": f"majority weighted by {name}"}
        of_best = {"accuracy": f"Best-of-n by {name}", "kl": f"KL by {name}", "kl_bound": "" if reward else "KL, bound"}
        if heading := (of_best.get(metric) if kind == "best_of_n" else headings.get(kind)):
            yield (policy, method, metric), heading
